"""One WebSocket of any door: a reader, lanes of the door's own, and a writer, ended together.

Doors decide what messages mean and how errors are told; this holds a socket to its limits and closes it in
order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock
from serve_app.gateway.outbox import Outbox

logger = logging.getLogger("serve_app.gateway")

NORMAL_CLOSURE = 1000
"""RFC 6455, section 7.4.1: the client is done."""

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013

CLIENT_LEFT = 0
"""What a lane returns in place of a close code when there is nobody left to close for."""

Lane = Callable[[], Awaitable[int]]
"""Runs beside the reader; returns the code to close the socket with, or CLIENT_LEFT."""


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """What one socket may cost.

    Attributes:
        messages_per_s: client messages, in the long run.
        burst_messages: client messages at once: a minute of speech in 20 ms chunks, as fast as it goes.
        waiting_events: events that wait for a slow reader.
        waiting_signals: offers and candidates that wait for the one before them.
        patience_s: how long a reader may leave the events waiting.
        closing_s: longest wait for the last events to leave before the socket is closed.
    """

    messages_per_s: float = 500.0
    burst_messages: int = 4_000
    waiting_events: int = 256
    waiting_signals: int = 256
    patience_s: float = 5.0
    closing_s: float = 1.0


class DoorSocket:
    """An accepted WebSocket.

    Args:
        websocket: accepted.
        name: how log lines name it: "session " and an id, once there is one.
        limits: what it may cost.
        clock: the time.

    Attributes:
        name: as given; a door that learns its session later sets it.
        has_said_goodbye: whether the client closed with code 1000.
        close_reason: the sentence that goes with the close code; 123 bytes of it leave (RFC 6455, 5.5.1).
    """

    def __init__(self, websocket: WebSocket, name: str, limits: SocketLimits, clock: Clock) -> None:
        self.name = name
        self.has_said_goodbye = False
        self.close_reason = ""
        self._websocket = websocket
        self._limits = limits
        self._outbox = Outbox(websocket, max_waiting=limits.waiting_events, patience_s=limits.patience_s)
        self._allowance = _Allowance(limits, clock)

    async def serve(
        self,
        receive: Callable[[Message], Awaitable[Iterable[str]]],
        lanes: Sequence[Lane],
        flooded: Callable[[str], str],
    ) -> None:
        """Serve until the client leaves, a lane ends or a limit is broken.

        Args:
            receive: takes a frame and returns the texts to answer with; raises nothing.
            lanes: run beside the reader.
            flooded: makes the door's error event of a sentence, told before the socket is closed.
        """
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(receive, flooded))
        others = [reader, *(asyncio.ensure_future(lane()) for lane in lanes)]
        try:
            done, _ = await asyncio.wait([writer, *others], return_when=asyncio.FIRST_COMPLETED)
            close_code = min(task.result() for task in done)
            await cancelled(others)
            logger.info("%s: socket closed (%s)", self.name, close_code or "by the client")
            if close_code:
                await self._close(writer, close_code)
        finally:
            await cancelled([writer, *others])

    async def tell(self, texts: Iterable[str]) -> bool:
        """Queue texts; return False when the reader is too slow and the socket should be closed."""
        try:
            for text in texts:
                await self._outbox.put(text)
        except TimeoutError:
            logger.warning("%s: the client does not read its events", self.name)
            return False
        return True

    async def _read(
        self, receive: Callable[[Message], Awaitable[Iterable[str]]], flooded: Callable[[str], str]
    ) -> int:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self.has_said_goodbye = message.get("code") == NORMAL_CLOSURE
                return CLIENT_LEFT
            if not self._allowance.take():
                limit = self._limits.messages_per_s
                await self.tell([flooded(f"expected at most {limit:g} messages a second, found more")])
                return POLICY_VIOLATION
            if not await self.tell(await receive(message)):
                return TRY_AGAIN_LATER
            # A client that sends without a pause must not keep the loop from everybody else.
            await asyncio.sleep(0)

    async def _write(self) -> int:
        try:
            await self._outbox.write()
        except (WebSocketDisconnect, RuntimeError):
            # Starlette raises either of these when the client is gone.
            logger.info("%s: the client left before its events were sent", self.name)
        return CLIENT_LEFT

    async def _close(self, writer: asyncio.Task[int], close_code: int) -> None:
        """Let the last events leave, then close; a reader that takes nothing is not waited for."""
        drained = asyncio.create_task(self._outbox.drained())
        await asyncio.wait(
            [drained, writer], timeout=self._limits.closing_s, return_when=asyncio.FIRST_COMPLETED
        )
        await cancelled([drained, writer])
        try:
            reason = self.close_reason.encode()[:123].decode(errors="ignore")
            await asyncio.wait_for(self._websocket.close(close_code, reason), self._limits.closing_s)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            logger.info("%s: the client left before its socket was closed", self.name)


class _Allowance:
    """A token bucket of messages."""

    def __init__(self, limits: SocketLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._left = float(limits.burst_messages)
        self._at_s = clock.now_s()

    def take(self) -> bool:
        """Return whether one more message is within the limit."""
        now_s = self._clock.now_s()
        earned = (now_s - self._at_s) * self._limits.messages_per_s
        self._left = min(self._limits.burst_messages, self._left + earned)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def cancelled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks and return when they have ended."""
    for task in tasks:
        task.cancel()
    # Not gather(): cancelled itself, it would forget who cancelled it, which anyio's scopes go by.
    await asyncio.wait(tasks)
