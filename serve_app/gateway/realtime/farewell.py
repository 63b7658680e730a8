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

    def close(self, link: SessionLink) -> asyncio.Task[None]:
        """End a session; the task never fails."""
        return self.take(f"session {link.session_id}", link.close())

    def detach(self, link: SessionLink) -> asyncio.Task[None]:
        """Leave a session, which goes on; the task never fails."""
        return self.take(f"session {link.session_id}", link.detach())

    def take(self, name: str, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Take any other step; `name` begins the log line of a failure. The task never fails."""
        task = asyncio.create_task(_taken(name, step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _taken(name: str, step: Coroutine[Any, Any, None]) -> None:
    try:
        await step
    except Exception:
        # Nobody waits for this: a session's lease ends it, and an ephemeral key expires.
        logger.exception("%s: a last step failed", name)
