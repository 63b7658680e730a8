import struct
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import aiortc
import pytest
from aiortc import RTCDtlsTransport, RTCPeerConnection, RTCRtpSender
from aiortc.codecs.h264 import h264_depayload
from aiortc.rtp import (
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
)
from hypothesis import given
from hypothesis import strategies as st

from serve_app.clock import MonotonicClock
from serve_app.rtc.sender import (
    BURST_S,
    HEADROOM,
    KEYFRAME_DISTANCE_S,
    PAYLOAD_BYTES,
    PRIVATE_ATTRIBUTES,
    PacketSender,
    outbound_stats,
    packetize,
    split_nals,
)
from serve_app.rtc.tracks import MediaTrack, PictureTrack, SoundTrack
from tests.clocks import SetClock

pytestmark = pytest.mark.unit

START_CODES = st.sampled_from([b"\x00\x00\x01", b"\x00\x00\x00\x01"])


@st.composite
def nal_unit(draw: st.DrawFn) -> bytes:
    """A NAL unit: any header of types 1 to 23, a body that holds no start code and ends in no zero."""
    header = draw(st.integers(0, 3)) << 5 | draw(st.integers(1, 23))
    near_limit = st.integers(PAYLOAD_BYTES - 3, PAYLOAD_BYTES + 3)
    size = draw(st.one_of(st.integers(1, 60), near_limit, st.integers(1, 20_000)))
    seed = draw(st.integers(1, 255))
    return bytes([header]) + bytes((seed + n) % 255 + 1 for n in range(size))


@given(st.lists(st.tuples(START_CODES, nal_unit()), min_size=1, max_size=8))
def test_an_access_unit_comes_out_as_it_went_in(parts: list[tuple[bytes, bytes]]) -> None:
    unit = b"".join(code + nal for code, nal in parts)
    nals = [nal for _, nal in parts]
    assert split_nals(unit) == nals
    payloads = packetize(unit)
    assert all(0 < len(payload) <= PAYLOAD_BYTES for payload in payloads)
    assert split_nals(b"".join(h264_depayload(payload) for payload in payloads)) == nals


def test_parameter_sets_travel_in_one_packet() -> None:
    unit = b"".join(b"\x00\x00\x00\x01" + nal for nal in (b"\x67abc", b"\x68d", b"\x65" + b"x" * 3000))
    payloads = packetize(unit)
    assert payloads[0] == b"\x78\x00\x04\x67abc\x00\x02\x68d"
    assert len(payloads) == 4
    assert max(map(len, payloads[1:])) - min(map(len, payloads[1:])) <= 3


