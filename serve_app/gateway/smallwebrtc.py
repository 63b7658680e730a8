"""The SmallWebRTC door: Pipecat's `/api/offer` (protocols, section 6).

`POST {sdp, type, pc_id?, restart_pc?, request_data?}` opens a session with a conversation, held by the
configured agent over the offer's microphone, and answers `{sdp, type, pc_id}`; `pc_id` is the session's id.
With the id of a running session the offer takes a new peer of it, whether `restart_pc` is set or not: aiortc
cannot restart ICE, and a new peer also does for a renegotiation. An id that is not known opens a new session,
as Pipecat does. `PATCH {pc_id, candidates}` trickles. The session lives as long as its peer.

Pipecat's own data channel (`signalling` and RTVI messages) is not served; a channel `oai-events` carries the
conversation's events (OpenAI Realtime, GA).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.config import AppConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import (
    AvatarError,
    AvatarInvalid,
    CapacityError,
    ClientError,
    HostLost,
    InvalidMessage,
    QuotaExceeded,
    SessionNotFound,
    Unauthorized,
)
from serve_app.gateway.auth import Keyring, check_origin
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.http_body import BodyRefused, read_body
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.session.request import SessionRequest

logger = logging.getLogger("serve_app.gateway")

MAX_BODY_BYTES = 131_072
MAX_SDP_CHARS = 65_536
MAX_CANDIDATES = 64

Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[Request, str | None], Awaitable[dict[str, Any]]]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Offer(_Wire):
    """A client's offer; `request_data` becomes the session's metadata."""

    sdp: str = Field(max_length=MAX_SDP_CHARS)
    type: str = Field(default="offer", pattern="^offer$")
    pc_id: str | None = Field(default=None, max_length=256)
    restart_pc: bool | None = None
    request_data: dict[str, Any] | None = None


class TrickledCandidate(_Wire):
    """One candidate, in Pipecat's spelling of W3C's names."""

    candidate: str = Field(max_length=1024)
    sdp_mid: str | None = Field(default=None, max_length=64)
    sdp_mline_index: int | None = Field(default=None, ge=0, le=65_535)

    def init(self) -> dict[str, object] | None:
        """Return W3C's RTCIceCandidateInit; None ends the candidates."""
        if not self.candidate:
            return None
        return {
            "candidate": self.candidate,
            "sdpMid": self.sdp_mid,
            "sdpMLineIndex": 0
            if self.sdp_mid is None and self.sdp_mline_index is None
            else self.sdp_mline_index,
        }


class Trickle(_Wire):
    """Candidates of a session's peer."""

    pc_id: str = Field(max_length=256)
    candidates: list[TrickledCandidate] = Field(max_length=MAX_CANDIDATES)


class SmallWebRtcDoor:
    """Serves Pipecat's clients.

    Args:
        opener: admits sessions and finds running ones.
        keyring: the API keys.
        config: the whole configuration.
    """

    def __init__(self, opener: SessionOpener, keyring: Keyring, config: AppConfig) -> None:
        self._opener = opener
        self._keyring = keyring
        self._config = config
        self._farewells = Farewells()

    def routes(self) -> list[BaseRoute]:
        """Return the route; pages of the allowed origins may use it, of all where none are named."""
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._config.gateway.allowed_origins or ["*"],
            allow_methods=["POST", "PATCH"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
        return [Route("/api/offer", self._serve, methods=["POST", "PATCH", "OPTIONS"], middleware=[cors])]

    async def _serve(self, request: Request) -> Response:
        handlers: dict[str, Handler] = {"POST": self._offer, "PATCH": self._trickle}
        handler = handlers.get(request.method)
        if handler is None:
            return Response(status_code=204, headers={"allow": "POST, PATCH, OPTIONS"})
        try:
            return JSONResponse(await handler(request, self._admit(request)))
        except ClientDisconnect:
            return Response(status_code=400)
        except AvatarError as error:
            return _refused(error)
        except Exception as error:
            # Whatever failed in one request, its client is told and the others go on.
            logger.exception("a SmallWebRTC request failed")
            return JSONResponse({"detail": f"the server failed at this ({type(error).__name__})"}, 500)

    def _admit(self, request: Request) -> str | None:
        key_id = self._keyring.authenticate(request).key_id
        if self._config.gateway.allowed_origins or key_id is None:
            check_origin(request, self._config.gateway)
        return key_id

    async def _offer(self, request: Request, key_id: str | None) -> dict[str, Any]:
        offer = await _parsed(request, Offer)
        link = await self._running(offer.pc_id, key_id) if offer.pc_id else None
        is_new = link is None
        if link is None:
            link = await self._opener.open(
                SessionRequest(
                    key_id=key_id,
                    conversation=ConversationSpec(sound_in="track", sound_out="media"),
                    kept_by=("peer",),
                    metadata=offer.request_data or {},
                )
            )
        try:
            answer = await link.answer(offer.sdp)
        except BaseException:
            # Nobody knows a session whose offer was not answered; one that ran before goes on.
            await asyncio.shield(self._farewells.let_go(link, for_good=is_new))
            raise
        await asyncio.shield(self._farewells.let_go(link, for_good=False))
        return {"sdp": answer, "type": "answer", "pc_id": link.session_id}

    async def _trickle(self, request: Request, key_id: str | None) -> dict[str, Any]:
        trickle = await _parsed(request, Trickle)
        link = await self._running(trickle.pc_id, key_id)
        if link is None:
            raise SessionNotFound("pc_id: expected that of a running session, found another")
        try:
            for candidate in trickle.candidates:
                await link.add_candidate(candidate.init())
        finally:
            await asyncio.shield(self._farewells.let_go(link, for_good=False))
        return {"status": "success"}

    async def _running(self, session_id: str, key_id: str | None) -> SessionLink | None:
        """Return a link beside a running session of the caller's; None when there is none."""
        try:
            link = await self._opener.attach(session_id, take_over=False)
        except (SessionNotFound, HostLost):
            return None
        try:
            facts = await link.facts()
            if not facts.is_closed and facts.key_id == key_id:
                return link
        except (SessionNotFound, HostLost):
            logger.info("session %s: ended while its client came back", link.session_id)
        await asyncio.shield(self._farewells.let_go(link, for_good=False))
        return None


async def _parsed(request: Request, model: type[Model]) -> Model:
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        return model.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in detail["loc"])
        raise InvalidMessage(f"{field or 'body'}: {detail['msg']}") from None
    except ValueError:
        raise InvalidMessage("expected a JSON object, found something else") from None


def _refused(error: AvatarError) -> Response:
    """Return an error in the shape of Pipecat's own server."""
    headers = {"cache-control": "no-store"}
    if isinstance(error, CapacityError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, BodyRefused):
        status = error.status
    return JSONResponse({"detail": str(error) or error.code}, status, headers)


_STATUSES: tuple[tuple[type[AvatarError], int], ...] = (
    (CapacityError, 503),
    (Unauthorized, 401),
    (QuotaExceeded, 429),
    (SessionNotFound, 404),
    (AvatarInvalid, 404),
    (ClientError, 400),
)
