"""What a session host answers to gateways and to the registry."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.media.windower import WindowGrid
from serve_app.session.encode_load import EncodeLoad


@dataclass(frozen=True, slots=True)
class Opened:
    """What a gateway learns about a session it opened or took over; `owner` counts the takeovers."""

    session_id: str
    resume_token: str
    model: str
    avatar_id: str
    grid: WindowGrid
    generation: int
    next_utterance: int
    next_event: int
    owner: int
    open_utterance: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class HeldSession:
    """A session in its host: the API key it is counted against, or None, and its begin in POSIX seconds."""

    session_id: str
    key_id: str | None
    started_at: float


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host's answer to the registry."""

    sessions: tuple[HeldSession, ...]
    max_sessions: int
    encoding: EncodeLoad = field(default_factory=EncodeLoad)