class Source:
    def __init__(self) -> None:
        self.keyframes = 0
        self.pictures = 0
        self.unit = b"\x00\x00\x01\x65picture"
        self.bitrates: list[int] = []

    def sound_packet(self, index: int) -> bytes:
        return b"sound"

    async def picture_packet(self, index: int) -> bytes | None:
        self.pictures += 1
        return self.unit

    def picture_frame(self, index: int) -> Any:
        raise AssertionError(index)

    def request_keyframe(self) -> None:
        self.keyframes += 1

    def set_target_bitrate(self, bps: int) -> None:
        self.bitrates.append(bps)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The RTP packets that senders hand to their transport."""
    packets: list[bytes] = []

    async def note(self: RTCDtlsTransport, data: bytes) -> None:
        packets.append(data)

    monkeypatch.setattr(RTCDtlsTransport, "_send_rtp", note)
    return packets


async def estimate(sender: RTCRtpSender, bps: int) -> None:
    fci = pack_remb_fci(bps, [sender._ssrc])
    await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=fci))


def remember(sender: RTCRtpSender, sequences: Iterable[int], size: int) -> None:
    """Let a sender have sent packets of `size` bytes."""
    for sequence in sequences:
        packet = RtpPacket(payload_type=96, sequence_number=sequence, payload=b"x" * size)
        sender._RTCRtpSender__rtp_history[sequence % RTP_HISTORY_SIZE] = packet


def nack(sender: RTCRtpSender, sequences: Iterable[int]) -> RtcpRtpfbPacket:
    packet = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc)
    packet.lost = list(sequences)
    return packet


async def adopted(pc: RTCPeerConnection, track: MediaTrack) -> RTCRtpSender:
    sender = pc.addTrack(track)
    PacketSender.adopt(sender)
    return sender


async def test_aiortc_still_has_what_the_sender_relies_on() -> None:
    pc = RTCPeerConnection()
    sender = pc.addTransceiver("video").sender
    missing = [name for name in PRIVATE_ATTRIBUTES if not hasattr(sender, name)]
    assert not missing
    await pc.close()


async def test_feedback_reaches_the_source_of_the_picture() -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    ssrc = sender._ssrc
    await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=ssrc))
    clock.s += KEYFRAME_DISTANCE_S
    await sender._handle_rtcp_packet(
        RtcpPsfbPacket(fmt=4, ssrc=1, media_ssrc=ssrc, fci=struct.pack("!LBBH", ssrc, 1, 0, 0))
    )
    assert source.keyframes == 2
    for fci in (
        pack_remb_fci(300_000, [ssrc]),
        pack_remb_fci(1, [ssrc + 1]),
        b"REMB\x05\x00\x00\x00",
        b"other",
    ):
        await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=fci))
    assert source.bitrates == [300_000]
    assert outbound_stats(sender)["target_bps"] == 300_000
    await pc.close()


async def test_a_receiver_that_asks_and_asks_gets_a_keyframe_when_one_could_have_come() -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    await sender._next_encoded_frame(None)
    at_start = source.keyframes
    for _ in range(5):
        await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc))
        clock.s += 0.01
        await sender._next_encoded_frame(None)
    assert source.keyframes == at_start + 1
    clock.s += KEYFRAME_DISTANCE_S
    await sender._next_encoded_frame(None)
    await sender._next_encoded_frame(None)
    assert source.keyframes == at_start + 2
    await pc.close()


async def test_pictures_beyond_the_estimate_are_left_out_before_they_are_encoded() -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    source.unit = b"\x00\x00\x01\x41" + b"x" * 5000
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    await estimate(sender, 200_000)
    start_s = clock.s
    for _ in range(30):
        await sender._next_encoded_frame(None)
    took_s = clock.s - start_s
    sent_bps = 8 * 30 * 5000 / took_s
    assert 200_000 < sent_bps < 200_000 * HEADROOM * 1.2
    assert source.pictures == 30
    await pc.close()


async def test_what_is_sent_again_counts_and_ends_with_the_estimate(sent: list[bytes]) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    remember(sender, range(100, 150), 1000)
    await estimate(sender, 200_000)
    await sender._handle_rtcp_packet(nack(sender, range(100, 150)))
    allowed_bits = 200_000 * HEADROOM * BURST_S
    assert allowed_bits <= 8 * 1000 * len(sent) <= allowed_bits + 8 * 1000
    clock.s += 10
    await sender._handle_rtcp_packet(nack(sender, range(100, 101)))
    assert len(sent) > allowed_bits // 8000
    await pc.close()


async def test_a_backlog_that_the_network_has_no_room_for_is_ended_by_a_keyframe(sent: list[bytes]) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    await sender._next_encoded_frame(None)
    remember(sender, range(100, 150), 1000)
    await estimate(sender, 200_000)
    at_start = source.keyframes
    for _ in range(10):
        await sender._handle_rtcp_packet(nack(sender, range(100, 150)))
        await sender._next_encoded_frame(None)
        clock.s += 0.05
    assert source.keyframes == at_start + 1
    await pc.close()


async def test_without_an_estimate_all_that_was_lost_is_sent_again(sent: list[bytes]) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    remember(sender, range(65_500, 65_536), 1000)
    await sender._handle_rtcp_packet(nack(sender, range(65_500, 65_536)))
    assert len(sent) == 36
    await pc.close()


async def test_a_packet_too_old_to_be_sent_again_brings_a_keyframe(sent: list[bytes]) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    remember(sender, range(1000, 1128), 100)
    await sender._handle_rtcp_packet(nack(sender, range(990, 1001)))
    assert source.keyframes == 1
    assert len(sent) == 1
    await pc.close()


async def test_what_came_before_a_keyframe_is_not_sent_again(sent: list[bytes]) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), SetClock()
    source.unit = b"\x00\x00\x01\x67sets\x00\x00\x01\x68sets\x00\x00\x01\x65picture"
    sender = await adopted(pc, PictureTrack(source, clock, clock.now_s(), 30, encoded=True))
    remember(sender, range(65_530, 65_536), 100)
    sender._RTCRtpSender__packet_count = 6
    await sender._next_encoded_frame(None)  # its first packet is number 0
    at_start = source.keyframes
    remember(sender, range(3), 100)
    await sender._handle_rtcp_packet(nack(sender, [65_000, 65_533, 0, 2]))
    assert len(sent) == 2
    assert source.keyframes == at_start
    sender._RTCRtpSender__packet_count = 40_000  # numbers have wrapped since
    remember(sender, range(39_990, 39_994), 100)
    await sender._handle_rtcp_packet(nack(sender, [39_991]))
    assert len(sent) == 3
    await pc.close()


async def test_feedback_about_sound_asks_for_no_picture() -> None:
    pc, source, clock = RTCPeerConnection(), Source(), MonotonicClock()
    sender = await adopted(pc, SoundTrack(source, clock, clock.now_s()))
    await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=sender._ssrc))
    assert source.keyframes == 0
    await pc.close()


async def test_sender_reports_map_both_clocks_to_the_same_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), MonotonicClock()
    start_s = clock.now_s() - 50.01
    reports = []

    async def note(self: RTCRtpSender, packets: list[Any]) -> None:
        reports.extend(packets)

    monkeypatch.setattr(RTCRtpSender, "_send_rtcp", note)
    media_s = []
    for track in (SoundTrack(source, clock, start_s), PictureTrack(source, clock, start_s, 30, encoded=True)):
        sender = await adopted(pc, track)
        frame = await sender._next_encoded_frame(None)
        media_s.append(frame.timestamp / track.clock_rate_hz)
        info = RtcpSenderInfo(ntp_timestamp=0, rtp_timestamp=0, packet_count=1, octet_count=1)
        await sender._send_rtcp([RtcpSrPacket(ssrc=1, sender_info=info)])
    wall_s = [report.sender_info.ntp_timestamp / (1 << 32) for report in reports]
    assert wall_s[1] - wall_s[0] == pytest.approx(media_s[1] - media_s[0], abs=0.002)
    await pc.close()


async def test_sender_reports_do_not_step_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    pc, source, clock = RTCPeerConnection(), Source(), MonotonicClock()
    reports = []

    async def note(self: RTCRtpSender, packets: list[Any]) -> None:
        reports.extend(packets)

    monkeypatch.setattr(RTCRtpSender, "_send_rtcp", note)
    sender = await adopted(pc, SoundTrack(source, clock, clock.now_s() - 10))
    before = aiortc.clock.current_datetime
    for step_h in (0, 1):
        step = timedelta(hours=step_h)
        monkeypatch.setattr(aiortc.clock, "current_datetime", lambda step=step: before() + step)
        await sender._next_encoded_frame(None)
        stepped_ntp = aiortc.clock.current_ntp_time()
        info = RtcpSenderInfo(ntp_timestamp=stepped_ntp, rtp_timestamp=0, packet_count=1, octet_count=1)
        await sender._send_rtcp([RtcpSrPacket(ssrc=1, sender_info=info)])
    wall_s = [report.sender_info.ntp_timestamp / (1 << 32) for report in reports]
    assert 0 < wall_s[1] - wall_s[0] < 1
    await pc.close()
