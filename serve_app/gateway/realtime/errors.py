"""Errors of the OpenAI Realtime door in OpenAI's shape, for HTTP bodies, `error` events and close codes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from serve_app.conversation.faults import RealtimeFault
from serve_app.errors import (
    AvatarError,
    AvatarInvalid,
    CapacityError,
    ClientError,
    ConcurrencyExceeded,
    HostLost,
    InvalidDescription,
    ModelError,
    ModelNotLoaded,
    QuotaExceeded,
    SessionError,
    SessionNotFound,
    SpeechOverrun,
    Unauthorized,
    unexpected,
)
from serve_app.gateway.http_body import BodyRefused

INVALID = "invalid_request_error"
SERVER = "server_error"
RATE_LIMIT = "rate_limit_error"


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error as OpenAI's clients read it.

    Attributes:
        status: of an HTTP answer.
        message: for a person: what was expected and what was found.
        code: stable name that clients match on.
        type: OpenAI's class of it: "invalid_request_error", "server_error", …
        param: the field that is wrong.
        retry_after_s: when to try again.
    """

    status: int
    message: str
    code: str | None
    type: str = INVALID
    param: str | None = None
    retry_after_s: float | None = None

    def body(self) -> dict[str, Any]:
        """Return the body of an HTTP answer (protocols, section 4.10)."""
        return {"error": self._fields()}

    def event(self, client_event_id: str | None = None) -> dict[str, Any]:
        """Return the `error` event (protocols, section 4.7) that answers a client event."""
        return {
            "type": "error",
            "event_id": f"event_{secrets.token_hex(10)}",
            "error": {**self._fields(), "event_id": client_event_id},
        }

    @property
    def close_code(self) -> int:
        """The WebSocket close code of a socket that is refused for this.

        3000 is registered for "unauthorized"; 4000 is what OpenAI closes malformed requests with.
        """
        if self.status in (401, 403):
            return 3000
        if self.status in (429, 503):
            return 1013
        return 1011 if self.status >= 500 else 4000

    def _fields(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.type, "code": self.code, "param": self.param}


class RealtimeRefused(AvatarError):
    """A request that this door refuses, with all that its client is told.

    Attributes:
        error: as the client reads it.
    """

    code = "realtime_refused"

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def refused(
    status: int,
    message: str,
    code: str,
    *,
    param: str | None = None,
    type: str = INVALID,
    retry_after_s: float | None = None,
) -> RealtimeRefused:
    """Return the error to raise for a request that cannot be served."""
    return RealtimeRefused(ApiError(status, message, code, type, param, retry_after_s))


_TOLD: tuple[tuple[type[AvatarError], int, str | None, str, str | None], ...] = (
    (Unauthorized, 401, "invalid_api_key", INVALID, None),
    (SessionNotFound, 404, "call_id_not_found", INVALID, "call_id"),
    (InvalidDescription, 400, "invalid_offer", INVALID, "sdp"),
    (QuotaExceeded, 429, "insufficient_quota", "insufficient_quota", None),
    (ClientError, 400, None, INVALID, None),
    (ConcurrencyExceeded, 429, "rate_limit_exceeded", RATE_LIMIT, None),
    (SpeechOverrun, 429, None, RATE_LIMIT, None),
    (CapacityError, 503, "session_limit_reached", SERVER, None),
    (ModelNotLoaded, 404, "model_not_found", INVALID, "model"),
    (AvatarInvalid, 404, "avatar_not_found", INVALID, "avatar"),
    (SessionError, 503, None, SERVER, None),
    (ModelError, 503, None, SERVER, None),
    (HostLost, 503, None, SERVER, None),
)
"""Errors, the first that fits: HTTP status, OpenAI's code (None: the error's own) and type, and the field."""


def api_error(error: Exception) -> ApiError:
    """Return what a client is told of an error; of unexpected ones their kind alone."""
    if isinstance(error, RealtimeRefused):
        return error.error
    if isinstance(error, RealtimeFault):
        return ApiError(400, error.message, error.code, error.type, error.param)
    if isinstance(error, BodyRefused):
        return ApiError(error.status, str(error), error.code)
    for kind, status, code, type_, param in _TOLD:
        if isinstance(error, kind):
            retry_after_s = getattr(error, "retry_after_s", 1.0 if error.retryable else None)
            return ApiError(status, str(error) or error.code, code or error.code, type_, param, retry_after_s)
    return ApiError(500, unexpected(error), "internal_error", SERVER)
