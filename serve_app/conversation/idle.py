"""Calls back after a time in which nothing stopped it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.clock import Clock


class IdleTimer:
    """One timer.

    Args:
        clock: the time.
        fire: called when the time is over.
    """

    def __init__(self, clock: Clock, fire: Callable[[], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._task: asyncio.Task[None] | None = None

    def start(self, when_s: float) -> None:
        """Fire at `when_s` of the clock, and not at any time set before."""
        self.stop()
        self._task = asyncio.create_task(self._wait(when_s))

    def stop(self) -> None:
        """Do not fire."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _wait(self, when_s: float) -> None:
        await self._clock.sleep_until(when_s)
        self._task = None
        self._fire()
