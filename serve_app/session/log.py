"""A session's events, numbered, so that a socket that comes back misses none."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from serve_app.errors import EventsLost
from serve_app.session.events import SessionEvent

KEPT_EVENTS = 256

KEPT_CONVERSATION_EVENTS = 4096
"""A conversation that is heard over a socket makes an event for each piece of its speech."""


class EventLog:
    """Keeps the last events and lets readers wait for the next.

    Args:
        kept: how many events wait for a reader that is behind.
    """

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._events: deque[tuple[int, SessionEvent]] = deque(maxlen=kept)
        self._next = 0
        self._taken = 0
        self._news = asyncio.Event()

    @property
    def next_untold(self) -> int:
        """The number of the first event that no reader has shown to have by asking for one after it."""
        return self._taken

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._next

    def append(self, event: SessionEvent) -> None:
        """Add an event and wake the readers."""
        self._events.append((self._next, event))
        self._next += 1
        self.wake()

    def wake(self) -> None:
        """Let waiting readers return, with or without an event."""
        self._news.set()
        self._news = asyncio.Event()

    async def read(
        self, start: int, timeout_s: float, *, counts: bool = True
    ) -> tuple[int, list[SessionEvent]]:
        """Return events from number `start` on, waiting for one; and the number to ask for next.

        Args:
            start: number of the first event wanted.
            timeout_s: longest wait for one.
            counts: whether having read them is remembered for a reader that takes over.

        Raises:
            EventsLost: the reader is so far behind that events it asks for are no longer kept.
        """
        if counts:
            self._taken = max(self._taken, start)
        if start >= self._next:
            news = self._news
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), timeout_s)
        if self._events and start < self._events[0][0]:
            raise EventsLost(f"expected a reader less than {self._events.maxlen} events behind, found one")
        return self._next, [event for number, event in self._events if number >= start]
