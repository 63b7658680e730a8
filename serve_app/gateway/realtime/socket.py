"""The WebSocket of the Realtime door: a conversation in events, or a sideband to a running call.

`?model=` opens a session whose sound comes and goes in events; it ends with its socket. `?call_id=` joins a
running call, hears its events and gives it more; the call outlives it (protocols, sections 4.4 and 4.9).

A refused socket is accepted, told why in an `error` event and closed, for browsers show no more than that:
3000 without a key, 4000 for a request that cannot be served, 1013 without room, 1011 when the server failed.
The end of a session closes it with 1001 and a sentence, the loss of its host with 1012.

One text frame is one event, of at most 16 MiB under Ray Serve, whose server closes the socket on longer ones
with 1009: an append of 12,582,000 bytes of sound, more than four minutes. Where a server takes longer frames,
the 15 MiB that OpenAI documents fit into MAX_EVENT_CHARS.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock
from serve_app.config import AppConfig
from serve_app.conversation import faults
from serve_app.conversation.spec import ConversationSpec, Dialect
from serve_app.gateway.door_socket import NORMAL_CLOSURE, TRY_AGAIN_LATER, DoorSocket, SocketLimits
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.realtime.access import Access, Doorkeeper, key_of_subprotocols
from serve_app.gateway.realtime.calls import check_bound, find_call, session_s
from serve_app.gateway.realtime.client_json import parse_object
from serve_app.gateway.realtime.errors import INVALID, SERVER, ApiError, api_error, refused
from serve_app.gateway.realtime.mint import checked_settings
from serve_app.session.events import ConversationEvent, SessionClosed, SessionEnding, SessionEvent
from serve_app.session.request import SessionRequest

logger = logging.getLogger("serve_app.gateway")

PROTOCOL, BETA_PROTOCOL = "realtime", "openai-beta.realtime-v1"

MAX_EVENT_CHARS = 21 * 1024 * 1024
"""15 MiB of sound in base64, and what is around it."""

GOING_AWAY, INTERNAL_ERROR, SERVICE_RESTART = 1001, 1011, 1012


class RealtimeSocketDoor:
    """Serves `/v1/realtime` as a WebSocket.

    Args:
        opener: admits sessions and finds running ones.
        doorkeeper: checks callers.
        config: the whole configuration.
        limits: what one socket may cost.
        clock: the time.
    """

    def __init__(
        self,
        opener: SessionOpener,
        doorkeeper: Doorkeeper,
        config: AppConfig,
        *,
        limits: SocketLimits,
        clock: Clock,
    ) -> None:
        self._opener = opener
        self._doorkeeper = doorkeeper
        self._config = config
        self._limits = limits
        self._clock = clock
        self._farewells = Farewells()

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one socket from its upgrade to its end."""
        # The list holds keys: it is looked at and never told.
        offered: Sequence[str] = websocket.scope.get("subprotocols", [])
        chosen = next((name for name in (PROTOCOL, BETA_PROTOCOL) if name in offered), None)
        is_sideband = "call_id" in websocket.query_params
        try:
            await websocket.accept(chosen)
            admitted = await self._admit(websocket, offered, is_sideband=is_sideband)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while it was waiting; Starlette says so with either of these.
            return
        if admitted is None:
            return
        link, max_s = admitted
        connection = _Connection(websocket, link, self._limits, self._clock, max_s)
        try:
            await connection.run(is_sideband=is_sideband)
        finally:
            self._farewells.let_go(link, for_good=not is_sideband)

    async def _admit(
        self, websocket: WebSocket, offered: Sequence[str], *, is_sideband: bool
    ) -> tuple[SessionLink, float] | None:
        """Return a session and its longest time in seconds, or None when the socket has been refused."""
        try:
            access = await self._doorkeeper.admit(websocket, key_of_subprotocols(offered))
            max_s = session_s(self._config, access.key_id)
            if is_sideband:
                call_id = websocket.query_params["call_id"]
                return await find_call(self._opener, call_id, access), max_s
            return await self._open(websocket, offered, access), max_s
        except Exception as error:
            # Whatever failed in one admission, its client is told and the others go on.
            told = api_error(error)
            if told.status == 500:
                logger.exception("a Realtime socket could not be served")
            else:
                logger.info("Realtime socket refused: %s", told.code)
        await websocket.send_text(json.dumps(told.event()))
        await websocket.close(told.close_code, f"{told.type}.{told.code}")
        return None

    async def _open(self, websocket: WebSocket, offered: Sequence[str], access: Access) -> SessionLink:
        dialect = _dialect(websocket, offered, access)
        query = websocket.query_params
        asked = query.get("model") or None
        if query.get("intent", "conversation") != "conversation":
            raise faults.wrong_value("intent", query["intent"], ["conversation"])
        check_bound(access, dialect, asked)
        if access.grant is not None:
            model, settings = access.grant.model, access.grant.session
        else:
            given = {"type": "realtime"} if dialect == "ga" else {}
            model, settings = checked_settings(dialect, given, self._config.realtime.model, asked_model=asked)
        conversation = ConversationSpec(
            dialect=dialect,
            session=settings,
            model=model,
            sound_in="events",
            sound_out="events",
            expires_s=session_s(self._config, access.key_id),
        )
        await self._doorkeeper.redeem(access)
        try:
            return await self._opener.open(
                SessionRequest(
                    avatar_id=query.get("avatar") or None,
                    key_id=access.key_id,
                    conversation=conversation,
                    awaits="socket",
                    max_duration_s=self._config.realtime.max_session_s,
                )
            )
        except BaseException:
            restoring = self._doorkeeper.restore(access)
            await asyncio.shield(self._farewells.take(restoring, "a socket's key was not given back"))
            raise


