"""One WebSocket to an OpenAI-compatible Realtime server, through the official client.

Its key is in the client and in nothing that this module logs or raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from serve_app.config import RealtimeUpstream
from serve_app.errors import AgentFailed

Event = dict[str, Any]

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
EXTRA = "realtime"

CLOSE_TIMEOUT_S = 1.0
MAX_MESSAGE_BYTES = 4 * 1_048_576
MAX_SOUND_BACKLOG_BYTES = 2 * 1_048_576
"""Unsent messages, about 30 s of sound, from which on no more of the user's sound is taken on its way."""

MAX_BACKLOG_BYTES = 64 * 1_048_576
MAX_REASON_CHARS = 300
_SECRET = re.compile(r"\b(sk|ek)[-_][\w*.-]+")


class UpstreamLink:
    """A connection; made by `connect`. Events leave in the order they are given.

    Args:
        connection: the official client's AsyncRealtimeConnection.
        client: the AsyncOpenAI it belongs to.
        key: what must never be shown.
        on_event: gets every event of the server.
        on_lost: is told once, in words, why the connection is gone, unless `close` ended it.
    """

    def __init__(
        self,
        connection: Any,  # noqa: ANN401 - the extra may not be installed, nor its types
        client: Any,  # noqa: ANN401
        key: str,
        on_event: Callable[[Event], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._client = client
        self._key = key
        self._on_event = on_event
        self._on_lost: Callable[[str], None] | None = on_lost
        self._unsent: asyncio.Queue[tuple[Event, int]] = asyncio.Queue()
        self._unsent_bytes = 0
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone."""
        return self._on_lost is None

    def send(self, event: Event) -> None:
        """Send an event when those before it are sent; on a lost connection it goes nowhere."""
        size = len(event.get("audio", "")) + 256
        self._unsent_bytes += size
        if self._unsent_bytes > MAX_BACKLOG_BYTES:
            self._lose("it takes no more messages")
            return
        self._unsent.put_nowait((event, size))

    def offer(self, event: Event) -> bool:
        """Send an event unless the connection is far behind; return whether it was taken."""
        if self._unsent_bytes > MAX_SOUND_BACKLOG_BYTES:
            return False
        self.send(event)
        return True

    def drop(self) -> None:
        """Give the connection up, without a word to `on_lost`; `close` is still to be called."""
        self._on_lost = None
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """End the connection; safe to call twice."""
        self.drop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError, WebSocketException):
            await self._connection.close()
        await self._client.close()

    def readable(self, text: object) -> str:
        """Return an upstream's words for a message of ours: bounded, on one line, without keys."""
        line = " ".join(str(text).split()).replace(self._key, "(key)")
        return _SECRET.sub("(key)", line)[:MAX_REASON_CHARS]

    async def _read(self) -> None:
        while True:
            try:
                data = await self._connection.recv_bytes()
            except ConnectionClosed as closed:
                self._lose(self._reason(closed))
                return
            try:
                event = json.loads(data)
            except (ValueError, RecursionError):
                event = None
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                self._lose("it sent something that is no event")
                return
            try:
                self._on_event(event)
            except (KeyError, TypeError, ValueError, AttributeError):  # fields missing, or of other types
                self._lose(f"it sent a {self.readable(event['type'])} that cannot be read")
                return

    async def _write(self) -> None:
        while True:
            event, size = await self._unsent.get()
            try:
                await self._connection.send(event)
            except ConnectionClosed:
                return  # the reader tells
            self._unsent_bytes -= size

    def _reason(self, closed: ConnectionClosed) -> str:
        frame = closed.rcvd
        if frame is None:
            return "the connection broke"
        return f"it closed with {frame.code} {self.readable(frame.reason)}".rstrip()

    def _lose(self, reason: str) -> None:
        tell, self._on_lost = self._on_lost, None
        if tell is not None:
            tell(reason)


async def connect(
    config: RealtimeUpstream,
    on_event: Callable[[Event], None],
    on_lost: Callable[[str], None],
    environ: Mapping[str, str] | None = None,
) -> UpstreamLink:
    """Connect to the upstream.

    Args:
        config: where it is.
        on_event: as in UpstreamLink.
        on_lost: as in UpstreamLink.
        environ: holds OPENAI_API_KEY and, where set, OPENAI_BASE_URL; os.environ when None.

    Raises:
        AgentFailed: the client is not installed, there is no key, or the upstream cannot be reached or
            refuses; says which.
    """
    environ = os.environ if environ is None else environ
    try:
        from openai import AsyncOpenAI, OpenAIError
    except ImportError as error:
        raise AgentFailed(
            f"agent realtime: expected the package openai, got none; install serve-app[{EXTRA}]"
        ) from error
    key = environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise AgentFailed(f"agent realtime: expected a key in {KEY_VARIABLE}, got none")
    base_url = environ.get(URL_VARIABLE) or config.base_url
    host = _host(base_url)
    client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    options = {"max_size": MAX_MESSAGE_BYTES, "compression": None, "close_timeout": CLOSE_TIMEOUT_S}
    try:
        async with asyncio.timeout(config.connect_timeout_s):
            connection = await client.realtime.connect(
                model=config.model, websocket_connection_options=options
            ).enter()
    except (OSError, TimeoutError, WebSocketException, OpenAIError) as error:
        await client.close()
        # The cause would bring the request with its key into logged tracebacks.
        raise AgentFailed(f"realtime upstream {host}: {_refusal(error, config)}") from None
    except BaseException:
        await client.close()
        raise
    return UpstreamLink(connection, client, key, on_event, on_lost)


def _host(base_url: str | None) -> str:
    """Return what a base URL may be called in messages: URLs can hold passwords."""
    if base_url is None:
        return "(the client's own default)"
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        host = None
        parts = urlsplit("")
        port = ""
    if parts.scheme not in ("http", "https") or not host:
        raise AgentFailed(
            f"realtime upstream: expected a base URL like https://host/v1 in agents.upstream.base_url or "
            f"{URL_VARIABLE}, got something else"
        )
    return f"{host}{port}"


def _refusal(error: Exception, config: RealtimeUpstream) -> str:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        hint = f"; {KEY_VARIABLE} may not be its key" if status in (401, 403) else ""
        return f"expected a WebSocket, got HTTP {status}{hint}"
    if isinstance(error, TimeoutError):
        return f"expected a connection within {config.connect_timeout_s:g} s, got none"
    if isinstance(error, OSError):
        return f"expected a connection, got {error.strerror or type(error).__name__}"
    return f"expected a connection, got {type(error).__name__}"
