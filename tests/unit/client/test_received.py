from __future__ import annotations

import threading
from fractions import Fraction

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client.received import EncodedFrame, FrameAssembler, Receiver, RtpClock, Unwrapper

pytestmark = pytest.mark.unit


def video(max_held: int = 8) -> FrameAssembler:
    return FrameAssembler(max_held=max_held, packet_is_frame=False)


def add(
    assembler: FrameAssembler,
    sequence: int,
    timestamp: int,
    *,
    marker: bool = False,
    data: bytes | None = None,
) -> list[EncodedFrame]:
    data = bytes([sequence % 256]) if data is None else data
    return assembler.add(
        sequence=sequence, timestamp=timestamp, marker=marker, data=data, now_s=float(sequence)
    )


def test_a_picture_is_given_out_with_its_marker_packet_not_with_the_next_picture() -> None:
    assembler = video()
    assert add(assembler, 1, 3000) == []
    assert add(assembler, 2, 3000, marker=True) == [EncodedFrame(3000, b"\x01\x02", 2.0)]


def test_a_picture_without_marker_ends_where_the_next_timestamp_begins() -> None:
    assembler = video()
    add(assembler, 1, 3000)
    assert add(assembler, 2, 6000) == [EncodedFrame(3000, b"\x01", 2.0)]


def test_a_late_packet_releases_everything_that_waited_for_it() -> None:
    assembler = video()
    add(assembler, 1, 0, marker=True)
    assert add(assembler, 3, 6000, marker=True) == []
    assert [f.timestamp for f in add(assembler, 2, 3000, marker=True)] == [3000, 6000]
    assert assembler.lost == 0


def test_a_lost_packet_costs_its_picture_and_no_other() -> None:
    assembler = video(max_held=2)
    add(assembler, 1, 0, marker=True)
    add(assembler, 3, 3000, marker=True)
    add(assembler, 4, 6000, marker=True)
    frames = add(assembler, 5, 9000, marker=True)
    assert [f.timestamp for f in frames] == [6000, 9000]
    assert assembler.lost == 1


def test_lost_sound_is_not_waited_for_longer_than_the_limit() -> None:
    assembler = FrameAssembler(max_held=2, packet_is_frame=True)
    add(assembler, 1, 0)
    assert add(assembler, 3, 1920) == []
    assert add(assembler, 4, 2880) == []
    assert [f.timestamp for f in add(assembler, 5, 3840)] == [1920, 2880, 3840]


def test_a_repeated_packet_is_dropped() -> None:
    assembler = video()
    add(assembler, 1, 0, marker=True)
    assert add(assembler, 1, 0, marker=True) == []


def test_counters_wrap_without_a_seam() -> None:
    assembler = video()
    add(assembler, 65535, 2**32 - 3000, marker=True)
    frames = add(assembler, 0, 0, marker=True)
    assert frames[0].timestamp == 2**32


@given(st.permutations(range(6)))
def test_any_order_of_arrival_gives_pictures_in_order(order: list[int]) -> None:
    assembler = video()
    add(assembler, 99, 0, marker=True)
    frames = [f for i in order for f in add(assembler, 100 + i, 3000 * (1 + i // 2), marker=i % 2 == 1)]
    assert [f.timestamp for f in frames] == [3000, 6000, 9000]
    assert b"".join(f.data for f in frames) == bytes(range(100, 106))


@given(st.integers(0, 2**33), st.lists(st.integers(-1000, 30_000), max_size=50))
def test_unwrapping_undoes_wrapping(start: int, steps: list[int]) -> None:
    unwrapper = Unwrapper(16)
    value = highest = unwrapper.unwrap(start % 2**16)
    for step in steps:
        value = highest + step
        assert unwrapper.unwrap(value % 2**16) == value
        highest = max(highest, value)


def ntp(seconds: Fraction) -> int:
    return int(seconds * 2**32)


def test_timestamps_of_two_clocks_meet_on_the_senders_time() -> None:
    sound, picture = RtpClock(48_000), RtpClock(90_000)
    sound.see(1000)
    picture.see(700_000)
    assert sound.sent_s(1000) is None
    sound.report(ntp(Fraction(50)), 1000 + 48_000)
    picture.report(ntp(Fraction(101, 2)), 700_000 + 90_000)
    picture_s, sound_s = picture.sent_s(700_000), sound.sent_s(1000 + 24_000)
    assert picture_s == pytest.approx(49.5)
    assert sound_s == pytest.approx(49.5)


def test_one_late_report_does_not_move_the_mapping() -> None:
    clock = RtpClock(48_000)
    clock.see(0)
    for second in range(5):
        late = Fraction(1, 10) if second == 2 else Fraction(0)
        clock.report(ntp(100 + second + late), 48_000 * second)
    assert clock.sent_s(0) == pytest.approx(100.0)


def test_a_report_after_the_wrap_counts_in_the_next_cycle() -> None:
    clock = RtpClock(48_000)
    clock.see(2**32 - 480)
    clock.report(ntp(Fraction(10)), 0)
    assert clock.sent_s(2**32 - 480) == pytest.approx(9.99)


async def test_a_peer_that_is_closed_while_it_connects_leaves_no_thread() -> None:
    peer = RTCPeerConnection()
    transceiver = peer.addTransceiver("video")
    media = Receiver()
    media.attach(peer)
    media.close()
    await transceiver.receiver.receive(RTCRtpReceiveParameters(codecs=[], muxId="0"))
    await peer.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "video-decoder"] == []
