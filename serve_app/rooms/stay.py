"""One stay in a room: entered within a time, ended once, and left whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from serve_app.clock import Clock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.rooms.base import OnRoomState
from serve_app.rooms.presence import End, Presence

logger = logging.getLogger("serve_app.rooms")

LEFT_MEANWHILE = "expected to join the room, got told to leave it meanwhile"


class Stay:
    """What is the same whatever the room's SDK.

    Args:
        platform: the room's, for people.
        clock: the session clock.
        on_state: is told what becomes of the avatar's place.
        release: leaves and gives back whatever was reached; may be called more than once.
        config: how long to wait for others.
        join_s: seconds that entering may take.

    Attributes:
        presence: what was told, and who else is there.
    """

    def __init__(
        self,
        platform: str,
        clock: Clock,
        on_state: OnRoomState,
        release: Callable[[], Coroutine[Any, Any, None]],
        config: RoomsConfig,
        *,
        join_s: float,
    ) -> None:
        self.presence = Presence(clock, on_state, self._leave_soon, config)
        self._platform = platform
        self._release = release
        self._join_s = join_s
        self._broken: str | None = None
        self._joining: asyncio.Timeout | None = None
        self._leaving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def entering(self) -> AsyncIterator[None]:
        """Enter and publish within; what fails there is released.

        Raises:
            RoomFailed: it took too long, the room was lost, or the avatar was told to leave.
        """
        if self._leaving is not None:
            raise RoomFailed(LEFT_MEANWHILE)
        self.presence.joining()
        is_in = False
        try:
            async with asyncio.timeout(self._join_s) as self._joining:
                yield
            if self._broken is not None:
                raise RoomFailed(self._broken)
            is_in = True
        except TimeoutError:
            late = f"expected an answer of the {self._platform} room within {self._join_s:.0f} s, got none"
            raise RoomFailed(late if self._leaving is None else LEFT_MEANWHILE) from None
        finally:
            self._joining = None
            if not is_in:
                self.presence.close()
                await self._release()

    async def run(self, work: Awaitable[object]) -> None:
        """Run what should never end; when it fails, the avatar has no business in the room."""
        try:
            await work
        except Exception:
            # Whatever an SDK raises is this room's trouble alone.
            logger.exception("a %s room failed", self._platform)
            self.end("failed", "the room's client failed; the server's log says more")

    def end(self, how: End, sentence: str) -> None:
        """The room is no longer there for the avatar: leave it, or fail the join."""
        if self.presence.state == "joined":
            self.presence.end(how, sentence)
            self._leave_soon()
        elif self.presence.state == "joining":
            self._broken = sentence

    async def leave(self) -> None:
        """Leave; safe to call more than once."""
        self.presence.end("left", "the avatar left the room")
        await asyncio.shield(self._leave_soon())

    def _leave_soon(self) -> asyncio.Task[None]:
        if self._leaving is None:
            if self._joining is not None and not self._joining.expired():
                self._joining.reschedule(asyncio.get_running_loop().time())
            self._leaving = asyncio.create_task(self._release())
        return self._leaving
