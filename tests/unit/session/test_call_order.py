"""Calls are taken in the order of their numbers, however they arrive, and none waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from serve_app.session.call_order import MAX_CALLERS, PATIENCE_S, CallOrder
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

Taken = list[tuple[str, int]]


async def call(order: CallOrder, taken: Taken, caller: str, number: int) -> None:
    async with order.turn(caller, number):
        taken.append((caller, number))


async def arriving(order: CallOrder, calls: Sequence[tuple[str, int]]) -> Taken:
    taken: Taken = []
    await asyncio.gather(*(call(order, taken, caller, number) for caller, number in calls))
    return taken


@pytest.mark.parametrize("seed", range(5))
def test_calls_are_taken_in_order(seed: int) -> None:
    calls = [("a", number) for number in range(20)] + [("b", number) for number in range(20)]
    random.Random(seed).shuffle(calls)

    async def scenario(clock: VirtualClock) -> None:
        taken = await arriving(CallOrder(clock), calls)
        assert [number for caller, number in taken if caller == "a"] == list(range(20))
        assert [number for caller, number in taken if caller == "b"] == list(range(20))
        assert clock.now_s() == 0.0

    run_virtual(scenario)


def test_one_caller_does_not_wait_for_another() -> None:
    async def scenario(clock: VirtualClock) -> None:
        order, taken = CallOrder(clock), Taken()
        early = asyncio.create_task(call(order, taken, "a", 1))
        await call(order, taken, "b", 0)
        assert taken == [("b", 0)]
        await call(order, taken, "a", 0)
        await early
        assert taken == [("b", 0), ("a", 0), ("a", 1)]

    run_virtual(scenario)


def test_a_lost_call_holds_up_the_others_for_a_while_only() -> None:
    async def scenario(clock: VirtualClock) -> None:
        order = CallOrder(clock)
        assert await arriving(order, [("a", 0), ("a", 3), ("a", 2)]) == [("a", 0), ("a", 2), ("a", 3)]
        assert clock.now_s() == pytest.approx(PATIENCE_S)
        assert await arriving(order, [("a", 4), ("a", 1)]) == [("a", 4), ("a", 1)]
        assert await arriving(order, [("a", 5)]) == [("a", 5)]
        assert clock.now_s() == pytest.approx(PATIENCE_S)

    run_virtual(scenario)


def test_a_call_that_fails_or_is_cancelled_lets_the_next_one_in() -> None:
    async def scenario(clock: VirtualClock) -> None:
        order, taken = CallOrder(clock), Taken()

        async def failing() -> None:
            async with order.turn("a", 0):
                raise LookupError

        waiting = [asyncio.create_task(call(order, taken, "a", number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        with pytest.raises(LookupError):
            await failing()
        await asyncio.wait(waiting)
        assert taken == [("a", 1), ("a", 3)]

    run_virtual(scenario)


def test_few_callers_are_remembered() -> None:
    async def scenario(clock: VirtualClock) -> None:
        order, taken = CallOrder(clock), Taken()
        for number in range(3):
            await call(order, taken, "first", number)
        for stranger in range(MAX_CALLERS + 5):
            await call(order, taken, f"c{stranger}", 0)
        assert len(order._due) == MAX_CALLERS
        assert not order._waiting

    run_virtual(scenario)
