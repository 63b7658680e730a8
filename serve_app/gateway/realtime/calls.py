"""Calls of the Realtime door: an SDP offer posted, an answer returned, hang-up (protocols, section 4.4).

A call is a session whose conversation speaks on the data channel `oai-events`, inside the session's host; the
session lives as long as its peer does and needs nothing of this process once the answer has left.
"""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.requests import Request
from starlette.responses import Response

from serve_app.config import AppConfig
from serve_app.conversation.spec import ConversationSpec, Dialect
from serve_app.errors import InvalidDescription, SessionNotFound
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.realtime.access import Access, Doorkeeper
from serve_app.gateway.realtime.errors import refused
from serve_app.gateway.realtime.http import JSON, MAX_SDP_BYTES, MULTIPART, SDP, PostedOffer, read_offer
from serve_app.gateway.realtime.mint import checked_settings
from serve_app.session.request import SessionRequest
from serve_app.session.usage import KeyLimits

logger = logging.getLogger("serve_app.gateway")

NO_MEDIA = (
    "expected an SDP offer with an audio or a video line, found {found}; call "
    "pc.addTransceiver('audio') and pc.addTransceiver('video', {{direction: 'recvonly'}}) before "
    "createOffer()"
)

_CALL_ID = re.compile(r"rtc_([0-9A-Za-z-]{1,128})")


class RealtimeCalls:
    """Opens calls and hangs them up.

    Args:
        opener: admits sessions and finds running ones.
        doorkeeper: checks callers.
        config: the whole configuration.
    """

    def __init__(self, opener: SessionOpener, doorkeeper: Doorkeeper, config: AppConfig) -> None:
        self._opener = opener
        self._doorkeeper = doorkeeper
        self._config = config
        self._farewells = Farewells()

    async def open_beta(self, request: Request) -> Response:
        """Answer `POST /v1/realtime?model=`: 201, as embedded clients of the beta insist on."""
        return await self._open(request, "beta")

    async def open_ga(self, request: Request) -> Response:
        """Answer `POST /v1/realtime/calls`."""
        return await self._open(request, "ga")

    async def hang_up(self, request: Request) -> Response:
        """Answer `POST /v1/realtime/calls/{call_id}/hangup`, and DELETE of the call: it ends."""
        access = await self._doorkeeper.admit(request)
        link = await find_call(self._opener, request.path_params["call_id"], access)
        logger.info("session %s: the client hung up", link.session_id)
        await asyncio.shield(self._farewells.let_go(link, for_good=True))
        return Response(status_code=200)

    async def refuse_telephony(self, request: Request) -> Response:
        """Answer `/accept`, `/reject` and `/refer`, which belong to calls by telephone."""
        await self._doorkeeper.admit(request)
        message = (
            "expected a call by SIP, which this server does not take; calls here are answered when opened"
        )
        raise refused(404, message, "sip_not_offered")

    async def _open(self, request: Request, dialect: Dialect) -> Response:
        access = await self._doorkeeper.admit(request)
        offer = await read_offer(request, (SDP,) if dialect == "beta" else (SDP, MULTIPART, JSON))
        _check_offer(offer.sdp)
        conversation = self._conversation(request, dialect, access, offer)
        await self._doorkeeper.redeem(access)
        try:
            link, answer = await self._answered(request, conversation, access, offer.sdp)
        except BaseException:
            # Cancelled or refused, the call was not answered; its key must not be lost with it.
            restoring = self._doorkeeper.restore(access)
            await asyncio.shield(self._farewells.take(restoring, "a call's key was not given back"))
            raise
        await asyncio.shield(self._farewells.let_go(link, for_good=False))
        logger.info("session %s: a call was answered (%s)", link.session_id, dialect)
        root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
        headers = {
            "location": f"{root}/v1/realtime/calls/{call_id_of(link.session_id)}",
            "cache-control": "no-store",
        }
        return Response(answer, 201, headers, SDP)

    async def _answered(
        self, request: Request, conversation: ConversationSpec, access: Access, sdp: str
    ) -> tuple[SessionLink, str]:
        link = await self._opener.open(
            SessionRequest(
                avatar_id=request.query_params.get("avatar") or None,
                key_id=access.key_id,
                conversation=conversation,
                awaits="peer",
                kept_by=("peer",),
                max_duration_s=self._config.realtime.max_session_s,
            )
        )
        try:
            return link, await link.answer(sdp)
        except BaseException:
            await asyncio.shield(self._farewells.let_go(link, for_good=True))
            raise

    def _conversation(
        self, request: Request, dialect: Dialect, access: Access, offer: PostedOffer
    ) -> ConversationSpec:
        """Return the conversation that a call is to hold: its key's, or what the request asks for."""
        asked = request.query_params.get("model") or None
        if access.grant is not None:
            grant = access.grant
            check_bound(access, dialect, asked)
            if offer.session is not None:
                message = (
                    "expected no session, found one: its settings are those the ephemeral key was minted with"
                )
                raise refused(400, message, "invalid_parameter", param="session")
            model, settings = grant.model, grant.session
        else:
            given = offer.session or ({"type": "realtime"} if dialect == "ga" else {})
            model, settings = checked_settings(dialect, given, self._config.realtime.model, asked_model=asked)
        return ConversationSpec(
            dialect=dialect,
            session=settings,
            model=model,
            sound_in="track",
            sound_out="media",
            expires_s=session_s(self._config, access.key_id),
        )


