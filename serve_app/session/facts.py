"""What a session tells of itself and of those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Viewing:
    """A viewer's connection: its name within the session, and the SDP answer."""

    viewer_id: str
    answer_sdp: str


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What can be told of a session.

    Attributes:
        session_id: its name.
        avatar_id: whose face.
        model: which Animator.
        key_id: the API key it is counted against, or None.
        speech_from: who speaks through it: its door's "client", the agent of its "conversation", or one in
            its "room".
        metadata: the client's own.
        started_at: POSIX time.
        expires_at: POSIX time of the latest end.
        ended_at: POSIX time of its end, or None while it runs.
    """

    session_id: str
    avatar_id: str
    model: str
    key_id: str | None
    speech_from: Literal["client", "conversation", "room"]
    metadata: dict[str, object]
    started_at: float
    expires_at: float
    ended_at: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.ended_at is not None
