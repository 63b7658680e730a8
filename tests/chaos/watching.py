"""What a fault did to those who watch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator

from tests.integration.listener import Listener

BEAT_S = 0.005

VIDEO_HZ = 90_000
"""The clock of picture timestamps (RFC 6184)."""


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


def worst_gap_s(listener: Listener, since_s: float, stalls: OwnStalls, until_s: float = math.inf) -> float:
    """Return the longest time between two pictures of a while, without the test's own stalls in it."""
    arrived = [picture.arrived_s for picture in listener.pictures if since_s <= picture.arrived_s <= until_s]
    return max(b - a - stalls.within(a, b) for a, b in itertools.pairwise(arrived))


def lips_still_s(listener: Listener) -> float:
    """Return the longest time without a new speaking picture, between the first and the last one."""
    shown: dict[int, int] = {}
    for picture in listener.pictures:
        if picture.index is not None:
            shown.setdefault(picture.index, picture.timestamp)
    return max(b - a for a, b in itertools.pairwise(sorted(shown.values()))) / VIDEO_HZ
