"""One session's time in a room: what is told of it, and when nobody is left to see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from serve_app.clock import Clock
from serve_app.config import RoomsConfig
from serve_app.rooms.base import OnRoomState, RoomState

End = Literal["empty", "left", "failed"]


class Presence:
    """Tells each state once and in order; nothing after an end.

    Args:
        clock: the session clock.
        on_state: is told.
        on_empty: leaves the room; called after "empty" was told.
        config: how long without others until the room counts as empty.

    Attributes:
        state: the last that was told, or None before joining.
        sentence: what was told about it.
    """

    def __init__(
        self,
        clock: Clock,
        on_state: OnRoomState,
        on_empty: Callable[[], object],
        config: RoomsConfig,
    ) -> None:
        self.state: RoomState | None = None
        self.sentence = ""
        self._clock = clock
        self._on_state = on_state
        self._on_empty = on_empty
        self._config = config
        self._others = 0
        self._had_others = False
        self._timer: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether an end was told."""
        return self.state in {"empty", "left", "failed"}

    def joining(self) -> None:
        """The room is being entered."""
        self._tell("joining", "the avatar is joining the room")

    def joined(self, others: int) -> None:
        """The avatar publishes; `others` participants are there already."""
        self._tell("joined", "the avatar has joined the room")
        self.count(others)

    def count(self, others: int) -> None:
        """So many other participants are in the room now."""
        self._others = others
        self._had_others = self._had_others or others > 0
        if self.state == "joined":
            self._watch()

    def end(self, how: End, sentence: str) -> None:
        """The time in the room is over; does nothing when it was before."""
        self._stop_timer()
        if not self.is_over:
            self._tell(how, sentence)

    def close(self) -> None:
        """Tell nothing any more."""
        self._stop_timer()
        self.state = self.state if self.is_over else "left"

    def _tell(self, state: RoomState, sentence: str) -> None:
        if not self.is_over:
            self.state, self.sentence = state, sentence
            self._on_state(state, sentence)

    def _watch(self) -> None:
        if self._others:
            self._stop_timer()
        elif self._timer is None:
            after_s = self._config.empty_after_s if self._had_others else self._config.absent_after_s
            self._timer = asyncio.create_task(self._wait(after_s))

    async def _wait(self, after_s: float) -> None:
        await self._clock.sleep_until(self._clock.now_s() + after_s)
        self._timer = None
        left = f"everybody else left the room {after_s:.0f} s ago"
        absent = f"nobody came into the room within {after_s:.0f} s"
        self.end("empty", left if self._had_others else absent)
        self._on_empty()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer is not asyncio.current_task():
            timer.cancel()
