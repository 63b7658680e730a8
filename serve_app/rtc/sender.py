"""Access units and sound packets into aiortc's RTP sender.

aiortc's own loop keeps sequence numbers, history for NACK and RTX, SRTP and reports: 10 microseconds a
packet. What it does not do for data that is already encoded is added here: keyframe requests and the
receiver's bitrate reach the source, H.264 is cut into packets without PyAV objects, and sender reports map
RTP time to wall time by the media clock instead of by the moment of sending.

The receiver's estimate holds for everything the picture's stream sends, keyframes and retransmissions too:
what is beyond it only fills the queue in front of a narrow link, is lost there, and is asked for again. While
the estimate is exceeded pictures are left out before they are encoded, and lost packets stay lost.
"""

# ruff: noqa: SLF001 - aiortc's sender has no public seam; PRIVATE_ATTRIBUTES lists what is used

from __future__ import annotations

import struct
from typing import Any

from aiortc import RTCRtpSender
from aiortc import clock as ntp
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    AnyRtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    unpack_remb_fci,
)
from aiortc.utils import uint16_gt

from serve_app.rtc.budget import Budget
from serve_app.rtc.tracks import MediaTrack

PAYLOAD_BYTES = 1200
"""Largest RTP payload: with SRTP, UDP, IPv6 and TURN around it a packet stays below 1280 bytes (RFC 8200)."""

KEYFRAME_DISTANCE_S = 0.3
"""Between keyframes that a receiver asks for, as in libwebrtc: one has to arrive before it helps."""

BACKLOG_DISTANCE_S = 1.0
"""Between keyframes that stand for packets which the network has no room for: four times BURST_S."""

HEADROOM = 1.15
"""How far packets may exceed the estimate; receivers name 0.85 of what a full link let through (GCC)."""

MIN_LIMIT_BPS = 50_000
"""An estimate below this would stop the picture for seconds; no encoder makes a stream of it."""

BURST_S = 0.25
"""What may be sent at once at the estimated bitrate: as much as the encoder's rate buffer holds."""

PRIVATE_ATTRIBUTES = (
    "_RTCRtpSender__lsr",
    "_RTCRtpSender__packet_count",
    "_RTCRtpSender__octet_count",
    "_RTCRtpSender__rtp_history",
    "_RTCRtpSender__rtt",
    "_RTCRtpSender__stats",
    "_enabled",
    "_ssrc",
    "_next_encoded_frame",
    "_handle_rtcp_packet",
    "_retransmit",
    "_send_keyframe",
    "_send_rtcp",
)
"""What this module touches inside aiortc's RTCRtpSender; a test holds every name to be there."""

NAL_SPS = 7
NAL_STAP_A = 24
NAL_FU_A = 28


