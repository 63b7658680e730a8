"""An event loop whose clock jumps to the next timer: a minute takes milliseconds and never varies."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: the time a caller would have waited is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing is scheduled: the scenario would wait for ever")
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class VirtualClock:
    """The Clock of a VirtualLoop."""

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, when_s: float) -> None:
        await asyncio.sleep(max(0.0, when_s - self.now_s()))


def run_virtual(scenario: Callable[[VirtualClock], Awaitable[Any]]) -> None:
    """Run a scenario to its end in virtual time and cancel what it left running."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(_run(scenario))
    finally:
        loop.close()


async def _run(scenario: Callable[[VirtualClock], Awaitable[Any]]) -> None:
    await scenario(VirtualClock())
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
