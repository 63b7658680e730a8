"""The microphone's packets out of aiortc, without its jitter buffer and its thread.

aiortc holds sound back until four more frames have come, and hands each to a thread for decoding: 80 ms and
more. Here packets go to a `Microphone` as they arrive; only SRTP, routing and reports stay aiortc's.
"""

# ruff: noqa: SLF001 - aiortc's receiver has no public seam; PRIVATE_ATTRIBUTES lists what is used

from __future__ import annotations

import asyncio
import random
import time

from aiortc import RTCRtpReceiver
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import AnyRtcpPacket, RtcpReceiverInfo, RtcpRrPacket, RtcpSrPacket, RtpPacket

from serve_app.clock import Clock
from serve_app.nouns import SOUND_HZ
from serve_app.rtc.microphone import Microphone

MAX_SOURCES = 4
"""Streams (SSRCs) remembered; a client that names ever new ones loses the oldest."""

PRIVATE_ATTRIBUTES = (
    "_RTCRtpReceiver__rtcp_ssrc",
    "_enabled",
    "_handle_disconnect",
    "_handle_rtcp_packet",
    "_handle_rtp_packet",
    "_send_rtcp",
)
"""What this module touches inside aiortc's RTCRtpReceiver; a test holds every name to be there."""


class _Source:
    """What receiver reports say of one stream (RFC 3550, section 6.4.2)."""

    def __init__(self) -> None:
        self.statistics = StreamStatistics(SOUND_HZ)
        self.report_ntp = 0
        self.report_s = 0.0

    def info(self, ssrc: int) -> RtcpReceiverInfo:
        delay_s = min(time.monotonic() - self.report_s, 65535.0)
        return RtcpReceiverInfo(
            ssrc=ssrc,
            fraction_lost=min(self.statistics.fraction_lost, 255),
            packets_lost=self.statistics.packets_lost,
            highest_sequence=self.statistics.max_seq or 0,
            jitter=min(self.statistics.jitter, 0xFFFFFFFF),
            lsr=self.report_ntp,
            dlsr=int(delay_s * 65536) if self.report_ntp else 0,
        )


class SoundReceiver(RTCRtpReceiver):  # type: ignore[misc, unused-ignore]
    """An RTCRtpReceiver of Opus that decodes as packets arrive. Made by `adopt`, never constructed."""

    _clock: Clock
    _microphone: Microphone
    _sources: dict[int, _Source]
    _payload_types: frozenset[int]
    _reports: asyncio.Task[None] | None
    _timer: asyncio.TimerHandle | None

    @classmethod
    def adopt(cls, receiver: RTCRtpReceiver, microphone: Microphone, clock: Clock) -> None:
        """Turn a receiver that aiortc made, and that has not started, into one of this class."""
        receiver._clock = clock
        receiver._microphone = microphone
        receiver._sources = {}
        receiver._payload_types = frozenset()
        receiver._reports = None
        receiver._timer = None
        receiver.__class__ = cls

    @property
    def packets(self) -> int:
        """Packets that arrived, of the streams remembered."""
        return sum(source.statistics.packets_received for source in self._sources.values())

    @property
    def lost(self) -> int:
        """Packets that did not arrive, of the streams remembered."""
        return sum(max(0, source.statistics.packets_lost) for source in self._sources.values())

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Start; called by aiortc when DTLS is through, perhaps more than once, or after `stop`."""
        if self._reports is None and self._enabled:
            self._payload_types = frozenset(codec.payloadType for codec in parameters.codecs)
            self.transport._register_rtp_receiver(self, parameters)
            self._reports = asyncio.ensure_future(self._send_reports())

    async def stop(self) -> None:
        """Stop for good."""
        self._enabled = False
        self._cancel_timer()
        if self._reports is not None:
            self.transport._unregister_rtp_receiver(self)
            self._reports.cancel()
            await asyncio.gather(self._reports, return_exceptions=True)

    def _handle_disconnect(self) -> None:
        self._cancel_timer()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.ssrc in self._sources:
            source = self._sources[packet.ssrc]
            source.report_ntp = (packet.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
            source.report_s = time.monotonic()

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if not self._enabled or packet.payload_type not in self._payload_types:
            return
        self._source_of(packet.ssrc).statistics.add(packet)
        now_s = self._clock.now_s()
        self._microphone.push(packet.ssrc, packet.sequence_number, packet.timestamp, packet.payload, now_s)
        self._set_timer(now_s)

    def _source_of(self, ssrc: int) -> _Source:
        source = self._sources.get(ssrc)
        if source is None:
            if len(self._sources) >= MAX_SOURCES:
                oldest = next(iter(self._sources))
                del self._sources[oldest]
                self.transport._rtp_router.ssrc_table.pop(oldest, None)
            source = self._sources[ssrc] = _Source()
        return source

    def _set_timer(self, now_s: float) -> None:
        due_s = self._microphone.due_s
        if due_s is None:
            self._cancel_timer()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_s - now_s), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_s = self._clock.now_s()
        self._microphone.expire(now_s)
        self._set_timer(now_s)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _send_reports(self) -> None:
        while True:
            # RFC 3550, section 6.2: spread, so that many peers do not report in step.
            await asyncio.sleep(0.5 + random.random())
            reports = [source.info(ssrc) for ssrc, source in self._sources.items()]
            if reports:
                await self._send_rtcp(RtcpRrPacket(ssrc=self._RTCRtpReceiver__rtcp_ssrc, reports=reports))
