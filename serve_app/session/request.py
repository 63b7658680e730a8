"""What a door asks of a new session; travels from the gateway to the registry and the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from serve_app.conversation.spec import ConversationSpec
from serve_app.rooms.base import RoomSpec


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A session to open.

    Attributes:
        avatar_id: whose face; None for the configured one.
        model: which Animator; None for the configured one.
        key_id: name of the API key it is counted against; None when the server is open.
        conversation: who decides what is said; None when the door's own client sends the speech.
        room: a room to join; None when peers come here.
        awaits: what must happen within the negotiation timeout: "peer", a connected peer; "socket", a socket
            that attaches; "nothing".
        kept_by: what keeps the session alive, any of it: "lease", a socket that renews it, and a grace time
            after it; "peer", a connected peer; "room", its place in a room. With none it ends as "idle".
        max_duration_s: the session's end; None for the configured one, which it never exceeds.
        ends_minutes: whether the minutes of its key are used up then.
        metadata: the client's own, given back as it came.
    """

    avatar_id: str | None = None
    model: str | None = None
    key_id: str | None = None
    conversation: ConversationSpec | None = None
    room: RoomSpec | None = None
    awaits: Literal["peer", "socket", "nothing"] = "peer"
    kept_by: tuple[Literal["lease", "peer", "room"], ...] = ("lease",)
    max_duration_s: float | None = None
    ends_minutes: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def speech_from(self) -> Literal["client", "conversation", "room"]:
        """Who speaks through the session."""
        if self.conversation is not None:
            return "conversation"
        return "room" if self.room is not None and self.room.hears == "agent" else "client"
