"""Client events on their way to a conversation: in order, one call under way, the rest in the next."""

from __future__ import annotations

import asyncio
import logging

from serve_app.errors import AvatarError, SpeechOverrun
from serve_app.gateway.host_calls import HostCalls

logger = logging.getLogger("serve_app.gateway")

MAX_WAITING = 2_048
MAX_WAITING_BYTES = 48 * 1_048_576
"""Three of the largest sound events that clients may send."""

RETRY_AFTER_S = 0.5


class ConversationLane:
    """The way of one socket's events to its session's host.

    Args:
        session_id: whose conversation.
        host: the way to the session's host.
    """

    def __init__(self, session_id: str, host: HostCalls) -> None:
        self._session_id = session_id
        self._host = host
        self._waiting: list[dict[str, object]] = []
        self._waiting_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    def put(self, event: dict[str, object]) -> None:
        """Queue an event.

        Raises:
            SpeechOverrun: the host does not keep up; the event was not taken.
        """
        size = _weight(event)
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise SpeechOverrun(
                f"expected at most {MAX_WAITING} events or {MAX_WAITING_BYTES} bytes that wait, found more",
                RETRY_AFTER_S,
            )
        self._waiting.append(event)
        self._waiting_bytes += size
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            events, self._waiting, self._waiting_bytes = self._waiting, [], 0
            try:
                await self._host.do("converse", self._session_id, events)
            except AvatarError as error:
                # The reader of the session's events is told of its end; these have nobody to go to.
                logger.info(
                    "session %s: %d events were not delivered: %s", self._session_id, len(events), error
                )
                return


def _weight(event: dict[str, object]) -> int:
    """Return about how many bytes an event holds: sound is a string at its surface, pictures are below."""
    return sum(
        len(value) if isinstance(value, str) else len(str(value)) if isinstance(value, dict) else 16
        for value in event.values()
    )
