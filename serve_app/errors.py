"""Every error this application raises.

Each class names its own failure; doors map the tree to the codes of their documents.

AvatarError
├── ClientError                 the client sent something that cannot be used; never retried
│   ├── InvalidMessage          not the JSON, type or fields the door expects
│   ├── InvalidAudio            sound that cannot be decoded or converted faithfully
│   ├── InvalidDescription      an SDP that cannot be parsed or has no usable media
│   ├── InvalidCandidate        an ICE candidate that cannot be parsed
│   ├── SessionNotFound         no such session, or a wrong resume token
│   ├── Unauthorized            a missing or wrong key, token or origin
│   └── QuotaExceeded           the key's minutes are used up
├── CapacityError               no room now; retry after `retry_after_s`
│   ├── AdmissionRefused        every session host is full
│   ├── ConcurrencyExceeded     the key's sessions are all running
│   └── SpeechOverrun           a session holds more unplayed speech than is allowed
├── SessionError                something in one session failed
│   ├── EventsLost              a reader of events fell too far behind
│   ├── IceFailed               no candidate pair worked
│   ├── AgentFailed             the voice agent cannot answer
│   └── RoomFailed              a room cannot be joined, or was lost
├── ModelError                  a model could not turn a window into a clip
│   ├── ModelNotLoaded          no replica serves that model
│   ├── WeightsUnavailable      weights cannot be fetched, or are not what was published
│   ├── ModelOutOfMemory        the device cannot hold even the smallest batch
│   └── AvatarInvalid           a bundle that is missing, damaged or of another version
├── HostLost                    the actor that held a session is gone
└── ReplicaLost                 an Animator replica vanished in mid-call; the window may be tried again

What one protocol alone can say is wrong stands beside that protocol, below ClientError: RealtimeFault
(conversation/faults.py), DocumentError, WhepRefused, BodyRefused and TokenRefused (gateway/).
"""

from __future__ import annotations


class AvatarError(Exception):
    """Base of all errors here.

    Attributes:
        code: stable name, used in logs and metric labels.
        retryable: whether the same request may succeed later.
    """

    code = "internal"
    retryable = False


class ClientError(AvatarError):
    """The client sent something that cannot be used."""

    code = "client_error"


class InvalidMessage(ClientError):
    """A message is not JSON, of no known type, or misses a field.

    Attributes:
        missing: name of the missing field, or None when something else is wrong.
    """

    code = "invalid_message"

    def __init__(self, detail: str, missing: str | None = None) -> None:
        super().__init__(detail)
        self.missing = missing


class InvalidAudio(ClientError):
    """Sound that cannot be decoded or converted faithfully.

    Attributes:
        too_short: whether the only fault is that the utterance is too short.
    """

    code = "invalid_audio"

    def __init__(self, detail: str, *, too_short: bool = False) -> None:
        super().__init__(detail)
        self.too_short = too_short


class InvalidDescription(ClientError):
    """An SDP that cannot be parsed or offers no media this server can send."""

    code = "invalid_description"


class InvalidCandidate(ClientError):
    """An ICE candidate that cannot be parsed."""

    code = "invalid_candidate"


class SessionNotFound(ClientError):
    """No such session here, or its resume token does not match."""

    code = "session_not_found"


class Unauthorized(ClientError):
    """A missing or wrong key, token or origin."""

    code = "unauthorized"


class QuotaExceeded(ClientError):
    """The minutes of an API key are used up."""

    code = "quota_exceeded"


class CapacityError(AvatarError):
    """No room now.

    Attributes:
        retry_after_s: when to try again, in seconds.
    """

    code = "capacity"
    retryable = True

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, retry_after_s)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.detail


class AdmissionRefused(CapacityError):
    """Every session host is full, or none is ready yet."""

    code = "admission_refused"


class ConcurrencyExceeded(CapacityError):
    """All sessions that an API key may have are running."""

    code = "concurrency_exceeded"


class SpeechOverrun(CapacityError):
    """A session holds more unplayed speech than is allowed."""

    code = "speech_overrun"


class SessionError(AvatarError):
    """Something in one session failed; others are untouched."""

    code = "session_error"


class EventsLost(SessionError):
    """A reader of a session's events fell so far behind that some are gone."""

    code = "events_lost"


class IceFailed(SessionError):
    """No candidate pair worked."""

    code = "ice_failed"


class AgentFailed(SessionError):
    """A voice agent cannot answer: its upstream is gone, its script is missing."""

    code = "agent_failed"


class RoomFailed(SessionError):
    """A room cannot be joined or was lost: no SDK, a refused token, no network."""

    code = "room_failed"


class ModelError(AvatarError):
    """A model could not turn a window into a clip."""

    code = "model_error"


class ModelNotLoaded(ModelError):
    """No replica serves that model."""

    code = "model_not_loaded"


class WeightsUnavailable(ModelError):
    """Weights cannot be fetched, or what came is not what was published."""

    code = "weights_unavailable"


class ModelOutOfMemory(ModelError):
    """The device cannot hold even the smallest batch; what else runs on it may leave room later."""

    code = "model_out_of_memory"
    retryable = True


class AvatarInvalid(ModelError):
    """An avatar bundle is missing, damaged or of another version."""

    code = "avatar_invalid"


class HostLost(AvatarError):
    """The actor that held a session is gone."""

    code = "host_lost"
    retryable = True


class HostUnreachable(HostLost):
    """The connection to a session's host broke; the host may live."""


class ReplicaLost(AvatarError):
    """An Animator replica vanished in mid-call; its windows may be tried again."""

    code = "replica_lost"
    retryable = True


def unexpected(error: Exception) -> str:
    """Tell a client of an unexpected failure by its kind alone: its text may hold what a client sent."""
    return f"the server failed at this ({type(error).__name__}); its log says more"
