"""What encoding costs a host: measured, because it is what a host runs out of first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

LOOK_BACK_S = 5.0

LEAST_PICTURES = 30
"""From so many on their mean says what a picture costs."""


@dataclass(frozen=True, slots=True)
class EncodeLoad:
    """How busy a host's encoder threads are.

    Attributes:
        share: of their time that pictures took lately, from 0 to 1.
        session_share: that one speaking session takes; 0 while too few pictures have told.
    """

    share: float = 0.0
    session_share: float = 0.0


class EncodeMeter:
    """Measures the processor time of encoded pictures: what they cost, however busy others keep the machine.

    Args:
        threads: that encode.
        fps: pictures of a speaking session in a second.
        now_s: monotonic time.
        thread_s: processor time of the thread that asks.
    """

    def __init__(
        self,
        threads: int,
        fps: int,
        now_s: Callable[[], float] = time.monotonic,
        thread_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._threads = threads
        self._fps = fps
        self._now_s = now_s
        self._thread_s = thread_s
        self._spent: deque[tuple[float, float]] = deque()
        self._mean_s: float | None = None
        self._own = threading.local()
        self._lock = threading.Lock()

    def encoded(self) -> None:
        """Take account of a picture; called on the thread that encoded it, which does nothing else."""
        until_s = self._thread_s()
        took_s, self._own.until_s = until_s - getattr(self._own, "until_s", 0.0), until_s
        with self._lock:
            self._spent.append((self._now_s(), took_s))
            self._forget()

    def load(self) -> EncodeLoad:
        """Return what was measured lately."""
        with self._lock:
            self._forget()
            spent_s = sum(took_s for _, took_s in self._spent)
            if len(self._spent) >= LEAST_PICTURES:
                self._mean_s = spent_s / len(self._spent)
        session_s = 0.0 if self._mean_s is None else self._mean_s * self._fps
        return EncodeLoad(spent_s / LOOK_BACK_S / self._threads, session_s / self._threads)

    def _forget(self) -> None:
        horizon_s = self._now_s() - LOOK_BACK_S
        while self._spent and self._spent[0][0] <= horizon_s:
            self._spent.popleft()
