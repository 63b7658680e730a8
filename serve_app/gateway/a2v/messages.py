"""What goes over the wire of the Audio-to-Video door: document 000, and a few additive fields.

Client messages are read leniently (unknown keys are ignored, null means absent); what is wrong is named.
Nothing a client sent is repeated in an error, so speech and SDP cannot reach a log that way.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from serve_app.errors import (
    AvatarError,
    CapacityError,
    HostLost,
    IceFailed,
    InvalidAudio,
    InvalidCandidate,
    InvalidDescription,
    InvalidMessage,
    ModelNotLoaded,
    QuotaExceeded,
    SessionNotFound,
    SpeechOverrun,
    Unauthorized,
)
from serve_app.nouns import SPEECH_HZ
from serve_app.session.events import (
    GenerationFailed,
    PeerChanged,
    RecordingFailed,
    SessionClosed,
    SessionEnding,
    SessionEvent,
    UtteranceCompleted,
    UtteranceStarted,
)

MAX_CHUNK_INDEX = 2**53 - 1
"""Largest whole number a JavaScript client can count to (Number.MAX_SAFE_INTEGER)."""


class WireModel(BaseModel):
    """A message: frozen; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# Client to server.


class ClientBase(WireModel):
    """What every client message carries."""

    session_id: str = Field(description="as given in connection.established")


class IceCandidateInit(WireModel):
    """W3C RTCIceCandidateInit."""

    candidate: str = ""
    sdpMid: str | None = None  # noqa: N815 - W3C's name
    sdpMLineIndex: int | None = Field(default=None, ge=0, le=65_535)  # noqa: N815 - W3C's name
    usernameFragment: str | None = None  # noqa: N815 - W3C's name


class WebRtcOffer(ClientBase):
    """A client's offer; a later one replaces the peer."""

    type: Literal["webrtc.offer"]
    sdp: str


class WebRtcIceCandidate(ClientBase):
    """A client's candidate; null, or one with empty text, says that no more will come."""

    type: Literal["webrtc.ice_candidate"]
    candidate: IceCandidateInit | None


class AgentSpeak(ClientBase):
    """Speech in one message, or with `is_final` false a piece of it."""

    type: Literal["agent.speak"]
    audio: str = Field(description="base64")
    format: str | None = Field(default=None, description="wav or pcm; absent: told from the first bytes")
    sample_rate: int = Field(default=SPEECH_HZ, description="of PCM, Hz; a WAV file has its own")
    chunk_index: int = Field(default=0, ge=0, le=MAX_CHUNK_INDEX)
    is_final: bool = True


class AgentAudioChunk(ClientBase):
    """A piece of streamed speech: PCM16 mono at 16 kHz, or of a WAV file if the first piece begins as one."""

    type: Literal["agent.audio.chunk"]
    chunk: str = Field(description="base64")
    chunk_index: int = Field(ge=0, le=MAX_CHUNK_INDEX)
    is_first: bool = False
    is_final: bool = False


class AgentSpeakEnd(ClientBase):
    """The end of streamed speech."""

    type: Literal["agent.speak_end"]


class AgentInterrupt(ClientBase):
    """Stop speaking and drop what is queued."""

    type: Literal["agent.interrupt"]


ClientMessage: TypeAlias = (
    WebRtcOffer | WebRtcIceCandidate | AgentSpeak | AgentAudioChunk | AgentSpeakEnd | AgentInterrupt
)

CLIENT_TYPES = (
    "webrtc.offer",
    "webrtc.ice_candidate",
    "agent.speak",
    "agent.audio.chunk",
    "agent.speak_end",
    "agent.interrupt",
)

_client_messages: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[ClientMessage, Field(discriminator="type")]
)


