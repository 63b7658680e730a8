"""The WHEP door (draft-ietf-wish-whep-04): watch a running session of any other door.

`POST /whep/{session_id}` answers a player's offer; `/whep/{session_id}/{viewer_id}` is the player's own
resource, to be patched and deleted. A player sees and hears and does nothing else. Nothing is kept here:
ids and ETags hold what is needed, so any gateway serves the requests that follow, and no redirect is used.

What the draft leaves to a server:

- A session shows its avatar from its first moment, so it is live as soon as it is found. 409 with
  Retry-After tells of one that is known and cannot be joined yet; one that ended, or never was, is 404.
- The ETag names the player and its ICE generation. ICE restarts are not served: 422, and the player posts
  again. A PATCH without If-Match is 428, with another player's or generation's 412.
- Entrance is by a session token or an API key in `Authorization: Bearer`, for every request but OPTIONS,
  HEAD and GET; an API key opens its own sessions only. TURN credentials are told to who may enter.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.config import AppConfig
from serve_app.errors import (
    AvatarError,
    CapacityError,
    ClientError,
    HostLost,
    InvalidDescription,
    SessionNotFound,
    Unauthorized,
    unexpected,
)
from serve_app.gateway.auth import Keyring, bearer_of, check_origin
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.http_body import BodyRefused, read_body
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.public_url import http_url
from serve_app.gateway.tokens import SessionTokens
from serve_app.gateway.whep.fragment import ice_links, parse_fragment, ufrag_of, with_rtcp_mux_only

logger = logging.getLogger("serve_app.gateway")

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"

MAX_OFFER_BYTES = 65_536
MAX_FRAGMENT_BYTES = 16_384
NOT_LIVE_S = 2.0

EXPOSED = "Location, Link, ETag, Accept-Post, Accept-Patch, Retry-After"

Endpoint = Callable[[Request], Awaitable[Response]]


class WhepRefused(ClientError):
    """A request that the draft answers with a status of its own.

    Attributes:
        status: HTTP status.
        headers: that go with it.
    """

    code = "whep_refused"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})


class WhepDoor:
    """Serves players.

    Args:
        opener: finds running sessions.
        keyring: the API keys.
        tokens: checks session tokens.
        config: the whole configuration.
    """

    def __init__(
        self, opener: SessionOpener, keyring: Keyring, tokens: SessionTokens, config: AppConfig
    ) -> None:
        self._opener = opener
        self._keyring = keyring
        self._tokens = tokens
        self._config = config
        self._farewells = Farewells()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of endpoints and of players' resources."""
        endpoint = {
            "POST": self._watch,
            "OPTIONS": self._describe_endpoint,
            "GET": self._discover,
            "HEAD": self._discover,
        }
        resource = {"PATCH": self._trickle, "DELETE": self._leave, "OPTIONS": self._describe_resource}
        return [
            self._route("/whep/{session_id}", endpoint),
            self._route("/whep/{session_id}/{viewer_id}", resource),
        ]

    # The endpoint.

    async def _watch(self, request: Request) -> Response:
        _require_type(request, SDP)
        offer = _text(await read_body(request, MAX_OFFER_BYTES))
        if not offer.startswith("v="):
            raise InvalidDescription("expected an SDP offer, which begins with v=0, found other text")
        async with self._session(request) as link:
            viewing = await link.view(offer)
        path = request.url.path.rstrip("/")
        headers = {
            "location": f"{http_url(request, self._config.gateway)}{path}/{viewing.viewer_id}",
            "etag": _etag(viewing.viewer_id, ufrag_of(offer)),
            "accept-patch": FRAGMENT,
            "cache-control": "no-store",
        }
        response = Response(with_rtcp_mux_only(viewing.answer_sdp), 201, headers, SDP)
        self._add_ice_links(response)
        return response

    async def _describe_endpoint(self, request: Request) -> Response:
        response = Response(
            status_code=204, headers={"accept-post": SDP, "allow": "POST, OPTIONS, GET, HEAD"}
        )
        try:
            self._authorize(request)
        except Unauthorized:
            # A browser's preflight brings no key; it is answered, without credentials for TURN.
            return response
        self._add_ice_links(response)
        return response

    async def _discover(self, request: Request) -> Response:
        return Response(status_code=200, media_type=SDP, headers={"accept-post": SDP})

    # A player's resource.

    async def _trickle(self, request: Request) -> Response:
        _require_type(request, FRAGMENT)
        body = await read_body(request, MAX_FRAGMENT_BYTES)
        self._authorize(request)
        viewer_id = request.path_params["viewer_id"]
        fragment = parse_fragment(_text(body))
        _check_match(request.headers.get("if-match"), viewer_id, fragment.ufrag)
        async with self._session(request) as link:
            for candidate in fragment.candidates:
                await link.add_viewer_candidate(viewer_id, candidate)
        return Response(status_code=204)

    async def _leave(self, request: Request) -> Response:
        async with self._session(request) as link:
            if not await link.end_view(request.path_params["viewer_id"]):
                raise SessionNotFound("no such player; it has left or never was")
        return Response(status_code=200)

    async def _describe_resource(self, request: Request) -> Response:
        return Response(
            status_code=204, headers={"accept-patch": FRAGMENT, "allow": "PATCH, DELETE, OPTIONS"}
        )

    # Entrance.

    def _authorize(self, request: Request) -> str | None:
        """Return the API key whose sessions the caller may watch; None: those of nobody, or the token's.

        Raises:
            Unauthorized: neither a key nor this session's token.
        """
        bearer = bearer_of(request)
        try:
            key_id = self._keyring.authenticate(request).key_id
        except Unauthorized:
            if not bearer:
                raise
            key_id = self._tokens.check(bearer, request.path_params["session_id"])
        if self._config.gateway.allowed_origins or (key_id is None and not bearer):
            try:
                check_origin(request, self._config.gateway)
            except Unauthorized as error:
                raise WhepRefused(403, str(error)) from None
        return key_id

    @asynccontextmanager
    async def _session(self, request: Request) -> AsyncIterator[SessionLink]:
        """Stand beside the request's session, which goes on when the request is answered."""
        key_id = self._authorize(request)
        link = await self._attached(request.path_params["session_id"])
        try:
            facts = await link.facts()
            # Another key's session is as good as none: nothing tells that it is there.
            if facts.is_closed or facts.key_id != key_id:
                raise SessionNotFound("no such session; it has ended or never was")
            yield link
        finally:
            # Shielded: a request that is cancelled lets go of its session all the same.
            await asyncio.shield(self._farewells.let_go(link, for_good=False))

    async def _attached(self, session_id: str) -> SessionLink:
        try:
            return await self._opener.attach(session_id, take_over=False)
        except SessionNotFound as missing:
            facts = await self._opener.facts(session_id)
            if facts.is_closed:
                raise missing from None
        detail = "the session is not live yet; post the offer again in a moment"
        raise WhepRefused(409, detail, {"retry-after": str(math.ceil(NOT_LIVE_S))})

    # Answers.

    def _route(self, path: str, methods: Mapping[str, Endpoint]) -> Route:
        async def serve(request: Request) -> Response:
            method = methods.get(request.method)
            if method is None:
                allow = ", ".join(methods)
                response = _problem(405, f"expected a method of {allow}, found another", {"allow": allow})
            else:
                response = await _told(method, request)
            self._add_cors(request, response, methods)
            return response

        return Route(path, serve, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])

    def _add_cors(self, request: Request, response: Response, methods: Mapping[str, Endpoint]) -> None:
        """Let pages read the answer: those of the allowed origins, or all where none are named."""
        origin = request.headers.get("origin")
        allowed = [item.rstrip("/").lower() for item in self._config.gateway.allowed_origins] or ["*"]
        response.headers.add_vary_header("Origin")
        if origin is None or not ("*" in allowed or origin.lower() in allowed):
            return
        response.headers["access-control-allow-origin"] = "*" if "*" in allowed else origin
        response.headers["access-control-expose-headers"] = EXPOSED
        if request.method == "OPTIONS":
            response.headers["access-control-allow-methods"] = ", ".join(methods)
            response.headers["access-control-allow-headers"] = (
                "Authorization, Content-Type, If-Match, X-Api-Key"
            )
            response.headers["access-control-max-age"] = "600"

    def _add_ice_links(self, response: Response) -> None:
        for server in self._config.ice.servers:
            for link in ice_links(server):
                response.headers.append("link", link)


