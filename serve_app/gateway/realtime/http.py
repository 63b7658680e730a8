"""HTTP of the Realtime door: bodies within limits, and answers in OpenAI's shape."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve_app.config import GatewayConfig
from serve_app.conversation import faults
from serve_app.gateway.http_body import read_body
from serve_app.gateway.realtime.client_json import parse_object
from serve_app.gateway.realtime.errors import ApiError, api_error, refused

logger = logging.getLogger("serve_app.gateway")

MAX_SDP_BYTES = 256 * 1024
MAX_JSON_BYTES = 1024 * 1024
MULTIPART_FRAME_BYTES = 16 * 1024

JSON, SDP, MULTIPART = "application/json", "application/sdp", "multipart/form-data"

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class PostedOffer:
    """What a client posts to open a call: its SDP offer, and session settings where the form has them."""

    sdp: str
    session: dict[str, Any] | None = None


def route(path: str, endpoint: Endpoint, methods: Sequence[str], config: GatewayConfig) -> Route:
    """Return a route of this door: errors in OpenAI's shape, and CORS (protocols, Decision 0.6).

    Without configured origins the answers may be read by every page. They hold nothing that a page could not
    get by itself without a key, and `Doorkeeper` refuses pages that bring none.
    """
    cors = Middleware(
        CORSMiddleware,
        allow_origins=config.allowed_origins or ["*"],
        allow_methods=[*methods, "OPTIONS"],
        # Whatever an SDK adds; a header is no right.
        allow_headers=["*"],
        expose_headers=["Location", "Retry-After"],
    )
    return Route(path, _told(endpoint), methods=[*methods, "OPTIONS"], middleware=[cors])


def error_response(error: ApiError) -> Response:
    """Return the HTTP answer that tells of an error."""
    headers = {"cache-control": "no-store"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request brings; an empty body is an empty object.

    Raises:
        RealtimeRefused: 413 too long, 415 another content type, 400 no JSON object.
    """
    _require_type(request, JSON)
    body = await read_body(request, MAX_JSON_BYTES)
    return parse_object(body) if body.strip() else {}


async def read_offer(request: Request, allowed: Sequence[str]) -> PostedOffer:
    """Return the SDP offer that a request brings, raw or in a form.

    Besides OpenAI's multipart form, JSON with the same two fields is taken: its Python package sends that.

    Args:
        request: the request.
        allowed: content types.

    Raises:
        RealtimeRefused: 413 too long, 415 another content type, 400 something else is wrong.
    """
    kind = _require_type(request, *allowed)
    if kind == SDP:
        return PostedOffer(_text(await read_body(request, MAX_SDP_BYTES)))
    if kind == JSON:
        form = parse_object(await read_body(request, MAX_JSON_BYTES + MAX_SDP_BYTES))
    else:
        form = await _read_form(request)
    if unknown := sorted(set(form) - {"sdp", "session"}):
        raise faults.unknown(unknown[0][:64])
    sdp, session = form.get("sdp"), form.get("session")
    if sdp is None:
        raise faults.missing("sdp")
    if not isinstance(sdp, str):
        raise faults.wrong_type("sdp", "a string", sdp)
    if isinstance(session, str):
        session = parse_object(session)
    if session is not None and not isinstance(session, dict):
        raise faults.wrong_type("session", "an object", session)
    return PostedOffer(sdp, session)


async def _read_form(request: Request) -> dict[str, Any]:
    limit = MAX_JSON_BYTES + MAX_SDP_BYTES + MULTIPART_FRAME_BYTES
    body = await read_body(request, limit)
    parser = MultiPartParser(
        request.headers, _once(body), max_files=2, max_fields=2, max_part_size=MAX_JSON_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        # A missing boundary, or an unknown charset, leave the parser as one of the latter.
        detail = error.message if isinstance(error, MultiPartException) else type(error).__name__
        raise refused(
            400, f"expected a multipart form, found a broken one ({detail})", "invalid_form"
        ) from None
    try:
        parts: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in parts:
                raise refused(400, f"expected each part once, found '{name[:64]}' twice", "invalid_form")
            parts[name] = _text(await value.read()) if isinstance(value, UploadFile) else value
        return parts
    finally:
        await form.close()


def _told(endpoint: Endpoint) -> Endpoint:
    async def tell(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            # Whatever failed in one request, its client is told and the others go on.
            told = api_error(error)
            if told.status == 500:
                logger.exception("a Realtime request failed")
            else:
                logger.info("Realtime request refused: %s", told.code)
            return error_response(told)

    return tell


def _require_type(request: Request, *allowed: str) -> str:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in allowed:
        expected = " or ".join(allowed)
        message = f"expected Content-Type {expected}, found {found[:64] or 'none'}"
        raise refused(415, message, "unsupported_content_type")
    return found


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
    yield b""


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise refused(400, "expected UTF-8, found something else", "invalid_offer", param="sdp") from None
