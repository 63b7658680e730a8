"""The Audio-to-Video door: document 000's WebSocket at `/webrtc` and `/`.

A socket is a control channel: it carries signalling, speech in and events out, and no media state. When it
is cut, the session lives on for its grace time, and `?session_id=…&resume_token=…` takes it over; a client
that closes with code 1000 ends its session.

Every error is an event and the socket stays open, but for these, told before the close code: 4401 no valid
token, or a page of another origin; 4404 no such avatar or model; 1013 no room, or a reader too slow; 1008
too many messages; 1011 the server failed; 1012 the session's host is gone; 4408 the session ran out; 4409
another socket took the session over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock, MonotonicClock
from serve_app.config import AppConfig
from serve_app.errors import (
    AvatarError,
    AvatarInvalid,
    CapacityError,
    HostLost,
    InvalidDescription,
    InvalidMessage,
    ModelNotLoaded,
    SessionNotFound,
    Unauthorized,
    unexpected,
)
from serve_app.gateway.a2v.audio import A2vAudio, AudioLimits, Fault
from serve_app.gateway.a2v.messages import (
    AgentAudioChunk,
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    ConnectionEstablished,
    ErrorEvent,
    ServerEvent,
    VideoFormat,
    WebRtcAnswer,
    WebRtcIceCandidate,
    WebRtcOffer,
    error_event,
    parse_message,
    server_events,
)
from serve_app.gateway.auth import Caller, Keyring, check_origin
from serve_app.gateway.door_socket import TRY_AGAIN_LATER, DoorSocket, SocketLimits
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.session.events import SessionClosed
from serve_app.session.request import SessionRequest

logger = logging.getLogger("serve_app.gateway")

Given = TypeVar("Given")

VIDEO_SIZE = (512, 512)
"""Width and height of an avatar's picture (document 000, Video Output)."""

CLOSE_CODES = {
    "client": 1000,
    "expired": 4408,
    "idle": 4408,
    "quota": 4408,
    "host_lost": 1012,
    "shutdown": 1012,
}
"""WebSocket close codes for the reasons a session ends."""

TAKEN_OVER = 4409

EMPTY_ANSWER = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
"""The answer to an offer without media lines: as many lines as were offered (RFC 3264 section 6)."""

NO_VIDEO = (
    "expected an offer with a video line, found none; call "
    "pc.addTransceiver('video', {direction: 'recvonly'}), and the same for 'audio', before createOffer()"
)


