"""What a session tells its door, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class UtteranceStarted:
    """The first frame of an utterance is on show; `client_index` is the client's own number for it."""

    utterance: int
    client_index: int


@dataclass(frozen=True, slots=True)
class UtteranceCompleted:
    """An utterance has been played, or was cut by an interrupt.

    Attributes:
        utterance: counter within the session.
        client_index: the client's own number.
        played_s: seconds of it that were heard.
        interrupted: whether an interrupt cut it.
        recording: file name of the MP4 below /recordings/, or None when recording is off.
    """

    utterance: int
    client_index: int
    played_s: float
    interrupted: bool
    recording: str | None


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """The WebRTC peer changed its state.

    Attributes:
        state: "connecting", "connected", "failed" or "closed".
        detail: for "failed", one sentence for a person: why, and what to do.
        pairs: for "failed", the candidate pairs that were tried, as text.
    """

    state: str
    detail: str = ""
    pairs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """Frames of an utterance could not be made; its sound plays over the base loop.

    Attributes:
        utterance: counter within the session.
        client_index: the client's own number.
        code: an AvatarError code, for example "model_error" or "model_not_loaded".
        detail: what was expected and what was found.
    """

    utterance: int
    client_index: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordingFailed:
    """The MP4 of an utterance could not be written; told before the utterance is completed.

    Attributes:
        utterance: counter within the session.
        client_index: the client's own number.
        detail: why, for example "No space left on device".
    """

    utterance: int
    client_index: int
    detail: str


@dataclass(frozen=True, slots=True)
class ConversationEvent:
    """An event of the session's conversation, in the conversation's dialect; for its doors to pass on."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """The session's place in a room changed: "joining", "joined", "empty", "left" or "failed"."""

    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SessionEnding:
    """The session ends in `in_s` seconds: "expired" or "idle"; told once, before it does."""

    reason: str
    in_s: float


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session has ended: "client", "expired", "idle", "quota", "room", "host_lost" or "shutdown"."""

    reason: str


SessionEvent: TypeAlias = (
    UtteranceStarted
    | UtteranceCompleted
    | PeerChanged
    | GenerationFailed
    | RecordingFailed
    | ConversationEvent
    | RoomChanged
    | SessionEnding
    | SessionClosed
)