def parse_message(text: str) -> ClientMessage:
    """Read one client message.

    Raises:
        InvalidMessage: it is not a JSON object of a known type with its fields.
    """
    try:
        message = from_json(text)
    except ValueError as error:
        raise InvalidMessage(f"expected a JSON object, found text that is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise InvalidMessage(f"expected a JSON object, found {_kind(message)}")
    kind = message.get("type")
    if kind is None:
        raise InvalidMessage("expected a field type, found none", missing="type")
    if kind not in CLIENT_TYPES:
        found = repr(kind[:40]) if isinstance(kind, str) else _kind(kind)
        raise InvalidMessage(f"type: expected one of {', '.join(CLIENT_TYPES)}, found {found}")
    given = {key: value for key, value in message.items() if value is not None or key == "candidate"}
    try:
        return _client_messages.validate_python(given)
    except ValidationError as error:
        raise _invalid(str(kind), error.errors(include_url=False)[0]) from None


def _invalid(kind: str, detail: ErrorDetails) -> InvalidMessage:
    # loc begins with the union's tag.
    field = ".".join(str(part) for part in detail["loc"][1:])
    if detail["type"] == "missing":
        return InvalidMessage(f"{kind}: expected a field {field}, found none", missing=field)
    expected = detail["msg"].replace("Input should be", "expected")
    return InvalidMessage(f"{kind}: {field}: {expected}, found {_kind(detail['input'])}")


def _kind(value: object) -> str:
    """Name a JSON value's type, and a number's value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value:.6g}" if abs(value) < 1e300 else "a number out of range"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


# Server to client.


class ErrorCode(Enum):
    """Document 000's error codes, and three of our own (SRV)."""

    INVALID_SESSION = "WS_1001"
    INVALID_MESSAGE = "WS_1002"
    MISSING_FIELD = "WS_1003"
    INVALID_SDP = "RTC_2001"
    ICE_FAILED = "RTC_2002"
    INVALID_AUDIO = "AUDIO_3001"
    AUDIO_TOO_SHORT = "AUDIO_3002"
    GENERATION_FAILED = "GEN_4001"
    MODEL_NOT_LOADED = "GEN_4002"
    NO_CAPACITY = "SRV_5001"
    SPEECH_OVERRUN = "SRV_5002"
    UNAUTHORIZED = "SRV_5003"


class VideoFormat(WireModel):
    """The picture a session sends."""

    width: int
    height: int
    fps: int


class ConnectionEstablished(WireModel):
    """The first event of a session; all but session_id is additive.

    Attributes:
        resume_token: secret; `?session_id=…&resume_token=…` takes the session over with another socket.
        resumed: whether this socket took over a running session.
        lease_s: how long the session outlives its socket.
        ice_servers: W3C RTCIceServer objects.
        video: the picture.
    """

    type: Literal["connection.established"] = "connection.established"
    session_id: str
    resume_token: str
    resumed: bool
    lease_s: float
    ice_servers: list[dict[str, Any]]
    video: VideoFormat


class WebRtcAnswer(WireModel):
    """The answer to an offer; it holds all of the server's candidates."""

    type: Literal["webrtc.answer"] = "webrtc.answer"
    session_id: str
    sdp: str


class ServerIceCandidate(WireModel):
    """A candidate of the server, as the document's client reads it. None is sent: answers are complete."""

    type: Literal["webrtc.ice_candidate"] = "webrtc.ice_candidate"
    session_id: str
    candidate: IceCandidateInit


class GenerationStarted(WireModel):
    """An utterance's first frame is on show; chunk_index is that of its first message."""

    type: Literal["generation.started"] = "generation.started"
    session_id: str
    chunk_index: int


class GenerationCompleted(WireModel):
    """An utterance has been played, or was cut.

    Attributes:
        video_path: "recordings/<name>" below the server's address, or null when recording is off.
        interrupted: additive; whether an interrupt cut it.
        played_ms: additive; how much of it was heard.
    """

    type: Literal["generation.completed"] = "generation.completed"
    session_id: str
    chunk_index: int
    video_path: str | None
    interrupted: bool
    played_ms: int


class PeerState(WireModel):
    """Additive: the WebRTC peer changed its state; `pairs` are the candidate pairs a failed one tried."""

    type: Literal["session.peer"] = "session.peer"
    session_id: str
    state: str
    detail: str
    pairs: list[str]


class RecordingFailedNotice(WireModel):
    """Additive: an utterance has no file, for the reason in `detail`; its generation.completed follows."""

    type: Literal["recording.failed"] = "recording.failed"
    session_id: str
    chunk_index: int
    detail: str


class SessionEndingNotice(WireModel):
    """Additive: the session ends in `in_s` seconds, for `reason`: "expired" or "idle"."""

    type: Literal["session.ending"] = "session.ending"
    session_id: str
    reason: str
    in_s: float


class ErrorEvent(WireModel):
    """Something went wrong; `details.code` is an ErrorCode. session_id is null before there is a session."""

    type: Literal["error"] = "error"
    session_id: str | None
    error: str
    details: dict[str, Any]


ServerEvent: TypeAlias = (
    ConnectionEstablished
    | WebRtcAnswer
    | ServerIceCandidate
    | GenerationStarted
    | GenerationCompleted
    | PeerState
    | RecordingFailedNotice
    | SessionEndingNotice
    | ErrorEvent
)


def error_code(error: AvatarError) -> ErrorCode:
    """Return the code of this door for any error of the application."""
    if isinstance(error, InvalidMessage):
        return ErrorCode.INVALID_MESSAGE if error.missing is None else ErrorCode.MISSING_FIELD
    if isinstance(error, InvalidAudio):
        return ErrorCode.AUDIO_TOO_SHORT if error.too_short else ErrorCode.INVALID_AUDIO
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return ErrorCode.GENERATION_FAILED


# The first that fits counts. The document's remedy for WS_1001, a new session, is that for a lost host too.
_CODES: tuple[tuple[tuple[type[AvatarError], ...], ErrorCode], ...] = (
    ((SessionNotFound, HostLost), ErrorCode.INVALID_SESSION),
    ((InvalidDescription, InvalidCandidate), ErrorCode.INVALID_SDP),
    ((IceFailed,), ErrorCode.ICE_FAILED),
    ((ModelNotLoaded,), ErrorCode.MODEL_NOT_LOADED),
    ((SpeechOverrun,), ErrorCode.SPEECH_OVERRUN),
    ((CapacityError, QuotaExceeded), ErrorCode.NO_CAPACITY),
    ((Unauthorized,), ErrorCode.UNAUTHORIZED),
)


def error_event(session_id: str | None, error: AvatarError, **details: Any) -> ErrorEvent:  # noqa: ANN401
    """Return the event that tells a client of `error`; `details` are added to its own."""
    found: dict[str, Any] = {"code": error_code(error).value}
    if isinstance(error, InvalidMessage) and error.missing is not None:
        found["field"] = error.missing
    if isinstance(error, CapacityError):
        found["retry_after_s"] = round(error.retry_after_s, 3)
    return ErrorEvent(session_id=session_id, error=str(error) or error.code, details=found | details)


def server_events(session_id: str, event: SessionEvent) -> list[ServerEvent]:
    """Return what a client is told of a session's event, in order."""
    told: list[ServerEvent] = []
    match event:
        case UtteranceStarted():
            told = [GenerationStarted(session_id=session_id, chunk_index=event.client_index)]
        case UtteranceCompleted():
            told = [_completed(session_id, event)]
        case PeerChanged():
            told = _peer_changed(session_id, event)
        case GenerationFailed():
            told = [_failed(session_id, event)]
        case RecordingFailed(_, client_index, detail):
            told = [RecordingFailedNotice(session_id=session_id, chunk_index=client_index, detail=detail)]
        case SessionEnding():
            told = [SessionEndingNotice(session_id=session_id, reason=event.reason, in_s=event.in_s)]
        case SessionClosed():
            told = _closed(session_id, event)
    return told


def _failed(session_id: str, event: GenerationFailed) -> ErrorEvent:
    code = ErrorCode.MODEL_NOT_LOADED if event.code == ModelNotLoaded.code else ErrorCode.GENERATION_FAILED
    details = {"code": code.value, "chunk_index": event.client_index}
    return ErrorEvent(session_id=session_id, error=event.detail, details=details)


def _completed(session_id: str, event: UtteranceCompleted) -> GenerationCompleted:
    return GenerationCompleted(
        session_id=session_id,
        chunk_index=event.client_index,
        video_path=None if event.recording is None else f"recordings/{event.recording}",
        interrupted=event.interrupted,
        played_ms=round(event.played_s * 1000),
    )


def _peer_changed(session_id: str, event: PeerChanged) -> list[ServerEvent]:
    told: list[ServerEvent] = [
        PeerState(session_id=session_id, state=event.state, detail=event.detail, pairs=event.pairs)
    ]
    if event.state == "failed":
        text = event.detail or "no ICE candidate pair worked"
        told.append(error_event(session_id, IceFailed(text), pairs=event.pairs))
    return told


def _closed(session_id: str, event: SessionClosed) -> list[ServerEvent]:
    if event.reason == "client":
        return []
    ended = SessionNotFound(f"the session has ended ({event.reason}); connect again for a new one")
    return [error_event(session_id, ended, reason=event.reason)]
