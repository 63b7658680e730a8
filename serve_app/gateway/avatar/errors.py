"""Document 001's REST errors: one shape for all but the missing key, whose shape is older."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve_app.errors import (
    AdmissionRefused,
    AvatarError,
    AvatarInvalid,
    CapacityError,
    ClientError,
    ConcurrencyExceeded,
    InvalidMessage,
    ModelNotLoaded,
    QuotaExceeded,
    RoomFailed,
    SessionNotFound,
    Unauthorized,
)
from serve_app.gateway.http_body import BodyRefused

logger = logging.getLogger("serve_app.gateway")

Endpoint = Callable[[Request], Awaitable[Response]]

# The first that fits counts: status, code, what to do about it.
_ANSWERS: tuple[tuple[type[AvatarError], int, str, str], ...] = (
    (QuotaExceeded, 402, "INSUFFICIENT_MINUTES", "Wait for the next month, or ask for more minutes."),
    (ConcurrencyExceeded, 429, "CONCURRENCY_LIMIT", "End a running session, or ask for more at once."),
    (AdmissionRefused, 503, "NO_CAPACITY", "Try again after the time that Retry-After tells."),
    (CapacityError, 503, "NO_CAPACITY", "Try again after the time that Retry-After tells."),
    (SessionNotFound, 404, "SESSION_NOT_FOUND", "Create a session."),
    (AvatarInvalid, 404, "AVATAR_NOT_FOUND", "GET /v1/avatars lists those that exist."),
    (ModelNotLoaded, 503, "MODEL_NOT_LOADED", "Ask the operator for the model, or name another."),
    (RoomFailed, 422, "ROOM_FAILED", "Give a url and a token that the room's server accepts."),
    (InvalidMessage, 400, "INVALID_REQUEST", "Correct the field that the message names."),
    (ClientError, 400, "INVALID_REQUEST", "Correct the request."),
)


def error_response(error: AvatarError) -> JSONResponse:
    """Return the answer to a request that failed."""
    if isinstance(error, Unauthorized):
        text = "API key required" if "none" in str(error) else str(error)
        return JSONResponse({"error": text}, 401)
    if isinstance(error, BodyRefused):
        told = {"message": str(error), "code": "INVALID_REQUEST"}
        return JSONResponse({"success": False, "error": told}, error.status)
    for kind, status, code, suggestion in _ANSWERS:
        if isinstance(error, kind):
            told = {"message": str(error), "suggestion": suggestion, "code": code}
            headers = {}
            if isinstance(error, CapacityError):
                headers["retry-after"] = str(math.ceil(error.retry_after_s))
            return JSONResponse({"success": False, "error": told}, status, headers)
    told = {"message": "the server failed at this; its log says more", "code": "INTERNAL"}
    return JSONResponse({"success": False, "error": told}, 500)


def told(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers whatever goes wrong in another with its error."""

    async def tell(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except AvatarError as error:
            logger.info("session request refused: %s", error.code)
            return error_response(error)
        except Exception:
            # Whatever failed in one request, its client is told and the others go on.
            logger.exception("a session request failed")
            return error_response(AvatarError())

    return tell