async def _told(method: Endpoint, request: Request) -> Response:
    try:
        return await method(request)
    except ClientDisconnect:
        return Response(status_code=400)
    except AvatarError as error:
        status, headers = _status(error)
        logger.info("WHEP request refused: %d %s", status, error.code)
        return _problem(status, str(error) or error.code, headers)
    except Exception as error:
        # Whatever failed in one request, its player is told and the others go on.
        logger.exception("a WHEP request failed")
        return _problem(500, unexpected(error))


def _status(error: AvatarError) -> tuple[int, dict[str, str]]:
    if isinstance(error, WhepRefused):
        return error.status, error.headers
    if isinstance(error, BodyRefused):
        return error.status, {}
    if isinstance(error, CapacityError):
        return 503, {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, Unauthorized):
        return 401, {"www-authenticate": "Bearer"}
    if isinstance(error, SessionNotFound | HostLost):
        return 404, {}
    return (400 if isinstance(error, ClientError) else 500), {}


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as RFC 9457 has it."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    told = {"cache-control": "no-store"} | dict(headers or {})
    return JSONResponse(body, status, told, "application/problem+json")


def _check_match(given: str | None, viewer_id: str, ufrag: str | None) -> None:
    """Check If-Match (RFC 9725, section 4.3.1) against the player and its ICE generation.

    Raises:
        WhepRefused: 428 it is missing, 412 it is another's, 422 the fragment restarts ICE.
    """
    if given is None:
        raise WhepRefused(428, "expected If-Match with the ETag of the answer, found none")
    tags = [tag.strip() for tag in given.split(",")]
    restart = WhepRefused(422, "ICE restarts are not served; post a new offer to the endpoint")
    if tags in (["*"], ['"*"']):
        raise restart
    player = _etag(viewer_id, None)[:-1]
    mine = [tag for tag in tags if tag.startswith(player)]
    if not mine:
        raise WhepRefused(412, "expected If-Match with the ETag of the answer, found another")
    if ufrag is not None and _etag(viewer_id, ufrag) not in mine:
        raise restart


def _etag(viewer_id: str, ufrag: str | None) -> str:
    """Return the entity tag of a player's ICE generation; made of both, so that nothing need be kept."""
    generation = "" if ufrag is None else _digest(ufrag)
    return f'"{_digest(viewer_id)}{generation}"'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _require_type(request: Request, *allowed: str) -> None:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in allowed:
        raise WhepRefused(415, f"expected Content-Type {' or '.join(allowed)}, found {found[:64] or 'none'}")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidDescription("expected text in UTF-8, found something else") from None
