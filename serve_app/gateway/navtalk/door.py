"""The NavTalk door: document 002's one WebSocket at `/wss/v2/realtime-chat`, and the look-ups before it.

The server offers; speech, text and pictures go to a conversation of the session, or with
`model=transparency` straight to the avatar. A session ends with its socket.

A socket that may not enter is told why by one of the events `conversation.connected.*` and closed: 4401 no
valid licence, or a page of another origin; 4404 no such avatar; 1008 ("Insufficient points") no minutes
left; 1013 no room, or the key's sessions are all running; 1011 the server failed. A session that ends tells
so likewise: 4408 it ran out; 1008 its minutes did; 1012 its host is gone. Every other error is an event
`error`, and the socket stays open.

The first version's two sockets (`/api/realtime-api`, `/api/webrtc`) are not served: document 002 says that
its one socket takes their place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.avatars.store import AvatarStore
from serve_app.clock import Clock, MonotonicClock
from serve_app.config import AppConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import (
    AvatarError,
    CapacityError,
    ClientError,
    ConcurrencyExceeded,
    HostLost,
    InvalidMessage,
    ModelError,
    QuotaExceeded,
    Unauthorized,
    unexpected,
)
from serve_app.gateway.auth import Caller, Keyring, check_origin
from serve_app.gateway.door_socket import TRY_AGAIN_LATER, DoorSocket, Lane, SocketLimits, cancelled
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.navtalk.avatars import AvatarDirectory, Choice
from serve_app.gateway.navtalk.dialogue import Dialogue
from serve_app.gateway.navtalk.messages import (
    Answer,
    Candidate,
    Offer,
    connected,
    error_event,
    parse_message,
    refused,
    warning,
)
from serve_app.gateway.navtalk.mirror import Mirror
from serve_app.gateway.navtalk.rest import AvatarLookups, license_of
from serve_app.gateway.navtalk.signalling import Signalling
from serve_app.session.events import GenerationFailed, PeerChanged, SessionClosed, SessionEnding, SessionEvent
from serve_app.session.request import SessionRequest

logger = logging.getLogger("serve_app.gateway")

PATH = "/wss/v2/realtime-chat"
TRANSPARENCY = "transparency"
DEFAULT_MODEL = "gpt-realtime"
MAX_MODEL_CHARS = 128

NO_POINTS = "Insufficient points"
"""Close reason that NavTalk's clients know (protocols, section 3.3)."""

SESSION: dict[str, Any] = {
    "modalities": ["audio", "text"],
    "input_audio_format": "pcm16",
    "output_audio_format": "pcm16",
    "input_audio_transcription": {"model": "whisper-1"},
    "turn_detection": {"type": "server_vad"},
}
"""A conversation as NavTalk's clients expect it (beta): both sides' words are told, turns are heard."""

CLOSINGS = {
    "expired": ("close", "Session timeout: its longest time is over", 4408),
    "idle": ("close", "Session timeout: nobody was watching", 4408),
    "quota": ("insufficient_balance", "Insufficient balance to continue service", 1008),
    "host_lost": ("backend_error", "The session's host is gone; connect again", 1012),
    "shutdown": ("backend_error", "The server is shutting down; connect again", 1012),
}
"""Event, message and close code for the reasons a session ends."""

TAKEN_OVER = 4409


