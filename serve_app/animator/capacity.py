"""How many speaking sessions a replica carries: measured on its own device before it is ready."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve_app.errors import ModelOutOfMemory

SHARE = 0.8
"""Of what the device can make that sessions are promised; the rest is for those that begin together."""

FULL_SHARE = 0.95
"""From this share on no session is admitted; between SHARE and here another replica starts."""

DEADLINE_S = 0.2
"""Longest step that counts: larger batches make more frames, but too late."""

WINDOWS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that are measured, in windows."""

GAIN = 1.03
"""A size that makes less than so much more than the one before is the last to be measured."""

LOOK_BACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica can do.

    Attributes:
        frames_per_s: the most it made within DEADLINE_S a step; None where nothing was measured.
        sessions: speaking sessions it is meant for.
    """

    frames_per_s: float | None
    sessions: int


def measure(
    run: Callable[[int], None],
    *,
    fps: int,
    frames: int,
    windows: Sequence[int] = WINDOWS,
    now_s: Callable[[], float] = time.perf_counter,
) -> Capacity:
    """Time steps of growing size.

    Args:
        run: animates so many windows.
        fps: frames per second of a session.
        frames: in each window.
        windows: sizes to try, ascending.
        now_s: a clock.

    Returns:
        The capacity; of no sessions where not even one window fits the device's memory.
    """
    best = 0.0
    for size in windows:
        try:
            run(size)  # the first run of a size also pays for what is made once
            began_s = now_s()
            run(size)
            took_s = max(now_s() - began_s, 1e-9)
        except ModelOutOfMemory:
            break
        rate = size * frames / took_s
        grew = rate >= GAIN * best
        if best == 0.0 or took_s <= DEADLINE_S:
            best = max(best, rate)
        if took_s > DEADLINE_S or not grew:
            break
    if best == 0.0:
        return Capacity(0.0, 0)
    return Capacity(best, max(1, math.floor(SHARE * best / fps)))


class Load:
    """How much of what the device can make is asked for.

    Args:
        capacity: of the replica.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._made: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, frames: int) -> None:
        """Take account of frames that were asked for."""
        self._made.append((at_s, frames))
        while self._made and self._made[0][0] <= at_s - LOOK_BACK_S:
            self._made.popleft()

    def share(self, at_s: float) -> float:
        """Return the share that was asked for lately; 0 where nothing was measured."""
        if not self._capacity.frames_per_s:
            return 0.0
        asked = sum(frames for made_s, frames in self._made if made_s > at_s - LOOK_BACK_S)
        return asked / LOOK_BACK_S / self._capacity.frames_per_s
