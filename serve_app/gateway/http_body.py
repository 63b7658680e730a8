"""The body of an HTTP request, within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from serve_app.errors import ClientError

BODY_TIMEOUT_S = 20.0


class BodyRefused(ClientError):
    """A request's body is too long or does not come.

    Attributes:
        status: HTTP status to answer with: 413 or 408 (RFC 9110, sections 15.5.14 and 15.5.9).
    """

    code = "body_refused"

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return a request's body.

    Raises:
        BodyRefused: it is longer than `limit_bytes`, or not complete within BODY_TIMEOUT_S.
        ClientDisconnect: the client is gone.
    """
    too_long = BodyRefused(413, f"expected a body of at most {limit_bytes} bytes, found a longer one")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise too_long
    except TimeoutError:
        detail = f"expected the whole body within {BODY_TIMEOUT_S:g} s, found it unfinished"
        raise BodyRefused(408, detail) from None
    return bytes(body)
