from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtp import RtcpRrPacket, RtpPacket

from serve_app.clock import MonotonicClock
from serve_app.nouns import SOUND_HZ, Int16
from serve_app.rtc.microphone import Microphone
from serve_app.rtc.receiver import MAX_SOURCES, PRIVATE_ATTRIBUTES, SoundReceiver
from tests.unit.rtc.callers import tone_packets

pytestmark = pytest.mark.unit

OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=111)
PACKET = tone_packets(440, 1)[0]


class Ear:
    def __init__(self) -> None:
        self.parts: list[Int16] = []

    def __call__(self, samples: Int16, hz: int) -> None:
        self.parts.append(samples)


async def started(ear: Ear) -> tuple[RTCPeerConnection, Any]:
    pc = RTCPeerConnection()
    receiver = pc.addTransceiver("audio").receiver
    clock = MonotonicClock()
    SoundReceiver.adopt(receiver, Microphone(ear, clock.now_s()), clock)
    await receiver.receive(RTCRtpReceiveParameters(codecs=[OPUS], muxId="0"))
    return pc, receiver


def packet(n: int, ssrc: int = 1, payload_type: int = 111) -> RtpPacket:
    return RtpPacket(payload_type, 0, n & 0xFFFF, n * 960, ssrc, PACKET)


async def test_what_is_used_of_aiortc_is_there() -> None:
    pc = RTCPeerConnection()
    receiver = pc.addTransceiver("audio").receiver
    assert [name for name in PRIVATE_ATTRIBUTES if not hasattr(receiver, name)] == []
    assert hasattr(receiver.transport._rtp_router, "ssrc_table")
    await pc.close()


async def test_a_packet_is_heard_before_the_call_returns() -> None:
    ear = Ear()
    pc, receiver = await started(ear)
    await receiver._handle_rtp_packet(packet(0), 0)
    assert [len(part) for part in ear.parts] == [960]
    await receiver._handle_rtp_packet(packet(1, payload_type=0), 0)
    assert len(ear.parts) == 1
    await pc.close()
    await receiver._handle_rtp_packet(packet(1), 0)
    assert len(ear.parts) == 1


async def test_no_thread_decodes() -> None:
    pc, receiver = await started(Ear())
    assert receiver._RTCRtpReceiver__decoder_thread is None
    await pc.close()


async def test_ever_new_sources_are_forgotten() -> None:
    ear = Ear()
    pc, receiver = await started(ear)
    router = receiver.transport._rtp_router
    for ssrc in range(1000):
        assert router.route_rtp(packet(0, ssrc)) is receiver
        await receiver._handle_rtp_packet(packet(0, ssrc), 0)
    assert len(router.ssrc_table) == MAX_SOURCES
    assert len(receiver._sources) == MAX_SOURCES
    assert sum(map(len, ear.parts)) < 5 * SOUND_HZ
    await pc.close()


async def test_reports_can_be_written_whatever_the_clock_of_the_sender() -> None:
    pc, receiver = await started(Ear())
    for n in range(200):
        wild = RtpPacket(111, 0, n * 377 & 0xFFFF, (n % 2) * 0xFFFFFFFF, 1, PACKET)
        await receiver._handle_rtp_packet(wild, 0)
    info = receiver._sources[1].info(1)
    assert bytes(RtcpRrPacket(ssrc=1, reports=[info]))
    assert receiver.packets == 200
    assert receiver.lost >= 0
    await pc.close()


async def test_one_that_was_stopped_before_it_started_stays_still() -> None:
    pc = RTCPeerConnection()
    receiver: Any = pc.addTransceiver("audio").receiver
    clock = MonotonicClock()
    SoundReceiver.adopt(receiver, Microphone(Ear(), clock.now_s()), clock)
    await receiver.stop()
    await receiver.receive(RTCRtpReceiveParameters(codecs=[OPUS], muxId="0"))
    assert receiver._reports is None
    await pc.close()
