"""A receiver of pictures that asks for what it misses as browsers do; aiortc's asks once and then waits.

The rules are libwebrtc's (modules/video_coding/nack_requester.cc, video/video_receive_stream2.cc): each
missing packet is asked for up to ten times, a whole keyframe is shown whatever is missing before it, and a
keyframe is asked for at the start, when a decoder fails, and after three seconds without a picture.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import av
from aiortc import RTCRtpReceiver
from aiortc.codecs import depayload, is_rtx
from aiortc.rate import RemoteBitrateEstimator
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import (
    RTCP_PSFB_APP,
    AnyRtcpPacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
    unwrap_rtx,
)

from serve_app.rtc.sender import split_nals
from tests.network.picture import Sequence, read

MAX_ASKED = 10
MAX_MISSING = 1000
ASK_AGAIN_S = 0.05
"""libwebrtc waits for the round trip it measured; where no packet is delayed it is 20 ms here."""

TICK_S = 0.02
STUCK_S = 3.0
KEYFRAME_AGAIN_S = 0.2
REPORT_S = 1.0
FRAME_TICKS = 3000
NOTHING_YET = -1
IDR, SPS, STAP_A = 5, 7, 24


@dataclass
class Seen:
    """What arrived.

    Attributes:
        frames: for each decoded picture its time, whether it was the right one, and whether it was an IDR.
        received: for each RTP packet its time and size in bytes, retransmitted ones included.
    """

    frames: list[tuple[float, bool, bool]] = field(default_factory=list)
    received: list[tuple[float, int]] = field(default_factory=list)
    estimates: list[tuple[float, int]] = field(default_factory=list)
    keyframe_requests: int = 0
    asked_again: int = 0


@dataclass
class _Missing:
    asked: int = 0
    next_s: float = 0.0


class Screen(RTCRtpReceiver):  # type: ignore[misc, unused-ignore]
    """An RTCRtpReceiver of H.264 that decodes, and judges what it decodes. Made by `adopt`."""

    seen: Seen
    _tasks: list[asyncio.Task[None]]
    _codecs: dict[int, RTCRtpCodecParameters]
    _originals: dict[int, int]
    _estimator: RemoteBitrateEstimator
    _estimates: bool
    _statistics: dict[int, StreamStatistics]
    _reports: dict[int, tuple[int, float]]
    _decoder: av.VideoCodecContext
    _sequence: Sequence
    _packets: dict[int, RtpPacket]
    _missing: dict[int, _Missing]
    _next: int
    _highest: int
    _first_timestamp: int | None
    _ssrc: int
    _awaits_keyframe: bool
    _asked_keyframe_s: float
    _decoded_s: float

    @classmethod
    def adopt(cls, receiver: RTCRtpReceiver) -> None:
        """Turn a receiver that aiortc made, and that has not started, into one of this class."""
        receiver.seen = Seen()
        receiver._tasks = []
        receiver._codecs = {}
        receiver._originals = {}
        receiver._estimator = RemoteBitrateEstimator()
        receiver._estimates = True
        receiver._statistics = {}
        receiver._reports = {}
        receiver._decoder = av.CodecContext.create("h264", "r")
        receiver._sequence = Sequence()
        receiver._packets = {}
        receiver._missing = {}
        receiver._next = receiver._highest = NOTHING_YET
        receiver._first_timestamp = None
        receiver._ssrc = 0
        receiver._awaits_keyframe = True
        receiver._asked_keyframe_s = 0.0
        receiver._decoded_s = time.monotonic()
        receiver.__class__ = cls

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Start; called by aiortc when DTLS is through."""
        if self._tasks:
            return
        self._codecs = {codec.payloadType: codec for codec in parameters.codecs}
        self._originals = {
            encoding.rtx.ssrc: encoding.ssrc for encoding in parameters.encodings if encoding.rtx
        }
        self._decoded_s = time.monotonic()
        self.transport._register_rtp_receiver(self, parameters)
        self._tasks = [asyncio.ensure_future(self._ask()), asyncio.ensure_future(self._report())]

    async def stop(self) -> None:
        """Stop for good."""
        if self._tasks:
            self.transport._unregister_rtp_receiver(self)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask_for_keyframe(self) -> None:
        """Send a PLI."""
        self._asked_keyframe_s = time.monotonic()
        self.seen.keyframe_requests += 1
        await self._send_rtcp_pli(self._ssrc)

    async def name_bitrate(self, bps: int) -> None:
        """Send an estimate (REMB), and none that was measured after it."""
        self._estimates = False
        await self._send_estimate(bps, [self._ssrc])

    def _handle_disconnect(self) -> None:
        pass

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket):
            self._reports[packet.ssrc] = (
                packet.sender_info.ntp_timestamp >> 16 & 0xFFFFFFFF,
                time.monotonic(),
            )

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        codec = self._codecs.get(packet.payload_type)
        if codec is None:
            return
        now_s = time.monotonic()
        self.seen.received.append((now_s, len(packet.payload)))
        if packet.ssrc not in self._statistics:
            self._statistics[packet.ssrc] = StreamStatistics(90_000)
        self._statistics[packet.ssrc].add(packet)
        await self._estimate(packet, arrival_time_ms, now_s)
        if is_rtx(codec):
            original = self._originals.get(packet.ssrc)
            if original is None or len(packet.payload) < 2:
                return
            packet = unwrap_rtx(packet, payload_type=int(codec.parameters["apt"]), ssrc=original)
            codec = self._codecs[packet.payload_type]
        self._ssrc = packet.ssrc
        packet._data = depayload(codec, packet.payload)
        await self._take(packet, now_s)

    async def _estimate(self, packet: RtpPacket, arrival_time_ms: int, now_s: float) -> None:
        if packet.extensions.abs_send_time is None:
            return
        estimate = self._estimator.add(
            abs_send_time=packet.extensions.abs_send_time,
            arrival_time_ms=arrival_time_ms,
            payload_size=len(packet.payload),
            ssrc=packet.ssrc,
        )
        if estimate is not None and self._estimates:
            self.seen.estimates.append((now_s, estimate[0]))
            await self._send_estimate(*estimate)

    async def _send_estimate(self, bps: int, ssrcs: list[int]) -> None:
        fci = pack_remb_fci(bps, ssrcs)
        await self._send_rtcp(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=fci))

    async def _take(self, packet: RtpPacket, now_s: float) -> None:
        number = self._unwrapped(packet.sequence_number)
        if self._next == NOTHING_YET:
            self._next = self._highest = number
        for gap in range(self._highest + 1, number):
            self._missing[gap] = _Missing()
        self._missing.pop(number, None)
        self._highest = max(self._highest, number)
        if number < self._next:
            return
        self._packets[number] = packet
        if len(self._missing) > MAX_MISSING:
            self._missing.clear()
            self._awaits_keyframe = True
        self._jump_to_keyframe(number)
        while not self._awaits_keyframe and (unit := self._unit(self._next)):
            self._show(unit, now_s)

    def _unwrapped(self, sequence_number: int) -> int:
        if self._highest == NOTHING_YET:
            return sequence_number + (1 << 16)
        distance = (sequence_number - self._highest) & 0xFFFF
        return self._highest + (distance - (1 << 16) if distance & 0x8000 else distance)

    def _unit(self, first: int) -> list[int] | None:
        """Return the numbers of a whole access unit that begins with packet `first`."""
        numbers = []
        number = first
        while (packet := self._packets.get(number)) is not None:
            numbers.append(number)
            if packet.marker:
                return numbers
            number += 1
        return None

    def _jump_to_keyframe(self, number: int) -> None:
        """Go on at the access unit that has this packet if it is whole and an IDR."""
        packet = self._packets[number]
        first = number
        while (before := self._packets.get(first - 1)) and before.timestamp == packet.timestamp:
            first -= 1
        if not _begins_keyframe(self._packets[first]) or self._unit(first) is None:
            return
        if first > self._next or self._awaits_keyframe:
            self._forget_before(first)
            self._awaits_keyframe = False

    def _forget_before(self, number: int) -> None:
        self._next = number
        self._packets = {key: packet for key, packet in self._packets.items() if key >= number}
        self._missing = {key: missing for key, missing in self._missing.items() if key >= number}

    def _show(self, numbers: list[int], now_s: float) -> None:
        packets = [self._packets[number] for number in numbers]
        data = b"".join(packet._data for packet in packets)
        self._forget_before(numbers[-1] + 1)
        try:
            pictures = self._decoder.decode(av.Packet(data))
        except av.error.FFmpegError:
            self._awaits_keyframe = True
            return
        if self._first_timestamp is None:
            self._first_timestamp = packets[0].timestamp
        time_in_frames = (packets[0].timestamp - self._first_timestamp) // FRAME_TICKS
        is_idr = any(nal[0] & 0x1F == IDR for nal in split_nals(data))
        for picture in pictures:
            luma = picture.to_ndarray()[: picture.height, : picture.width]
            self._decoded_s = now_s
            self.seen.frames.append((now_s, self._sequence.fits(read(luma), time_in_frames), is_idr))

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            due = [key for key, missing in self._missing.items() if missing.next_s <= now_s]
            for key in due:
                missing = self._missing[key]
                missing.asked += 1
                missing.next_s = now_s + ASK_AGAIN_S
                self.seen.asked_again += missing.asked > 1
                if missing.asked >= MAX_ASKED:
                    del self._missing[key]
            if due:
                await self._send_rtcp_nack(self._ssrc, sorted(key & 0xFFFF for key in due))
            if now_s - self._decoded_s > STUCK_S:
                self._awaits_keyframe = True
            if self._ssrc and self._awaits_keyframe and now_s - self._asked_keyframe_s > KEYFRAME_AGAIN_S:
                await self.ask_for_keyframe()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            reports = []
            for ssrc, statistics in self._statistics.items():
                report_ntp, report_s = self._reports.get(ssrc, (0, 0.0))
                reports.append(
                    RtcpReceiverInfo(
                        ssrc=ssrc,
                        fraction_lost=min(statistics.fraction_lost, 255),
                        packets_lost=statistics.packets_lost,
                        highest_sequence=statistics.max_seq or 0,
                        jitter=statistics.jitter,
                        lsr=report_ntp,
                        dlsr=int((time.monotonic() - report_s) * 65536) & 0xFFFFFFFF if report_ntp else 0,
                    )
                )
            if reports:
                await self._send_rtcp(RtcpRrPacket(ssrc=1, reports=reports))


class Loudspeaker(RTCRtpReceiver):  # type: ignore[misc, unused-ignore]
    """An RTCRtpReceiver of sound that counts packets. Made by `adopt`.

    Attributes:
        arrivals: for each packet its time and its sequence number.
    """

    arrivals: list[tuple[float, int]]
    _registered: bool

    @classmethod
    def adopt(cls, receiver: RTCRtpReceiver) -> None:
        """Turn a receiver that aiortc made, and that has not started, into one of this class."""
        receiver.arrivals = []
        receiver._registered = False
        receiver.__class__ = cls

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Start; called by aiortc when DTLS is through."""
        if not self._registered:
            self._registered = True
            self.transport._register_rtp_receiver(self, parameters)

    async def stop(self) -> None:
        """Stop for good."""
        if self._registered:
            self.transport._unregister_rtp_receiver(self)

    def _handle_disconnect(self) -> None:
        pass

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        pass

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        self.arrivals.append((time.monotonic(), packet.sequence_number))


def _begins_keyframe(packet: RtpPacket) -> bool:
    payload = packet.payload
    if not payload:
        return False
    kind = payload[0] & 0x1F
    return kind == SPS or (kind == STAP_A and len(payload) > 3 and payload[3] & 0x1F == SPS)
