import logging

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from serve_app.nouns import PACKET_S
from serve_app.rtc.encoder import SILENCE
from serve_app.rtc.tracks import PictureTrack, SoundTrack
from tests.clocks import SetClock

pytestmark = pytest.mark.unit


class Source:
    """Names every packet by its index, and notes when it was asked for."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.asked: list[tuple[int, float]] = []
        self.nothing: set[int] = set()
        self.broken: set[int] = set()
        self.keyframes = 0

    def sound_packet(self, index: int) -> bytes:
        self.note(index)
        return str(index).encode()

    async def picture_packet(self, index: int) -> bytes | None:
        self.note(index)
        return None if index in self.nothing else str(index).encode()

    def picture_frame(self, index: int) -> av.VideoFrame:
        self.note(index)
        return av.VideoFrame(16, 16, "yuv420p")

    def request_keyframe(self) -> None:
        self.keyframes += 1

    def set_target_bitrate(self, bps: int) -> None:
        raise AssertionError(bps)

    def note(self, index: int) -> None:
        self.asked.append((index, self.clock.s))
        if index in self.broken:
            raise RuntimeError("broken source")


@pytest.fixture
def clock() -> SetClock:
    return SetClock(100.0)


@pytest.fixture
def source(clock: SetClock) -> Source:
    return Source(clock)


def sound_track(source: Source, start_s: float = 100.0) -> SoundTrack:
    return SoundTrack(source, source.clock, start_s)


def picture_track(source: Source, start_s: float = 100.0, *, encoded: bool = True) -> PictureTrack:
    return PictureTrack(source, source.clock, start_s, 30, encoded)


async def test_sound_packets_come_when_they_are_due(source: Source) -> None:
    track = sound_track(source)
    packets = [await track.next_packet() for _ in range(3)]
    assert packets == [(b"0", 0), (b"1", 960), (b"2", 1920)]
    assert [due_s for _, due_s in source.asked] == pytest.approx([100.0, 100.02, 100.04])


async def test_frames_come_when_they_are_due(source: Source) -> None:
    track = picture_track(source)
    packets = [await track.next_packet() for _ in range(4)]
    assert packets == [(b"0", 0), (b"1", 3000), (b"2", 6000), (b"3", 9000)]
    assert [due_s for _, due_s in source.asked] == pytest.approx([100 + n / 30 for n in range(4)])


async def test_late_sound_is_sent_at_once_and_none_is_left_out(source: Source, clock: SetClock) -> None:
    track = sound_track(source)
    await track.next_packet()
    clock.s += 0.5
    late = [await track.next_packet() for _ in range(26)]
    assert [int(data) for data, _ in late] == list(range(1, 27))
    assert source.asked[24][1] == source.asked[1][1]
    assert clock.s == pytest.approx(100 + 26 * PACKET_S)


async def test_sound_more_than_a_second_late_is_skipped(source: Source, clock: SetClock) -> None:
    track = sound_track(source)
    await track.next_packet()
    clock.s += 3
    assert await track.next_packet() == (b"150", 150 * 960)


async def test_a_late_picture_goes_on_with_the_newest_frame(source: Source, clock: SetClock) -> None:
    track = picture_track(source)
    await track.next_packet()
    clock.s += 0.26
    assert await track.next_packet() == (b"7", 21000)
    assert await track.next_packet() == (b"8", 24000)


async def test_a_picture_that_took_a_frame_time_loses_none(source: Source, clock: SetClock) -> None:
    track = picture_track(source)
    shown = []
    for _ in range(5):
        shown.append(await track.next_packet())
        clock.s += 0.05
    assert [int(data) for data, _ in shown] == [0, 1, 3, 4, 6]


async def test_tracks_that_start_later_share_the_session_clock(source: Source, clock: SetClock) -> None:
    clock.s = 160.01
    data, pts = await sound_track(source).next_packet()
    picture, picture_pts = await picture_track(source).next_packet()
    assert pts / 48_000 == pytest.approx(60.0)
    assert picture_pts / 90_000 == pytest.approx(60.0, abs=1 / 30)
    assert (data, picture) == (b"3000", b"1800")


async def test_frames_with_nothing_to_send_are_passed_over(source: Source) -> None:
    source.nothing = {0, 1, 2}
    assert await picture_track(source).next_packet() == (b"3", 9000)


async def test_a_new_receiver_gets_a_keyframe(source: Source) -> None:
    track = picture_track(source)
    for _ in range(3):
        await track.next_packet()
    assert source.keyframes == 1


async def test_a_source_that_fails_ends_no_track(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    source.broken = {1, 2}
    sound, picture = sound_track(source), picture_track(source)
    with caplog.at_level(logging.ERROR):
        heard = [(await sound.next_packet())[0] for _ in range(4)]
    assert heard == [b"0", SILENCE, SILENCE, b"3"]
    assert len(caplog.records) == 1
    source.clock.s = 100
    assert [(await picture.next_packet())[0] for _ in range(2)] == [b"0", b"3"]


async def test_a_stopped_track_says_so(source: Source) -> None:
    for track in (sound_track(source), picture_track(source), picture_track(source, encoded=False)):
        track.stop()
        with pytest.raises(MediaStreamError):
            await track.recv()


async def test_recv_carries_the_time_base(source: Source) -> None:
    sound, picture = sound_track(source), picture_track(source)
    await sound.recv()
    await picture.recv()
    packet, unit = await sound.recv(), await picture.recv()
    assert (bytes(packet), packet.pts, packet.time_base.denominator) == (b"1", 960, 48_000)
    assert (bytes(unit), unit.pts, unit.time_base.denominator) == (b"1", 3000, 90_000)


async def test_frames_for_other_codecs_carry_the_same_timestamps(source: Source) -> None:
    track = picture_track(source, encoded=False)
    await track.recv()
    frame = await track.recv()
    assert (frame.pts, frame.time_base.denominator) == (3000, 90_000)
