"""Last steps when a request or socket has ended: done even where the task that served it was cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from serve_app.gateway.link import SessionLink

logger = logging.getLogger("serve_app.gateway")


class Farewells:
    """Takes last steps in tasks of their own, which a cancelled caller does not take along."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def let_go(self, link: SessionLink, *, for_good: bool) -> asyncio.Task[None]:
        """End a session, or leave one that goes on; the task never fails."""
        step = link.close() if for_good else link.detach()
        return self.take(step, f"session {link.session_id}: could not be let go")

    def take(self, step: Coroutine[Any, Any, None], failure: str) -> asyncio.Task[None]:
        """Take any other step; `failure` is logged of one that fails. The task never fails."""
        task = asyncio.create_task(_taken(step, failure))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _taken(step: Coroutine[Any, Any, None], failure: str) -> None:
    try:
        await step
    except Exception:
        # Nobody waits for this: a session's lease ends it, and an ephemeral key expires.
        logger.exception(failure)
