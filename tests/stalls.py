"""For how long the test's own event loop stood still: what reaches a client there came earlier."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

BEAT_S = 0.005


class OwnStalls:
    """How late the event loop of the test itself ran: clients that share it stall together."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    async def measure(self) -> None:
        """Measure until cancelled."""
        while True:
            due_s = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            now_s = time.monotonic()
            if now_s - due_s > BEAT_S:
                self._late.append((due_s, now_s))

    def within(self, begin_s: float, end_s: float) -> float:
        """Return for how long the loop stood still between two moments."""
        return sum(max(0.0, min(end_s, b) - max(begin_s, a)) for a, b in self._late)


@contextlib.asynccontextmanager
async def own_stalls() -> AsyncIterator[OwnStalls]:
    """Measure the test's own stalls while the block runs."""
    stalls = OwnStalls()
    task = asyncio.create_task(stalls.measure())
    try:
        yield stalls
    finally:
        task.cancel()
        await asyncio.wait([task])