class PacketSender(RTCRtpSender):  # type: ignore[misc, unused-ignore]
    """An RTCRtpSender whose track yields encoded data. Made by `adopt`, never constructed."""

    _wall_start_ntp: int
    _last_pts: int
    _is_picture: bool
    _target_bps: int | None
    _budget: Budget | None
    _first_sequence: int | None
    _keyframe_at: int | None
    _keyframe_asked_s: float
    _keyframe_due_s: float | None

    @classmethod
    def adopt(cls, sender: RTCRtpSender) -> None:
        """Turn a sender that aiortc made, and that has a MediaTrack, into one of this class.

        aiortc constructs its senders itself and offers no factory; the class of this one object changes.
        """
        track: MediaTrack = sender.track
        elapsed_s = track.clock.now_s() - track.start_s
        sender._wall_start_ntp = ntp.current_ntp_time() - int(elapsed_s * (1 << 32))
        sender._last_pts = 0
        sender._is_picture = track.kind == "video"
        sender._target_bps = None
        sender._budget = None
        sender._first_sequence = sender._keyframe_at = None
        sender._keyframe_asked_s = -KEYFRAME_DISTANCE_S
        sender._keyframe_due_s = None
        sender.__class__ = cls

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        if self._is_picture:
            await self._before_picture(self.track)
        data, pts = await self.track.next_packet()
        if not self._enabled:
            return None
        self._last_pts = pts
        payloads = packetize(data) if self._is_picture else [data]
        if self._is_picture:
            self._note_picture(payloads)
        return RTCEncodedFrame(payloads, pts & 0xFFFFFFFF, None)

    async def _before_picture(self, track: MediaTrack) -> None:
        """Wait for the network; the track goes on with the newest picture that is due then."""
        now_s = track.clock.now_s()
        if self._budget is not None and (wait_s := self._budget.wait_s(now_s)) > 0:
            await track.clock.sleep_until(now_s + wait_s)
        if self._keyframe_due_s is not None and track.clock.now_s() >= self._keyframe_due_s:
            self._request_keyframe(track)

    def _note_picture(self, payloads: list[bytes]) -> None:
        if self._budget is not None:
            self._budget.spend(8 * sum(map(len, payloads)))
        history = self._RTCRtpSender__rtp_history
        if self._first_sequence is None and history:
            self._first_sequence = next(iter(history.values())).sequence_number
        if _begins_with_sps(payloads[0]):
            self._keyframe_at = self._RTCRtpSender__packet_count

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if self._is_picture and isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            self._note_estimate(packet)
            return
        if self._is_picture and isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            await self._send_again(packet.lost)
            return
        await super()._handle_rtcp_packet(packet)

    async def _send_again(self, lost: list[int]) -> None:
        """Send lost packets again, as far as the network takes them and they still help."""
        track = self.track
        if track is None:
            return
        history = self._RTCRtpSender__rtp_history
        for sequence in lost:
            if self._is_before_keyframe(sequence):
                continue
            packet = history.get(sequence % RTP_HISTORY_SIZE)
            if packet is None or packet.sequence_number != sequence:
                # It is too old to be sent again: only a new start brings the picture back.
                self._send_keyframe()
                continue
            if self._budget is not None:
                if not self._budget.allows(0, track.clock.now_s()):
                    # A new start costs less than all that is missing, and the receiver need not ask for it.
                    self._keyframe_due_s = self._keyframe_asked_s + BACKLOG_DISTANCE_S
                    return
                self._budget.spend(8 * len(packet.payload))
            await self._retransmit(sequence)

    def _is_before_keyframe(self, sequence: int) -> bool:
        """Return whether a packet belongs to pictures that a later keyframe makes needless."""
        if self._keyframe_at is None or self._first_sequence is None:
            return False
        # Numbers wrap: how they compare says nothing of packets from long before.
        is_recent = self._RTCRtpSender__packet_count - self._keyframe_at <= RTP_HISTORY_SIZE
        return is_recent and bool(uint16_gt((self._first_sequence + self._keyframe_at) & 0xFFFF, sequence))

    def _note_estimate(self, packet: RtcpPsfbPacket) -> None:
        try:
            bitrate_bps, ssrcs = unpack_remb_fci(packet.fci)
        except (ValueError, struct.error):  # application feedback that is not REMB, or is cut short
            return
        if self._ssrc in ssrcs and self.track is not None:
            self._target_bps = bitrate_bps
            self.track.source.set_target_bitrate(bitrate_bps)
            self._limit(max(bitrate_bps, MIN_LIMIT_BPS) * HEADROOM, self.track.clock.now_s())

    def _limit(self, bps: float, now_s: float) -> None:
        if self._budget is None:
            self._budget = Budget(bps, bps * BURST_S, now_s)
        else:
            self._budget.change(bps, bps * BURST_S, now_s)

    def _send_keyframe(self) -> None:
        if not self._is_picture or self.track is None:
            return
        earliest_s = self._keyframe_asked_s + KEYFRAME_DISTANCE_S
        if self.track.clock.now_s() >= earliest_s:
            self._request_keyframe(self.track)
        else:
            self._keyframe_due_s = earliest_s

    def _request_keyframe(self, track: MediaTrack) -> None:
        self._keyframe_asked_s = track.clock.now_s()
        self._keyframe_due_s = None
        track.source.request_keyframe()

    async def _send_rtcp(self, packets: list[AnyRtcpPacket]) -> None:
        track = self.track
        for packet in packets:
            if isinstance(packet, RtcpSrPacket) and packet.sender_info.packet_count and track is not None:
                info = packet.sender_info
                since_start = (self._last_pts << 32) // track.clock_rate_hz
                info.ntp_timestamp = (self._wall_start_ntp + since_start) & 0xFFFFFFFFFFFFFFFF
                # The receiver's report names this time; aiortc finds the round trip by it.
                self._RTCRtpSender__lsr = (info.ntp_timestamp >> 16) & 0xFFFFFFFF
        await super()._send_rtcp(packets)


