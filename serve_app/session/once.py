"""Calls that may be made twice and take effect once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")

KEPT = 1024
"""Calls whose results are at hand: a call is made again a second after it was made first, and a host of 64
sessions that all come back at once takes some 400 in it."""


class Once:
    """One actor's calls by the names that their callers gave them."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()

    async def run(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, or wait for what the first call of this name does; return its result, raise its error.

        Args:
            name: as no other call has it.
            work: what the call is for; it goes on when the caller is cancelled.
        """
        call = self._calls.get(name)
        if call is None:
            call = self._calls[name] = asyncio.ensure_future(work())
            call.add_done_callback(_look_at)
            if len(self._calls) > KEPT:
                self._calls.popitem(last=False)
        return cast("T", await asyncio.shield(call))


def _look_at(call: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting an error whose caller is gone."""
    if not call.cancelled():
        call.exception()