class A2vDoor:
    """Serves sockets of the Audio-to-Video protocol.

    Args:
        opener: admits sessions and finds running ones.
        keyring: the API keys.
        config: the whole configuration.
        limits: what one socket may cost.
        clock: the time.
    """

    def __init__(
        self,
        opener: SessionOpener,
        keyring: Keyring,
        config: AppConfig,
        *,
        limits: SocketLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._opener = opener
        self._keyring = keyring
        self._config = config
        self._limits = limits or SocketLimits()
        self._clock = clock or MonotonicClock()
        self._farewells = Farewells()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        return [WebSocketRoute("/webrtc", self.__call__), WebSocketRoute("/", self.__call__)]

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one socket from its upgrade to its end."""
        try:
            await websocket.accept()
            link = await self._admit(websocket)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while it was waiting; Starlette says so with either of these.
            return
        if link is None:
            return
        connection = _Connection(websocket, link, self._config, self._limits, self._clock)
        try:
            await connection.run(self._established(link, websocket.query_params.get("model")))
        finally:
            self._farewells.let_go(link, for_good=connection.has_said_goodbye)

    async def _admit(self, websocket: WebSocket) -> SessionLink | None:
        """Return a session, or None when the socket has been refused."""
        try:
            caller = self._keyring.authenticate(websocket)
            check_origin(websocket, self._config.gateway)
            return await self._open(websocket, caller)
        except AvatarError as error:
            event, close_code = error_event(None, error), _refusal_code(error)
        except Exception as error:
            # Whatever failed in one admission, its client is told and the others go on.
            logger.exception("a session could not be opened")
            event, close_code = _internal(None, error), 1011
        logger.info("socket refused: %s", event.details["code"])
        await websocket.send_text(event.model_dump_json())
        await websocket.close(close_code)
        return None

    async def _open(self, websocket: WebSocket, caller: Caller) -> SessionLink:
        """Take over the session that the query names, or open a new one."""
        query = websocket.query_params
        if "session_id" in query or "resume_token" in query:
            session_id, token = query.get("session_id", ""), query.get("resume_token", "")
            try:
                return await self._opener.resume(session_id, token)
            except (SessionNotFound, HostLost) as error:
                lost = SessionNotFound(f"{error or error.code}; a new session follows")
            await websocket.send_text(error_event(None, lost).model_dump_json())
        return await self._opener.open(
            SessionRequest(
                avatar_id=query.get("avatar") or None,
                model=query.get("model") or None,
                key_id=caller.key_id,
            )
        )

    def _established(self, link: SessionLink, model: str | None) -> ConnectionEstablished:
        width, height = VIDEO_SIZE
        return ConnectionEstablished(
            session_id=link.session_id,
            resume_token=link.resume_token,
            resumed=link.resumed,
            lease_s=self._config.session.resume_grace_s,
            ice_servers=[server.for_client() for server in self._config.ice.servers],
            video=VideoFormat(
                width=width, height=height, fps=self._config.fps_of(model or self._config.model)
            ),
        )


class _Connection:
    """One socket and its session.

    Signalling has a lane of its own, so that speech and an interrupt never wait for ICE gathering.
    """

    def __init__(
        self, websocket: WebSocket, link: SessionLink, config: AppConfig, limits: SocketLimits, clock: Clock
    ) -> None:
        self._link = link
        self._session_id = link.session_id
        self._socket = DoorSocket(websocket, f"session {link.session_id}", limits, clock)
        self._signals: asyncio.Queue[WebRtcOffer | WebRtcIceCandidate] = asyncio.Queue(limits.waiting_signals)
        open_index = None if link.open_utterance is None else link.open_utterance.client_index
        self._audio = A2vAudio(link, AudioLimits.of(config), open_index)

    @property
    def has_said_goodbye(self) -> bool:
        """Whether the client ended its session."""
        return self._socket.has_said_goodbye

    async def run(self, established: ConnectionEstablished) -> None:
        """Serve until the client leaves, the session ends or a limit is broken."""
        await self._tell([established])
        logger.info("session %s: socket opened (resumed: %s)", self._session_id, self._link.resumed)
        await self._socket.serve(self._receive_frame, [self._signal, self._relay], self._flooded)

    async def _receive_frame(self, frame: Message) -> list[str]:
        return _texts(await self._guarded(self._receive, frame))

    def _flooded(self, detail: str) -> str:
        return error_event(self._session_id, InvalidMessage(detail)).model_dump_json()

    # The lanes. Each returns a close code.

    async def _signal(self) -> int:
        while True:
            signal = await self._signals.get()
            if not await self._tell(await self._guarded(self._negotiate, signal)):
                return TRY_AGAIN_LATER

    async def _relay(self) -> int:
        try:
            async for event in self._link.events():
                if not await self._tell(server_events(self._session_id, event)):
                    return TRY_AGAIN_LATER
                if isinstance(event, SessionClosed):
                    return CLOSE_CODES.get(event.reason, 1011)
        except HostLost as error:
            await self._tell([error_event(self._session_id, error)])
            return 1012
        except Exception as error:
            # A session without events is of no use to its client, which gets them back by resuming.
            logger.exception("session %s: its events failed", self._session_id)
            await self._tell([_internal(self._session_id, error)])
            return 1011
        return TAKEN_OVER

    async def _tell(self, events: list[ServerEvent]) -> bool:
        return await self._socket.tell(_texts(events))

    # Messages.

    async def _guarded(
        self, step: Callable[[Given], Awaitable[list[ServerEvent]]], given: Given
    ) -> list[ServerEvent]:
        """Take a step; whatever it raises becomes an error event, and the socket lives on."""
        try:
            return await step(given)
        except AvatarError as error:
            return [error_event(self._session_id, error)]
        except Exception as error:
            logger.exception("session %s: a message failed", self._session_id)
            return [_internal(self._session_id, error)]

    async def _receive(self, frame: Message) -> list[ServerEvent]:
        text: str | None = frame.get("text")
        if text is None:
            raise InvalidMessage("expected a text frame with a JSON object, found a binary frame")
        message = parse_message(text)
        if message.session_id != self._session_id:
            raise SessionNotFound("session_id: expected the one of connection.established, found another")
        if isinstance(message, WebRtcOffer | WebRtcIceCandidate):
            try:
                self._signals.put_nowait(message)
            except asyncio.QueueFull:
                limit = self._signals.maxsize
                raise InvalidMessage(f"expected at most {limit} waiting signals, found more") from None
            return []
        return await self._speak(message)

    async def _speak(
        self, message: AgentSpeak | AgentAudioChunk | AgentSpeakEnd | AgentInterrupt
    ) -> list[ServerEvent]:
        if isinstance(message, AgentInterrupt):
            self._audio.interrupted()
            await self._link.interrupt()
            return []
        if isinstance(message, AgentSpeak):
            faults = self._audio.speak(message)
        elif isinstance(message, AgentAudioChunk):
            faults = self._audio.chunk(message)
        else:
            faults = self._audio.speak_end()
        return [self._fault(fault) for fault in faults]

    def _fault(self, fault: Fault) -> ErrorEvent:
        return error_event(self._session_id, fault.error, **fault.details)

    async def _negotiate(self, message: WebRtcOffer | WebRtcIceCandidate) -> list[ServerEvent]:
        if isinstance(message, WebRtcOffer):
            return await self._answer(message.sdp)
        candidate = message.candidate
        # An empty candidate ends them, as null does (W3C webrtc-pc, 4.8.1).
        is_end = candidate is None or not candidate.candidate
        await self._link.add_candidate(
            None if candidate is None or is_end else candidate.model_dump(exclude_none=True)
        )
        return []

    async def _answer(self, offer_sdp: str) -> list[ServerEvent]:
        """Answer an offer; one without media is also answered emptily, so that the page's promises end."""
        try:
            sdp = await self._link.answer(offer_sdp)
        except InvalidDescription as error:
            if not offer_sdp.startswith("v=0") or "m=video" in offer_sdp:
                raise
            refused: list[ServerEvent] = [error_event(self._session_id, InvalidDescription(NO_VIDEO))]
            if "\nm=" not in offer_sdp:
                refused.append(WebRtcAnswer(session_id=self._session_id, sdp=EMPTY_ANSWER))
            logger.info("session %s: offer without video: %s", self._session_id, type(error).__name__)
            return refused
        return [WebRtcAnswer(session_id=self._session_id, sdp=sdp)]


def _texts(events: list[ServerEvent]) -> list[str]:
    return [event.model_dump_json() for event in events]


def _refusal_code(error: AvatarError) -> int:
    if isinstance(error, Unauthorized):
        return 4401
    if isinstance(error, CapacityError):
        return TRY_AGAIN_LATER
    return 4404 if isinstance(error, AvatarInvalid | ModelNotLoaded) else 1011


def _internal(session_id: str | None, error: Exception) -> ErrorEvent:
    return error_event(session_id, AvatarError(unexpected(error)))
