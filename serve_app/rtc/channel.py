"""The data channel that carries a conversation's events: `oai-events`, made by the client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from aiortc import RTCDataChannel

from serve_app.clock import Clock
from serve_app.errors import ClientError
from serve_app.rtc.association import MAX_MESSAGE_BYTES
from serve_app.rtc.budget import Budget
from serve_app.rtc.inbound import Inbound

logger = logging.getLogger("serve_app.rtc")

LABEL = "oai-events"
"""Name of the channel (OpenAI Realtime over WebRTC)."""

MAX_QUEUED = 1024
"""Events kept for a channel that is not open yet."""

MAX_QUEUED_BYTES = 1_048_576
"""Size of those events together."""

MAX_BUFFERED_BYTES = 4_194_304
"""Events that an open channel may hold unsent; more means that nobody reads."""

DRAIN_S = 0.2
"""How long the last events may take to leave when the connection is closed."""

MESSAGES_PER_S = 200
"""Messages a client may send for good; sound in events of 20 ms would be 50."""

MESSAGES_AT_ONCE = 2000

BYTES_PER_S = 2_000_000
"""Bytes a client may send for good; a sound at 24 kHz in base64 is 64 kB/s."""

BYTES_AT_ONCE = 16_000_000


class EventChannel:
    """Events in both directions, in order, over one of the client's data channels.

    Args:
        inbound: takes what the client sends.
        clock: for the rate of messages.
        fail: called with a sentence when the client does not keep to the limits.
    """

    def __init__(self, inbound: Inbound, clock: Clock, fail: Callable[[str], None]) -> None:
        self._inbound = inbound
        self._clock = clock
        self._fail = fail
        now_s = clock.now_s()
        self._messages = Budget(MESSAGES_PER_S, MESSAGES_AT_ONCE, now_s)
        self._bytes = Budget(BYTES_PER_S, BYTES_AT_ONCE, now_s)
        self._max_bytes = MAX_MESSAGE_BYTES
        self._channel: RTCDataChannel | None = None
        self._queue: deque[str] = deque()
        self._queued_bytes = 0
        self._is_deaf = False
        self._has_warned = False
        self._has_failed = False

    def negotiated(self, max_bytes: int | None) -> None:
        """Take what the client's description says.

        Args:
            max_bytes: longest message it takes, or None when it has no data channels: events then go nowhere.
        """
        if max_bytes is None:
            self._silence()
        else:
            self._max_bytes = min(max_bytes, MAX_MESSAGE_BYTES)

    def take(self, channel: RTCDataChannel) -> None:
        """Use a channel that the client opened, if it is the one for events and there is none yet."""
        if self._has_failed or channel.label != LABEL or self._channel is not None:
            self._warn("a data channel other than the first oai-events is ignored")
            return
        self._channel = channel
        self._is_deaf = False
        channel.on("message", self._on_message)
        channel.on("close", self._on_close)
        self._call(self._inbound.channel_opened)
        queued, self._queued_bytes = list(self._queue), 0
        self._queue.clear()
        for text in queued:
            try:
                self.send(text)
            except ClientError as error:  # the client's limit was not known when this event came
                self._stop(str(error))

    def send(self, text: str) -> None:
        """Send an event, or keep it until the channel opens; without a channel it goes nowhere.

        Raises:
            ClientError: it is longer than the client takes.
        """
        size = len(text.encode())
        if size > self._max_bytes:
            raise ClientError(
                f"expected an event of at most {self._max_bytes} bytes, the longest message this client's "
                f"data channel takes, found {size}"
            )
        if self._is_deaf:
            return
        channel = self._channel
        if channel is None:
            self._keep(text, size)
        elif channel.readyState == "open":
            if channel.bufferedAmount + size > MAX_BUFFERED_BYTES:
                self._stop(
                    f"The client does not read its data channel: more than {MAX_BUFFERED_BYTES} bytes of "
                    "events wait for it; read oai-events, or connect over a faster network."
                )
            else:
                channel.send(text)

    async def drain(self) -> None:
        """Return when what was sent has left, or soon."""
        channel = self._channel
        self._silence()
        if channel is None or channel.readyState != "open" or not channel.bufferedAmount:
            return
        empty = asyncio.Event()
        channel.on("bufferedamountlow", empty.set)
        channel.on("close", empty.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(empty.wait(), DRAIN_S)

    def _keep(self, text: str, size: int) -> None:
        self._queue.append(text)
        self._queued_bytes += size
        if len(self._queue) > MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
            self._stop(
                f"The client did not open its data channel while {len(self._queue)} events waited for it: "
                f"call pc.createDataChannel('{LABEL}') before createOffer()."
            )

    def _on_message(self, message: str | bytes) -> None:
        if self._has_failed:
            return
        if isinstance(message, bytes):
            self._warn("a binary message is ignored: events are text")
        now_s, size = self._clock.now_s(), len(message)
        if not (self._messages.allows(1, now_s) and self._bytes.allows(size, now_s)):
            self._stop(
                f"The client sent more than {MESSAGES_PER_S} messages or {BYTES_PER_S} bytes a second "
                "over its data channel; send fewer events."
            )
            return
        self._messages.spend(1)
        self._bytes.spend(size)
        if isinstance(message, str):
            self._call(self._inbound.channel_message, message)

    def _on_close(self) -> None:
        self._channel = None
        self._silence()
        self._call(self._inbound.channel_closed)

    def _stop(self, detail: str) -> None:
        self._silence()
        if not self._has_failed:
            self._has_failed = True
            self._fail(detail)

    def _silence(self) -> None:
        self._is_deaf = True
        self._queue.clear()
        self._queued_bytes = 0

    def _call(self, method: Callable[..., None], *arguments: str) -> None:
        try:
            method(*arguments)
        except Exception:  # raised into aiortc, it would end the connection
            logger.exception("what took a data channel's event failed")

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("a client's data channel (said once): %s", text)
