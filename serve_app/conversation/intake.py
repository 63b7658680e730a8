"""Lets long sound in slice by slice, and keeps what a client sends behind it in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from serve_app.conversation import faults, sound
from serve_app.nouns import Int16

SLICE_S = 1.0
"""Sound heard at once, a few milliseconds of work; more waits for other sessions' turns on the loop."""

MAX_EVENTS = 256
MAX_EVENT_CHARS = 2 * sound.MAX_APPEND_CHARS


class Intake:
    """The order of one client's events and sound.

    Args:
        handle: handles one event.
        listen: hears [S] int16 at a rate.
        spawn: runs a coroutine beside everything else.

    Attributes:
        waiting_s: seconds of sound not heard yet.
    """

    def __init__(
        self,
        handle: Callable[[object], None],
        listen: Callable[[Int16, int], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._handle = handle
        self._listen = listen
        self._spawn = spawn
        self._sound: deque[tuple[Int16, int]] = deque()
        self._events: deque[object] = deque()
        self._event_chars = 0
        self._is_draining = False
        self.waiting_s = 0.0

    def event(self, event: object) -> None:
        """Handle an event, now or, when sound waits before it, after that.

        Raises:
            RealtimeFault: too many events wait.
        """
        if not self._is_draining:
            self._handle(event)
            return
        audio = event.get("audio") if isinstance(event, dict) else None
        chars = len(audio) if isinstance(audio, str) else 0
        if len(self._events) >= MAX_EVENTS or self._event_chars + chars > MAX_EVENT_CHARS:
            text = (
                f"Expected at most {MAX_EVENTS} events and {MAX_EVENT_CHARS} characters of sound while "
                "earlier sound is being heard; this event was dropped."
            )
            raise faults.invalid("rate_limit_exceeded", text)
        self._event_chars += chars
        self._events.append(event)

    def sound(self, samples: Int16, hz: int) -> None:
        """Hear [S] int16 at `hz`: at once, or the later part of it in turns with others."""
        length = round(SLICE_S * hz)
        if len(samples) <= length and not self._sound:
            self._listen(samples, hz)
            return
        self._sound.extend((samples[start : start + length], hz) for start in range(0, len(samples), length))
        self.waiting_s += len(samples) / hz
        if not self._is_draining:
            self._is_draining = True
            self._spawn(self._drain())

    async def _drain(self) -> None:
        try:
            while self._sound or self._events:
                if self._sound:
                    samples, hz = self._sound.popleft()
                    self.waiting_s -= len(samples) / hz
                    self._listen(samples, hz)
                else:
                    self._handle(self._events.popleft())
                await asyncio.sleep(0)
        finally:
            self.waiting_s = 0.0
            self._event_chars = 0
            self._is_draining = False
