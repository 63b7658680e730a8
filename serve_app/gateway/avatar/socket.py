"""The avatar socket of document 001: speech in, confirmations out; the face appears in the session's room.

The session was made by `POST /v1/sessions`; the first message, session.init, joins it with its token. A
socket that closes with code 1000 ends its session; after any other end another socket may join it again
within the grace time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock, MonotonicClock
from serve_app.errors import AvatarError, HostLost, SessionNotFound
from serve_app.gateway.avatar.messages import (
    AUDIO_FAILED,
    NO_CONFIG,
    NOT_ASSIGNED,
    SESSION_NOT_FOUND,
    UNKNOWN_TYPE,
    ConnectionEstablished,
    DocumentError,
    ErrorMessage,
    InterruptConfirmed,
    ServerMessage,
    SessionEndingMessage,
    SpeakConfirmed,
    init_of,
    parse,
    speech_of,
    type_of,
)
from serve_app.gateway.door_socket import CLIENT_LEFT, TRY_AGAIN_LATER, DoorSocket, SocketLimits
from serve_app.gateway.farewell import Farewells
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.open_ended import OpenEndedSpeech
from serve_app.gateway.tokens import SessionTokens, TokenRefused
from serve_app.nouns import SPEECH_HZ
from serve_app.session.events import GenerationFailed, RoomChanged, SessionClosed, SessionEnding, SessionEvent

logger = logging.getLogger("serve_app.gateway")

PATH = "/v1/avatar"

INIT_S = 30.0
INIT_TRIES = 5
"""A client may correct its session.init so often before the socket is closed."""

UNAUTHORIZED, TAKEN_OVER, ENDED = 4401, 4409, 4408


class AvatarSocketDoor:
    """Serves avatar sockets.

    Args:
        opener: finds running sessions.
        tokens: checks session tokens.
        limits: what one socket may cost.
        clock: the time.
    """

    def __init__(
        self,
        opener: SessionOpener,
        tokens: SessionTokens,
        *,
        limits: SocketLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._opener = opener
        self._tokens = tokens
        self._limits = limits or SocketLimits()
        self._clock = clock or MonotonicClock()
        self._farewells = Farewells()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        return [WebSocketRoute(PATH, self.__call__)]

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one socket from its upgrade to its end."""
        try:
            await websocket.accept()
            link = await asyncio.wait_for(self._join(websocket), INIT_S)
        except TimeoutError:
            await websocket.close(UNAUTHORIZED)
            return
        except (WebSocketDisconnect, RuntimeError):
            # The client left while it was waiting; Starlette says so with either of these.
            return
        if link is None:
            await websocket.close(UNAUTHORIZED)
            return
        connection = _Connection(websocket, link, self._limits, self._clock)
        try:
            await connection.run()
        finally:
            self._farewells.let_go(link, for_good=connection.has_said_goodbye)

    async def _join(self, websocket: WebSocket) -> SessionLink | None:
        """Return the session that the client names, or None when it named none in `INIT_TRIES`."""
        for _ in range(INIT_TRIES):
            frame = await websocket.receive()
            if frame["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            try:
                link = await self._find(frame.get("text"))
            except DocumentError as error:
                logger.info("avatar socket refused: %s", error)
                await websocket.send_text(_text(ErrorMessage(error=str(error))))
                continue
            await websocket.send_text(_text(ConnectionEstablished(session_id=link.session_id)))
            logger.info("session %s: avatar socket opened", link.session_id)
            return link
        return None

    async def _find(self, text: str | None) -> SessionLink:
        session_id, token = init_of(parse(text))
        try:
            self._tokens.check(token, session_id)
        except TokenRefused as error:
            raise DocumentError(NOT_ASSIGNED if error.reason == "wrong_session" else NO_CONFIG) from error
        try:
            return await self._opener.attach(session_id, take_over=True)
        except (SessionNotFound, HostLost) as error:
            raise DocumentError(SESSION_NOT_FOUND) from error


class _Connection:
    """A joined socket."""

    def __init__(self, websocket: WebSocket, link: SessionLink, limits: SocketLimits, clock: Clock) -> None:
        self._link = link
        self._socket = DoorSocket(websocket, f"session {link.session_id}", limits, clock)
        self._speech = OpenEndedSpeech(link, clock)

    @property
    def has_said_goodbye(self) -> bool:
        """Whether the client ended its session."""
        return self._socket.has_said_goodbye

    async def run(self) -> None:
        """Serve until the client leaves, the session ends or a limit is broken."""
        await self._socket.serve(self._receive, [self._relay, self._end_utterances], _flooded)

    async def _receive(self, frame: Message) -> Iterable[str]:
        try:
            return map(_text, await self._answer(frame.get("text")))
        except DocumentError as error:
            return [_text(ErrorMessage(error=str(error)))]
        except AvatarError as error:
            return [_text(ErrorMessage(error=f"{AUDIO_FAILED}{error}"))]
        except Exception:
            # One message's failure is told to its client, and the socket lives on.
            logger.exception("session %s: a message failed", self._link.session_id)
            return [_text(ErrorMessage(error="Internal error; the server's log says more"))]

    async def _answer(self, text: str | None) -> list[ServerMessage]:
        message = parse(text)
        match message.get("type"):
            case "agent.speak":
                samples, hz = speech_of(message)
                self._speech.feed(samples, hz)
                return [SpeakConfirmed(audio_samples=round(len(samples) * SPEECH_HZ / hz))]
            case "agent.speak_end":
                # Clients count confirmations: this message of document 000, taken as an extension, has none.
                self._speech.end()
                return []
            case "agent.interrupt":
                self._speech.interrupted()
                await self._link.interrupt()
                return [InterruptConfirmed()]
        raise DocumentError(f"{UNKNOWN_TYPE}{type_of(message)}")

    async def _end_utterances(self) -> int:
        await self._speech.run()
        return CLIENT_LEFT

    async def _relay(self) -> int:
        try:
            async for event in self._link.events():
                if not await self._socket.tell(map(_text, _messages(event))):
                    return TRY_AGAIN_LATER
                if isinstance(event, SessionClosed):
                    return ENDED
        except AvatarError as error:
            await self._socket.tell([_text(ErrorMessage(error=f"{SESSION_NOT_FOUND}: {error}"))])
            return ENDED
        return TAKEN_OVER


def _messages(event: SessionEvent) -> list[ServerMessage]:
    match event:
        case GenerationFailed():
            return [ErrorMessage(error=f"Video generation failed: {event.detail}")]
        case RoomChanged(state="failed"):
            return [ErrorMessage(error=f"Failed to join the room: {event.detail}")]
        case SessionEnding():
            return [SessionEndingMessage(reason=event.reason, in_s=round(event.in_s, 1))]
        case SessionClosed():
            return [ErrorMessage(error=f"{SESSION_NOT_FOUND}: it has ended ({event.reason})")]
    return []


def _text(message: ServerMessage) -> str:
    return message.model_dump_json()


def _flooded(detail: str) -> str:
    return _text(ErrorMessage(error=f"Too many messages: {detail}"))