class NavTalkDoor:
    """Serves sockets and look-ups of NavTalk's clients.

    Args:
        opener: admits sessions.
        keyring: the API keys; NavTalk calls one a licence.
        config: the whole configuration.
        store: the avatars; None for the configured ones.
        limits: what one socket may cost.
        clock: the time.
    """

    def __init__(
        self,
        opener: SessionOpener,
        keyring: Keyring,
        config: AppConfig,
        *,
        store: AvatarStore | None = None,
        limits: SocketLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._opener = opener
        self._keyring = keyring
        self._config = config
        self._directory = AvatarDirectory(store or AvatarStore(config.avatars.store), config.avatars)
        self._limits = limits or SocketLimits()
        self._clock = clock or MonotonicClock()
        self._farewells = Farewells()

    def routes(self) -> list[BaseRoute]:
        """Return the socket's route, and those of the look-ups and pictures."""
        lookups = AvatarLookups(self._directory, self._authenticate, self._config)
        return [WebSocketRoute(PATH, self._serve), *lookups.routes()]

    async def _serve(self, websocket: WebSocket) -> None:
        """Serve one socket from its upgrade to its end."""
        try:
            await websocket.accept()
            admitted = await self._admit(websocket)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while it was waiting; Starlette says so with either of these.
            return
        if admitted is None:
            return
        link, choice = admitted
        is_mirror = websocket.query_params.get("model") == TRANSPARENCY
        try:
            connection = _Connection(
                websocket, link, self._config, self._limits, self._clock, is_mirror=is_mirror
            )
            await connection.run(choice)
        finally:
            self._farewells.let_go(link, for_good=True)

    async def _admit(self, websocket: WebSocket) -> tuple[SessionLink, Choice] | None:
        """Return a session and its avatar, or None when the socket has been refused."""
        caller = Caller()
        try:
            caller = self._authenticate(websocket)
            query = websocket.query_params
            choice = await asyncio.to_thread(self._directory.choose, query.get("name"), query.get("avatarId"))
            request = self._request(choice, query.get("model"), caller.key_id)
            return await self._opener.open(request), choice
        except AvatarError as error:
            event, code, reason = _refusal(error, caller)
        except Exception as error:
            # Whatever failed in one admission, its client is told and the others go on.
            logger.exception("a session could not be opened")
            event, code, reason = connected("backend_error", unexpected(error)), 1011, ""
        logger.info("socket refused: %s", event["type"])
        await websocket.send_text(json.dumps(event))
        await websocket.close(code, reason)
        return None

    def _authenticate(self, connection: HTTPConnection) -> Caller:
        """Return who calls; a licence is a right by itself, without one the page's origin counts.

        Raises:
            Unauthorized: no licence that is known, or a page that may not enter.
        """
        caller = self._keyring.authenticate(connection, license_of(connection))
        is_socket = connection.scope["type"] == "websocket"
        if self._config.gateway.allowed_origins or (is_socket and caller.key_id is None):
            check_origin(connection, self._config.gateway)
        return caller

    def _request(self, choice: Choice, model: str | None, key_id: str | None) -> SessionRequest:
        if model == TRANSPARENCY:
            return SessionRequest(avatar_id=choice.card.avatar_id, key_id=key_id)
        spec = ConversationSpec(
            dialect="beta",
            session=SESSION,
            model=(model or DEFAULT_MODEL)[:MAX_MODEL_CHARS],
            sound_in="events",
            sound_out="events" if self._config.navtalk.sends_sound else "media",
        )
        return SessionRequest(avatar_id=choice.card.avatar_id, key_id=key_id, conversation=spec)


class _Connection:
    """One socket and its session.

    Signalling has a lane of its own, so that speech never waits for ICE gathering.
    """

    def __init__(
        self,
        websocket: WebSocket,
        link: SessionLink,
        config: AppConfig,
        limits: SocketLimits,
        clock: Clock,
        *,
        is_mirror: bool,
    ) -> None:
        self._link = link
        self._config = config
        self._session_id = link.session_id
        self._socket = DoorSocket(websocket, f"session {link.session_id}", limits, clock)
        self._signalling = Signalling(link, clock, limits.waiting_signals, config.ice.connect_timeout_s)
        self._mirror = Mirror(link, clock, config.navtalk.silence_s) if is_mirror else None
        self._voice = self._mirror or Dialogue(link.converse)
        self._max_sound_chars = config.gateway.max_chunk_bytes * 4 // 3 + 4

    async def run(self, choice: Choice) -> None:
        """Serve until the client leaves, the session ends or a limit is broken."""
        servers = [server.for_client() for server in self._config.ice.servers]
        events = [connected("success", sessionId=self._session_id, iceServers=servers)]
        if choice.warning is not None:
            events.append(warning(choice.warning, avatarId=choice.card.avatar_id))
        await self._tell(events)
        logger.info("session %s: socket opened", self._session_id)
        await self._socket.serve(self._receive_frame, self._lanes(), self._flooded)

    def _lanes(self) -> Sequence[Lane]:
        return [self._negotiate, *([] if self._mirror is None else [self._end_utterances])]

    async def _receive_frame(self, frame: Message) -> list[str]:
        return _texts(await self._guarded(lambda: self._receive(frame)))

    async def _receive(self, frame: Message) -> list[dict[str, Any]]:
        text: str | None = frame.get("text")
        if text is None:
            raise InvalidMessage("expected a text frame with a JSON object, found a binary frame")
        message = parse_message(text, self._max_sound_chars)
        if isinstance(message, Answer | Offer | Candidate):
            self._signalling.take(message)
            return []
        return await self._voice.receive(message)

    def _flooded(self, detail: str) -> str:
        return json.dumps(error_event(InvalidMessage(detail)))

    # The lanes. Each returns a close code.

    async def _negotiate(self) -> int:
        """Offer, and when that is out let the session speak: clients need its events in this order."""
        try:
            offer = await self._signalling.offer()
        except AvatarError as error:
            return await self._end(connected("backend_error", str(error) or error.code), 1011)
        except Exception as error:
            # Without an offer there is no picture; the client is told and the others go on.
            logger.exception("session %s: nothing could be offered", self._session_id)
            return await self._end(connected("backend_error", unexpected(error)), 1011)
        if not await self._tell([offer, *self._voice.opening()]):
            return TRY_AGAIN_LATER
        relay, signal = asyncio.ensure_future(self._relay()), asyncio.ensure_future(self._signal())
        try:
            done, _ = await asyncio.wait({relay, signal}, return_when=asyncio.FIRST_COMPLETED)
            return min(task.result() for task in done)
        finally:
            await cancelled([relay, signal])

    async def _signal(self) -> int:
        while True:
            if not await self._tell(await self._guarded(self._signalling.step)):
                return TRY_AGAIN_LATER

    async def _relay(self) -> int:
        try:
            async for event in self._link.events():
                if isinstance(event, SessionClosed):
                    return await self._session_closed(event)
                if not await self._tell(self._told(event)):
                    return TRY_AGAIN_LATER
        except HostLost:
            return await self._session_closed(SessionClosed("host_lost"))
        except Exception as error:
            # A session without events is of no use to its client.
            logger.exception("session %s: its events failed", self._session_id)
            return await self._end(connected("backend_error", unexpected(error)), 1011)
        return await self._end(connected("close", "Another socket took the session over"), TAKEN_OVER)

    async def _end_utterances(self) -> int:
        assert self._mirror is not None, "the lane of a mirror"
        await self._mirror.end_by_silence()
        return TRY_AGAIN_LATER

    # Events.

    def _told(self, event: SessionEvent) -> list[dict[str, Any]]:
        match event:
            case PeerChanged():
                self._signalling.peer_changed(event)
            case SessionEnding(reason, in_s):
                text = f"The session ends in {in_s:.0f} seconds ({reason})"
                return [warning(text, reason=reason, inSeconds=round(in_s))]
            case GenerationFailed():
                return [refused(event.detail, event.code)]
            case _:
                return self._voice.tell(event)
        return []

    async def _session_closed(self, event: SessionClosed) -> int:
        closing = CLOSINGS.get(event.reason)
        if closing is None:
            return await self._end(connected("close", "Connection closed by server"), 1000)
        outcome, message, code = closing
        return await self._end(
            connected(outcome, message), code, NO_POINTS if event.reason == "quota" else message
        )

    async def _end(self, event: dict[str, Any], code: int, reason: str | None = None) -> int:
        self._socket.close_reason = reason or str(event["message"])
        await self._tell([event])
        return code

    async def _tell(self, events: list[dict[str, Any]]) -> bool:
        return await self._socket.tell(_texts(events))

    async def _guarded(self, step: Callable[[], Awaitable[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
        """Take a step; whatever it raises becomes an error event, and the socket lives on."""
        try:
            return await step()
        except AvatarError as error:
            return [error_event(error)]
        except Exception as error:
            logger.exception("session %s: a message failed", self._session_id)
            return [error_event(AvatarError(unexpected(error)))]


def _refusal(error: AvatarError, caller: Caller) -> tuple[dict[str, Any], int, str]:
    """Return the event, close code and close reason of a refused socket."""
    text = str(error) or error.code
    if isinstance(error, QuotaExceeded):
        return connected("insufficient_balance", text), 1008, NO_POINTS
    if isinstance(error, ConcurrencyExceeded):
        return connected("connection_limit_exceeded", _limit_text(caller)), TRY_AGAIN_LATER, ""
    if isinstance(error, CapacityError):
        return connected("gpu_full", text), TRY_AGAIN_LATER, ""
    if isinstance(error, Unauthorized):
        return connected("fail", text), 4401, ""
    if isinstance(error, ClientError | ModelError):
        return connected("fail", text), 4404, ""
    return connected("backend_error", text), 1011, ""


def _limit_text(caller: Caller) -> str:
    limit = None if caller.limits is None else caller.limits.max_concurrent
    count = "" if limit is None else f" ({limit})"
    return f"Maximum concurrent connections{count} exceeded. Please close other connections and try again."


def _texts(events: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(event) for event in events]
