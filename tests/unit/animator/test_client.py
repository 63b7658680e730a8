"""Calls to a session host outlast a broken connection, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from serve_app.animator.client import again
from serve_app.errors import HostLost, SessionNotFound

pytestmark = pytest.mark.unit


def calls(*outcomes: int | Exception) -> tuple[Callable[[], Awaitable[int]], list[int]]:
    """Return a call that has these outcomes one after the other, and the number of times it was made."""
    made: list[int] = []

    async def outcome() -> int:
        result = outcomes[len(made) - 1]
        if isinstance(result, Exception):
            raise result
        return result

    def make() -> Awaitable[int]:
        made.append(len(made))
        return outcome()

    return make, made


def broken() -> ActorUnavailableError:
    return ActorUnavailableError("connection reset", None)


async def test_a_call_is_made_again_until_it_is_answered() -> None:
    make, made = calls(broken(), broken(), 7)
    assert await again(make) == 7
    assert len(made) == 3


async def test_the_first_call_is_on_its_way_before_anybody_waits() -> None:
    make, made = calls(7)
    answer = again(make)
    assert len(made) == 1
    assert await answer == 7


async def test_a_dead_host_is_told_at_once() -> None:
    make, made = calls(broken(), ActorDiedError())
    with pytest.raises(HostLost):
        await again(make)
    assert len(made) == 2


async def test_what_the_host_raised_is_raised() -> None:
    error = RayTaskError("answer", "", SessionNotFound("gone"))
    make, made = calls(error)
    with pytest.raises(SessionNotFound, match="gone"):
        await asyncio.wait_for(again(make), 5)
    assert len(made) == 1