def check_bound(access: Access, dialect: Dialect, asked_model: str | None) -> None:
    """Check that an ephemeral key opens what is asked for; other keys open everything.

    Raises:
        RealtimeRefused: 400: it was minted for the other dialect or another model.
    """
    grant = access.grant
    if grant is None:
        return
    if grant.dialect != dialect:
        use = "/v1/realtime?model=" if grant.dialect == "beta" else "/v1/realtime/calls"
        message = (
            f"expected a key for the {dialect} dialect, found one minted for {grant.dialect}; post the offer "
            f"to {use}, or mint the key at the other address: /v1/realtime/sessions for beta, "
            "/v1/realtime/client_secrets for ga"
        )
        raise refused(400, message, "dialect_mismatch")
    if asked_model is not None and asked_model != grant.model:
        message = "expected the model that the ephemeral key was minted for, found another; leave out ?model="
        raise refused(400, message, "model_mismatch", param="model")


async def find_call(opener: SessionOpener, call_id: str, access: Access) -> SessionLink:
    """Return a link that listens to a running call.

    Raises:
        SessionNotFound: it ended, never was, or was opened with another API key.
    """
    matched = _CALL_ID.fullmatch(call_id)
    if matched is None:
        raise SessionNotFound("expected a call id of the form rtc_…, found something else")
    session_id = f"sess_{matched[1]}"
    facts = await opener.facts(session_id)
    if facts.is_closed or facts.key_id != access.key_id or facts.speech_from != "conversation":
        raise SessionNotFound("no such call; it has ended or never was")
    return await opener.attach(session_id, take_over=False)


def call_id_of(session_id: str) -> str:
    """Return the name that the Realtime door gives a session's call."""
    return f"rtc_{session_id.removeprefix('sess_')}"


def session_s(config: AppConfig, key_id: str | None) -> float:
    """Return how long a session of this door lasts at most, in seconds.

    Raises:
        Unauthorized: the API key it counts against is no longer configured.
    """
    longest_s = min(config.realtime.max_session_s, config.session.max_duration_s)
    limits = KeyLimits.of(config.auth, key_id)
    if limits is None or limits.max_duration_s is None:
        return longest_s
    return min(longest_s, limits.max_duration_s)


def _check_offer(sdp: str) -> None:
    if len(sdp) > MAX_SDP_BYTES:
        raise refused(413, f"expected an offer of at most {MAX_SDP_BYTES} bytes", "request_too_large")
    if not sdp.startswith("v=0"):
        raise InvalidDescription(
            "expected an SDP offer, which begins with v=0 (RFC 8866), found something else"
        )
    if "\nm=audio " not in sdp and "\nm=video " not in sdp:
        raise InvalidDescription(NO_MEDIA.format(found="only others" if "\nm=" in sdp else "none"))
