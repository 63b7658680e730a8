"""Calls taken in the order in which their callers numbered them.

Ray starts the calls of an asynchronous actor in any order (`allow_out_of_order_execution`); most come as they
were made, but not those that waited while the actor's process stood still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator

from serve_app.clock import Clock

logger = logging.getLogger("serve_app.host")

PATIENCE_S = 2.0
"""A call that has not come by then was lost on the way."""

MAX_CALLERS = 256
"""Callers that are remembered, those that called last; a gateway is one."""


class CallOrder:
    """One actor's callers and where they are.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: OrderedDict[str, int] = OrderedDict()
        self._waiting: defaultdict[str, dict[int, asyncio.Future[None]]] = defaultdict(dict)

    @contextlib.asynccontextmanager
    async def turn(self, caller: str, number: int) -> AsyncIterator[None]:
        """Enter when all calls with lower numbers have left, or did not come for PATIENCE_S.

        Args:
            caller: a name of its own.
            number: from 0 on, one for each call. A call that was given up enters at once.
        """
        if number > self._due.get(caller, 0):
            await self._wait(caller, number)
        try:
            yield
        finally:
            due = self._due[caller] = max(self._due.get(caller, 0), number + 1)
            self._due.move_to_end(caller)
            if len(self._due) > MAX_CALLERS:
                self._due.popitem(last=False)
            if (following := self._waiting[caller].get(due)) and not following.done():
                following.set_result(None)
            if not self._waiting[caller]:
                del self._waiting[caller]

    async def _wait(self, caller: str, number: int) -> None:
        waiting = self._waiting[caller]
        turn = waiting[number] = asyncio.get_running_loop().create_future()
        try:
            while not await self._came(turn):
                lowest = min(waiting)
                logger.warning("calls before number %d of a gateway did not come", lowest)
                if not waiting[lowest].done():
                    waiting[lowest].set_result(None)
        finally:
            del waiting[number]

    async def _came(self, turn: asyncio.Future[None]) -> bool:
        """Return whether a turn came within PATIENCE_S."""
        patience = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_s() + PATIENCE_S))
        try:
            await asyncio.wait({turn, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        return turn.done()