def outbound_stats(sender: RTCRtpSender) -> dict[str, Any]:
    """Return what a sender of any class has sent, and what its receiver last reported.

    Returns:
        packets, bytes: sent so far. rtt_s: round trip, None before the first report. fraction_lost: 0 to 1,
        of the receiver's last report. target_bps: its last estimate of what it can take, None before that
        and for codecs that aiortc encodes.
    """
    reports = sender._RTCRtpSender__stats.values()
    lost = next((report.fractionLost for report in reports if report.type == "remote-inbound-rtp"), 0)
    return {
        "packets": sender._RTCRtpSender__packet_count,
        "bytes": sender._RTCRtpSender__octet_count,
        "rtt_s": sender._RTCRtpSender__rtt,
        "fraction_lost": lost / 256,
        "target_bps": sender._target_bps if isinstance(sender, PacketSender) else None,
    }


def packetize(unit: bytes) -> list[bytes]:
    """Cut an access unit into RTP payloads (RFC 6184, packetization mode 1).

    Small NAL units that follow each other share a STAP-A, large ones become FU-A fragments of equal size.

    Args:
        unit: Annex B byte stream.

    Returns:
        Payloads of at most PAYLOAD_BYTES.
    """
    payloads: list[bytes] = []
    small: list[bytes] = []
    room = PAYLOAD_BYTES - 1
    for nal in split_nals(unit):
        if small and len(nal) + 2 > room:
            payloads.append(_aggregate(small))
            small, room = [], PAYLOAD_BYTES - 1
        if len(nal) <= PAYLOAD_BYTES:
            small.append(nal)
            room -= len(nal) + 2
        else:
            payloads.extend(_fragment(nal))
    if small:
        payloads.append(_aggregate(small))
    return payloads


def split_nals(unit: bytes) -> list[bytes]:
    """Return the NAL units of an Annex B byte stream, without start codes (ITU-T H.264, annex B)."""
    nals = []
    start = unit.find(b"\x00\x00\x01")
    while start >= 0:
        start += 3
        end = unit.find(b"\x00\x00\x01", start)
        # A NAL unit never ends in a zero byte; those in front of a start code belong to it.
        nal = unit[start:] if end < 0 else unit[start:end].rstrip(b"\x00")
        if nal:
            nals.append(nal)
        start = end
    return nals


def _begins_with_sps(payload: bytes) -> bool:
    kind = payload[0] & 0x1F
    return kind == NAL_SPS or (kind == NAL_STAP_A and payload[3] & 0x1F == NAL_SPS)


def _aggregate(nals: list[bytes]) -> bytes:
    if len(nals) == 1:
        return nals[0]
    forbidden = max(nal[0] & 0x80 for nal in nals)
    importance = max(nal[0] & 0x60 for nal in nals)
    parts = [bytes((forbidden | importance | NAL_STAP_A,))]
    for nal in nals:
        parts.append(len(nal).to_bytes(2, "big"))
        parts.append(nal)
    return b"".join(parts)


def _fragment(nal: bytes) -> list[bytes]:
    count = -(-(len(nal) - 1) // (PAYLOAD_BYTES - 2))
    size = -(-(len(nal) - 1) // count)
    indicator, kind = nal[0] & 0xE0 | NAL_FU_A, nal[0] & 0x1F
    fragments = []
    for start in range(1, len(nal), size):
        is_first, is_last = start == 1, start + size >= len(nal)
        header = bytes((indicator, is_first << 7 | is_last << 6 | kind))
        fragments.append(header + nal[start : start + size])
    return fragments
