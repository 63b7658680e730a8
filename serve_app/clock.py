"""Clocks: what the rest of the code asks for the time, so that tests can own it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock that can also wait."""

    def now_s(self) -> float:
        """Return seconds since an arbitrary fixed moment; never goes back."""
        ...

    async def sleep_until(self, when_s: float) -> None:
        """Return at `when_s`, or at the next turn of the loop when that has passed."""
        ...


class MonotonicClock:
    """The machine's monotonic clock; steps of the wall clock do not touch it."""

    def now_s(self) -> float:
        """Return seconds since an arbitrary fixed moment."""
        return time.monotonic()

    async def sleep_until(self, when_s: float) -> None:
        """Sleep on the running event loop until `when_s`."""
        await asyncio.sleep(max(0.0, when_s - time.monotonic()))