class _Connection:
    """One socket and its session."""

    def __init__(
        self, websocket: WebSocket, link: SessionLink, limits: SocketLimits, clock: Clock, max_s: float
    ) -> None:
        self._link = link
        self._socket = DoorSocket(websocket, f"session {link.session_id}", limits, clock)
        self._max_s = max_s

    async def run(self, *, is_sideband: bool) -> None:
        """Serve until the client leaves, the session ends or a limit is broken."""
        kind = "sideband" if is_sideband else "socket"
        logger.info("session %s: Realtime %s opened", self._link.session_id, kind)
        await self._socket.serve(self._receive, [self._relay], _flooded)

    async def _receive(self, frame: Message) -> Iterable[str]:
        event_id: str | None = None
        try:
            event = _parse_frame(frame)
            given = event.get("event_id")
            event_id = given if isinstance(given, str) else None
            self._link.converse(event)
        except Exception as error:
            # Whatever one event does, its client is told and the socket lives on.
            told = api_error(error)
            if told.status == 500:
                logger.exception("session %s: an event failed", self._link.session_id)
            return [json.dumps(told.event(event_id))]
        return []

    async def _relay(self) -> int:
        """Pass the conversation's events on; return a close code."""
        try:
            async for event in self._link.events():
                if isinstance(event, SessionClosed):
                    return await self._end(event.reason)
                if not await self._socket.tell(_texts(event)):
                    return TRY_AGAIN_LATER
        except Exception as error:
            # A session without events is of no use to its client.
            told = api_error(error)
            if told.status == 500:
                logger.exception("session %s: its events failed", self._link.session_id)
            return await self._close(told, SERVICE_RESTART if told.code == "host_lost" else told.close_code)
        self._socket.close_reason = "The session was taken over."
        return GOING_AWAY

    async def _end(self, reason: str) -> int:
        minutes = max(1, round(self._max_s / 60))
        sentences = {
            "expired": f"Your session hit the maximum duration of {minutes} minutes.",
            "idle": "Your session was idle for too long.",
        }
        if reason == "client":
            return NORMAL_CLOSURE
        if reason in sentences:
            return await self._close(ApiError(400, sentences[reason], "session_expired"), GOING_AWAY)
        if reason == "quota":
            message = "The minutes of your API key are used up."
            return await self._close(
                ApiError(429, message, "insufficient_quota", "insufficient_quota"), GOING_AWAY
            )
        if reason in ("host_lost", "shutdown"):
            message = "The server that held your session is gone; connect again for a new one."
            return await self._close(ApiError(503, message, reason, SERVER), SERVICE_RESTART)
        message = f"Your session has ended ({reason})."
        return await self._close(ApiError(400, message, "session_expired", INVALID), GOING_AWAY)

    async def _close(self, error: ApiError, close_code: int) -> int:
        await self._socket.tell([json.dumps(error.event())])
        self._socket.close_reason = error.message
        return close_code


def _dialect(websocket: WebSocket, offered: Sequence[str], access: Access) -> Dialect:
    """Return the dialect that a socket asks for (protocols, Decision 4.1), or else that of its key."""
    header = websocket.headers.get("openai-beta", "").replace(" ", "")
    if "realtime=v1" in header.split(",") or BETA_PROTOCOL in offered:
        return "beta"
    return "ga" if access.grant is None else access.grant.dialect


def _parse_frame(frame: Message) -> dict[str, Any]:
    text: str | None = frame.get("text")
    if text is None:
        raise refused(400, "expected a text frame with a JSON object, found a binary frame", "invalid_json")
    if len(text) > MAX_EVENT_CHARS:
        message = f"expected an event of at most {MAX_EVENT_CHARS} characters, found a longer one"
        raise refused(413, message, "event_too_large")
    return parse_object(text)


def _texts(event: SessionEvent) -> list[str]:
    """Return what a socket is told of a session's event; most are not for it."""
    if isinstance(event, ConversationEvent):
        return [json.dumps(event.event)]
    if isinstance(event, SessionEnding):
        # OpenAI gives no warning; stock clients pass over types they do not know.
        warning = {
            "type": "session.ending",
            "event_id": f"event_{secrets.token_hex(10)}",
            "reason": event.reason,
            "ends_in_ms": round(event.in_s * 1000),
        }
        return [json.dumps(warning)]
    return []


def _flooded(detail: str) -> str:
    return json.dumps(ApiError(429, detail, "rate_limit_exceeded", "rate_limit_error").event())
