"""A call that is made again waits for the first, and its work is done once."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import SessionNotFound
from serve_app.session.once import KEPT, Once

pytestmark = pytest.mark.unit


class Work:
    """Counts how often it is done; takes until it is let go."""

    def __init__(self) -> None:
        self.times = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.times += 1
        await self.go.wait()
        return self.times


async def test_a_repeat_gets_the_result_of_the_first() -> None:
    once, work = Once(), Work()
    calls = [asyncio.create_task(once.run("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*calls) == [1, 1, 1]
    assert await once.run("a", work) == 1
    assert await once.run("b", work) == 2


async def test_a_repeat_gets_the_error_of_the_first() -> None:
    async def fail() -> None:
        raise SessionNotFound("gone")

    once = Once()
    for _ in range(2):
        with pytest.raises(SessionNotFound, match="gone"):
            await once.run("a", fail)


async def test_work_goes_on_when_its_first_caller_is_gone() -> None:
    once, work = Once(), Work()
    first = asyncio.create_task(once.run("a", work))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    work.go.set()
    assert await once.run("a", work) == 1


async def test_results_are_kept_for_the_last_calls() -> None:
    once, work = Once(), Work()
    work.go.set()
    for number in range(KEPT + 1):
        await once.run(str(number), work)
    assert await once.run(str(KEPT), work) == KEPT + 1
    assert await once.run("0", work) == KEPT + 2
