"""Threads that encode, and what the work took."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class MeasuredExecutor(ThreadPoolExecutor):
    """A pool of threads that tells of each finished job how long it waited and ran.

    Args:
        threads: how many jobs run at once.
        on_done: takes seconds waited and seconds run; called on the job's thread.
    """

    def __init__(self, threads: int, on_done: Callable[[float, float], None]) -> None:
        super().__init__(threads, thread_name_prefix="encode")
        self._on_done = on_done

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn` on a thread; a job that raises is measured as well."""
        asked_s = time.perf_counter()

        def measured() -> T:
            began_s = time.perf_counter()
            try:
                return fn(*args, **kwargs)
            finally:
                self._on_done(began_s - asked_s, time.perf_counter() - began_s)

        return super().submit(measured)
