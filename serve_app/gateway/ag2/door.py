"""The AG2 door: document 003's server side, its page and its script (protocols, sections 4.2 and 4.3).

`/session` is the WebSocket between the page and this backend. It tells the page an ephemeral key and the
first events (`ag2.init`), then the instructions and tools; the page opens a beta call of the Realtime door
with them, and passes function events on, which are answered here with the functions registered in Python.

Whatever the page sends, the socket stays open; what cannot be used is answered with `ag2.error`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock, MonotonicClock
from serve_app.config import Ag2Config, AppConfig
from serve_app.gateway.ag2.functions import FunctionRegistry, load_functions
from serve_app.gateway.auth import Keyring
from serve_app.gateway.door_socket import TRY_AGAIN_LATER, DoorSocket, SocketLimits
from serve_app.gateway.ephemeral import EphemeralKeys
from serve_app.gateway.realtime.access import Doorkeeper
from serve_app.gateway.realtime.client_json import parse_object
from serve_app.gateway.realtime.errors import api_error, refused
from serve_app.gateway.realtime.mint import KeyMint

logger = logging.getLogger("serve_app.gateway")

WEB = Path(__file__).parents[1] / "web" / "ag2"

MAX_MESSAGE_CHARS = 512 * 1024
"""The page's longest message: the arguments of a function, twice escaped."""

CALLS_AT_ONCE = 4
WAITING_CALLS = 32
REMEMBERED_CALLS = 256
MAX_ID_CHARS = 256


@dataclass(frozen=True, slots=True)
class _FunctionCall:
    """A function that the agent asks for; `arguments` is JSON."""

    call_id: str
    name: str
    arguments: str


