"""aiortc's SCTP association, made fit for strangers.

aiortc announces a receive window and does not hold a sender to it, asserts on messages it did not expect (and
an exception there ends the whole connection), and leaves tasks with a ConnectionError behind when DTLS goes
first. Here what is out of bounds is dropped, as if the network had lost it.
"""

# ruff: noqa: SLF001 - aiortc's transport has no public seam; PRIVATE_ATTRIBUTES lists what is used

from __future__ import annotations

import logging

from aiortc.rtcsctptransport import (
    Chunk,
    DataChunk,
    InboundStream,
    RTCSctpTransport,
    SackChunk,
    tsn_plus_one,
)

logger = logging.getLogger("serve_app.rtc")

MAX_MESSAGE_BYTES = 262_144
"""Longest message either way: what aiortc announces in SDP."""

MAX_STREAMS = 64
"""Streams a client may use: one for each of its channels."""

MAX_WAITING_CHUNKS = 1024
"""Chunks kept behind a missing one; aiortc's window of 1 MiB is 895 full ones."""

MAX_CHUNKS = 1536
"""Chunks kept at all; a message of MAX_MESSAGE_BYTES is about 230."""

PRIVATE_ATTRIBUTES = (
    "_advertised_rwnd",
    "_get_inbound_stream",
    "_handle_data",
    "_inbound_streams",
    "_last_received_tsn",
    "_receive",
    "_receive_data_chunk",
    "_receive_sack_chunk",
    "_sack_misordered",
    "_sack_needed",
    "_send_chunk",
    "_sent_queue",
)
"""What this module touches inside aiortc's RTCSctpTransport; a test holds every name to be there."""


class Association(RTCSctpTransport):  # type: ignore[misc, unused-ignore]
    """An RTCSctpTransport that bounds what its peer may do. Made by `adopt`, never constructed."""

    _has_warned: bool

    @classmethod
    def adopt(cls, transport: RTCSctpTransport) -> None:
        """Turn a transport that aiortc made, and that has not started, into one of this class."""
        transport._has_warned = False
        transport.__class__ = cls

    async def _handle_data(self, data: bytes) -> None:
        try:
            await super()._handle_data(data)
        except Exception as error:  # noqa: BLE001 - whatever aiortc trips over would end the picture too
            self._warn(type(error).__name__)

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        waiting = sum(len(stream.reassembly) for stream in self._inbound_streams.values())
        is_next = chunk.tsn == tsn_plus_one(self._last_received_tsn)
        misordered = max(waiting, len(self._sack_misordered))
        if (
            len(chunk.user_data) > self._advertised_rwnd
            or waiting >= MAX_CHUNKS
            or (misordered >= MAX_WAITING_CHUNKS and not is_next)
        ):
            self._sack_needed = True
            self._warn("too much data waits for a missing part")
            return
        await super()._receive_data_chunk(chunk)

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        # Each gap may claim 65535 chunks, and aiortc counts them one by one.
        if sum(max(0, last - first + 1) for first, last in chunk.gaps) > len(self._sent_queue):
            self._warn("an acknowledgement of what was not sent")
            return
        await super()._receive_sack_chunk(chunk)

    def _get_inbound_stream(self, stream_id: int) -> InboundStream:
        if stream_id not in self._inbound_streams and len(self._inbound_streams) >= MAX_STREAMS:
            return InboundStream()
        return super()._get_inbound_stream(stream_id)

    async def _receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if stream_id not in self._inbound_streams:
            self._warn("too many streams")
        elif len(data) > MAX_MESSAGE_BYTES:
            self._warn("a message that is too long")
        else:
            try:
                await super()._receive(stream_id, pp_id, data)
            except Exception as error:  # noqa: BLE001 - text that is not UTF-8, a channel opened twice
                self._warn(type(error).__name__)

    async def _send_chunk(self, chunk: Chunk) -> None:
        try:
            await super()._send_chunk(chunk)
        except ConnectionError:
            # DTLS is gone; the association ends with it, and timers must not complain until then.
            return

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("data of a client's data channels was dropped (said once): %s", reason)
