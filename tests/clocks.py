"""Clocks that pass no time by themselves."""

from __future__ import annotations

import asyncio


class SetClock:
    """Stands still until a test moves it or something sleeps on it."""

    def __init__(self, s: float = 1000.0) -> None:
        self.s = s

    def now_s(self) -> float:
        return self.s

    async def sleep_until(self, when_s: float) -> None:
        await asyncio.sleep(0)
        self.s = max(self.s, when_s)


class SleeplessClock(SetClock):
    """Stands still until a test moves it; nothing may wait for it."""

    async def sleep_until(self, when_s: float) -> None:
        raise AssertionError(f"slept until {when_s}")
