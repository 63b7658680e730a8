"""A conversation held over a session's peer: its microphone and data channel here, the engine there."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from serve_app.conversation import faults
from serve_app.conversation.engine import Conversation
from serve_app.errors import ClientError
from serve_app.nouns import Int16
from serve_app.rtc.peer import Peer
from serve_app.session.events import ConversationEvent, SessionEvent

logger = logging.getLogger("serve_app.session")


class Call:
    """Passes on what a client says and what the conversation answers. Implements `rtc.inbound.Inbound`.

    Args:
        session_id: whose call, for the log.
        tell: takes every event, for the sockets that follow the session.
        peer: returns the present peer, or None.
    """

    def __init__(
        self, session_id: str, tell: Callable[[SessionEvent], None], peer: Callable[[], Peer | None]
    ) -> None:
        self.conversation: Conversation | None = None
        self._begins_when_followed = False
        self._session_id = session_id
        self._tell = tell
        self._peer = peer

    def hold(self, conversation: Conversation, *, begins_when_followed: bool) -> None:
        """Take the conversation that this call holds.

        Args:
            conversation: opened.
            begins_when_followed: whether it begins with the first socket that reads its events, not with the
                peer.
        """
        self.conversation = conversation
        self._begins_when_followed = begins_when_followed

    def followed(self) -> None:
        """The socket that owns the session reads its events."""
        if self._begins_when_followed:
            self._begin()

    def connected(self) -> None:
        """The peer is connected, with a data channel or without: events wait for one that still opens."""
        if not self._begins_when_followed:
            self._begin()

    def emit(self, event: dict[str, Any]) -> None:
        """Send an event of the conversation to everybody who follows it."""
        self._tell(ConversationEvent(event))
        self._send(event)

    def warn_of_end(self, reason: str, in_s: float) -> None:
        """Tell the peer that the session ends soon; sockets are told by their doors, in the same shape."""
        self._send({**_server_event("session.ending"), "reason": reason, "ends_in_ms": round(in_s * 1000)})

    def expired(self, after_s: float) -> None:
        """Tell the peer that the session ends because of its age (protocols 4.9)."""
        text = f"Your session hit the maximum duration of {max(1, round(after_s / 60))} minutes."
        self._send({**_server_event("error"), "error": faults.invalid("session_expired", text).error(None)})

    def _send(self, event: dict[str, Any]) -> None:
        peer = self._peer()
        if peer is not None:
            try:
                peer.send(json.dumps(event))
            except ClientError as error:
                logger.warning("session %s: an event was not sent: %s", self._session_id, error)

    def receive(self, events: list[dict[str, Any]]) -> None:
        """Take client events that came over a socket, in order."""
        if self.conversation is not None:
            for event in events:
                self.conversation.receive(event)

    def sound(self, samples: Int16, hz: int) -> None:
        """Take the microphone's sound, [S] int16 mono."""
        if self.conversation is not None:
            self.conversation.hear(samples, hz)

    def channel_opened(self) -> None:
        """The client listens on its data channel."""
        self._begin()

    def channel_message(self, text: str) -> None:
        """Take a client event from the data channel."""
        if self.conversation is None:
            return
        try:
            event = from_json(text, allow_inf_nan=False)
        except ValueError:
            # Not an object either way: the engine's own error answers it.
            event = None
        self.conversation.receive(event)

    def channel_closed(self) -> None:
        """The data channel is gone; the peer's state tells of the rest."""

    def _begin(self) -> None:
        if self.conversation is not None:
            self.conversation.start()


def _server_event(type_: str) -> dict[str, Any]:
    return {"type": type_, "event_id": f"event_{secrets.token_hex(10)}"}