class Ag2Door:
    """The routes of document 003.

    Args:
        keys: the ephemeral keys, the same as the Realtime door's.
        keyring: the API keys.
        config: the whole configuration.
        functions: what the agent may call; None for those that the configuration names.
        clock: the time.
        limits: what one socket may cost.

    Raises:
        ValueError: the configured functions cannot be loaded.
    """

    def __init__(
        self,
        keys: EphemeralKeys,
        keyring: Keyring,
        config: AppConfig,
        *,
        functions: FunctionRegistry | None = None,
        clock: Clock | None = None,
        limits: SocketLimits | None = None,
    ) -> None:
        self._config = config
        self._doorkeeper = Doorkeeper(keys, keyring, config)
        self._mint = KeyMint(keys, config)
        self._functions = load_functions(config.ag2.functions) if functions is None else functions
        self._clock = clock or MonotonicClock()
        self._limits = limits or SocketLimits(messages_per_s=200.0, burst_messages=1_000)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        return [
            Route("/start-chat/", self._page),
            Mount("/static", StaticFiles(directory=WEB)),
            WebSocketRoute("/session", self.session),
        ]

    async def session(self, websocket: WebSocket) -> None:
        """Serve one socket of a page from its upgrade to its end."""
        try:
            await websocket.accept()
            first = await self._admit(websocket)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while it was waiting; Starlette says so with either of these.
            return
        if first is not None:
            await _Backend(websocket, self._functions, self._config.ag2, self._limits, self._clock).run(first)

    async def _admit(self, websocket: WebSocket) -> list[dict[str, Any]] | None:
        """Return the first messages, or None when the socket has been refused."""
        try:
            access = await self._doorkeeper.admit_owner(websocket)
            ag2 = self._config.ag2
            body = {"model": ag2.model, "voice": ag2.voice}
            minted = await self._mint.beta(access.key_id, body, self._mint.base_url(websocket))
            return _first_messages(minted, ag2, self._functions.tools())
        except Exception as error:
            # Whatever failed in one admission, its client is told and the others go on.
            told = api_error(error)
            if told.status == 500:
                logger.exception("an AG2 socket could not be served")
            else:
                logger.info("AG2 socket refused: %s", told.code)
        await websocket.send_text(_error_text(told.message, told.code))
        await websocket.close(told.close_code, told.code)
        return None

    async def _page(self, request: Request) -> Response:
        # The page's own origin is 'self'; the calls of a configured one go there.
        elsewhere = self._config.gateway.public_url or ""
        headers = {
            "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'self'; "
            f"img-src data:; media-src 'self' blob:; connect-src 'self' ws: wss: {elsewhere}",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return FileResponse(WEB / "chat.html", headers=headers)


class _Backend:
    """One socket of a page: answers the agent's function calls."""

    def __init__(
        self,
        websocket: WebSocket,
        functions: FunctionRegistry,
        config: Ag2Config,
        limits: SocketLimits,
        clock: Clock,
    ) -> None:
        self._functions = functions
        self._timeout_s = config.function_timeout_s
        self._socket = DoorSocket(websocket, "AG2", limits, clock)
        self._calls: asyncio.Queue[_FunctionCall] = asyncio.Queue(WAITING_CALLS)
        self._unanswered = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def run(self, first: list[dict[str, Any]]) -> None:
        """Serve until the page leaves or a limit is broken."""
        if await self._socket.tell(map(json.dumps, first)):
            await self._socket.serve(self._receive, [self._answer] * CALLS_AT_ONCE, _flooded)

    async def _receive(self, frame: Message) -> list[str]:
        try:
            call = self._function_call(frame)
        except Exception as error:
            # Whatever a page sends, it is told and its socket lives on.
            told = api_error(error)
            if told.status == 500:
                logger.exception("AG2: a message failed")
            return [_error_text(told.message, told.code)]
        if call is not None and call.call_id not in self._seen:
            self._remember(call.call_id)
            self._unanswered += 1
            self._calls.put_nowait(call)
        return []

    async def _answer(self) -> int:
        """Run functions, one after the other; several of these lanes run side by side."""
        while True:
            call = await self._calls.get()
            output = await self._functions.call(call.name, call.arguments, self._timeout_s)
            self._unanswered -= 1
            item = {"type": "function_call_output", "call_id": call.call_id, "output": output}
            answer: list[dict[str, Any]] = [{"type": "conversation.item.create", "item": item}]
            if self._unanswered == 0:
                # Calls made side by side share a response: a second one would be refused while it runs.
                answer.append({"type": "response.create"})
            if not await self._socket.tell(map(json.dumps, answer)):
                return TRY_AGAIN_LATER

    def _function_call(self, frame: Message) -> _FunctionCall | None:
        """Return the call that a message completes; pages pass on every event with "function" in its type."""
        text: str | None = frame.get("text")
        if text is None or len(text) > MAX_MESSAGE_CHARS:
            message = f"expected a text frame of at most {MAX_MESSAGE_CHARS} characters, found another"
            raise refused(400, message, "invalid_message")
        event = parse_object(text)
        if event.get("type") != "response.function_call_arguments.done":
            return None
        values = {}
        for field in ("call_id", "name", "arguments"):
            value = event.get(field)
            if not isinstance(value, str):
                raise refused(400, f"expected a string as {field}, found something else", "invalid_message")
            values[field] = value
        if len(values["call_id"]) > MAX_ID_CHARS:
            raise refused(400, f"expected a call_id of at most {MAX_ID_CHARS} characters", "invalid_message")
        if self._calls.full():
            raise refused(
                429, f"expected at most {WAITING_CALLS} waiting calls, found more", "too_many_calls"
            )
        return _FunctionCall(**values)

    def _remember(self, call_id: str) -> None:
        self._seen[call_id] = None
        if len(self._seen) > REMEMBERED_CALLS:
            self._seen.popitem(last=False)


def _first_messages(
    minted: dict[str, Any], ag2: Ag2Config, tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what AG2's own backend sends first, in its order (protocols, section 4.2)."""
    session = {
        "turn_detection": {"type": "server_vad"},
        "voice": ag2.voice,
        "modalities": ["audio", "text"],
        "temperature": ag2.temperature,
    }
    messages: list[dict[str, Any]] = [
        {
            "type": "ag2.init",
            "config": {**minted, "model": ag2.model},
            "init": [{"type": "session.update", "session": session}],
        },
        {"type": "session.update", "session": {"instructions": ag2.instructions}},
    ]
    if tools:
        messages.append({"type": "session.update", "session": {"tools": tools, "tool_choice": "auto"}})
    return messages


def _error_text(message: str, code: str | None) -> str:
    return json.dumps({"type": "ag2.error", "message": message, "code": code})


def _flooded(detail: str) -> str:
    return _error_text(detail, "rate_limit_exceeded")
