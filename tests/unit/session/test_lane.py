"""The ways out of a session: what a peer is sent, and what a room is given."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.config import EncoderConfig, PlayoutConfig
from serve_app.media.idle import EncodedLoop
from serve_app.media.playout import Playout
from serve_app.media.recorder import Recorder
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, BaseLoop, Clip, Patch, Picture, Sound, UInt8
from serve_app.rtc.encoder import SILENCE, I420Frame
from serve_app.session.broadcast import FIRST_PACKETS, Broadcast
from serve_app.session.lane import Lane, RoomLane
from tests.clocks import SetClock

pytestmark = pytest.mark.unit

FPS = 30
WIDTH, HEIGHT = 96, 64
NOISE = np.random.default_rng(0)
LOOP = BaseLoop("a", WIDTH, HEIGHT, FPS, NOISE.integers(0, 256, (5, WIDTH * HEIGHT * 3 // 2), np.uint8))


class Showing:
    """A broadcast of one picture."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def picture(self, index: int) -> Picture:
        return self._picture


def broadcast() -> tuple[Broadcast, Playout]:
    playout = Playout(FPS, PlayoutConfig(start_deadline_s=0.001))
    return Broadcast(playout, FPS, SetClock(), lambda: None), playout


def room_of(picture: Picture) -> RoomLane:
    return RoomLane(cast("Broadcast", Showing(picture)), LOOP, FPS, 0.0)


def flat(frame: I420Frame) -> UInt8:
    return np.concatenate([plane.ravel() for plane in frame.planes])


@st.composite
def patches(draw: st.DrawFn) -> Patch:
    x, y = (2 * draw(st.integers(0, size // 2 - 1)) for size in (WIDTH, HEIGHT))
    w, h = (2 * draw(st.integers(1, (size - at) // 2)) for size, at in ((WIDTH, x), (HEIGHT, y)))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, w * h * 3 // 2, np.uint8)
    return Patch(x, y, w, h, pixels)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(patch=patches(), base_frame=st.integers(0, 12))
def test_a_room_sees_the_picture_that_is_encoded_for_peers(patch: Patch, base_frame: int) -> None:
    encoded = I420Frame(WIDTH, HEIGHT)
    encoded.fill(LOOP.frames[base_frame % 5])
    encoded.paste(patch)
    shown = room_of(Picture(base_frame, patch)).picture(0)
    assert np.array_equal(shown, flat(encoded))


def test_a_room_sees_the_base_loop_and_cannot_change_it() -> None:
    before = LOOP.frames.copy()
    shown = room_of(Picture(7, None)).picture(0)
    assert np.array_equal(shown, LOOP.frames[2])
    shown[:] = 0
    room_of(Picture(2, Patch(0, 0, 2, 2, np.zeros(6, np.uint8)))).picture(0)
    assert np.array_equal(LOOP.frames, before)


def test_a_room_is_told_the_size_and_the_pace() -> None:
    lane = RoomLane(cast("Broadcast", Showing(Picture(0, None))), LOOP, FPS, 12.5)
    assert (lane.width, lane.height, lane.fps, lane.start_s) == (WIDTH, HEIGHT, FPS, 12.5)


def test_a_room_hears_what_is_played_and_zeros_in_silence() -> None:
    casting, playout = broadcast()
    lane = RoomLane(casting, LOOP, FPS, 0.0)
    silence = lane.sound(0)
    assert silence.shape == (PACKET_SAMPLES,)
    assert not silence.any()
    loud = np.full(SOUND_HZ // 5, 5000, np.int16)
    playout.push_sound(Sound("s", 0, 0, 0, loud, True, 0))
    heard = np.concatenate([lane.sound(index) for index in range(1, FIRST_PACKETS + 20)])
    assert np.count_nonzero(heard == 5000) == len(loud)


class Recording:
    """A recorder that writes down which packets it got."""

    def __init__(self) -> None:
        self.sounds: list[int] = []
        self.videos: list[int] = []

    def sound(self, packet: bytes, index: int) -> None:
        self.sounds.append(index)

    def video(self, unit: bytes | None, index: int) -> None:
        assert unit
        self.videos.append(index)


@pytest.fixture
def lanes() -> Iterator[tuple[Lane, Lane, Playout]]:
    """Two lanes of one session."""
    casting, playout = broadcast()
    encoded = EncodedLoop(LOOP, lambda i420, *, keyframe: b"unit %d" % keyframe, 1.0)
    with ThreadPoolExecutor(1) as executor:
        one, other = (Lane(casting, LOOP, encoded, EncoderConfig(), executor) for _ in range(2))
        yield one, other, playout
        one.close()
        other.close()


async def test_idle_peers_share_the_encoded_loop(lanes: tuple[Lane, Lane, Playout]) -> None:
    one, other, _ = lanes
    units = [(await one.picture_packet(index), await other.picture_packet(index)) for index in range(6)]
    assert units[0] == units[5] == (b"unit 1", b"unit 1")
    assert {mine for mine, _ in units} == {b"unit 0", b"unit 1"}
    assert one.sound_packet(0) == other.sound_packet(0) == SILENCE


async def test_a_recorder_gets_what_is_sent(lanes: tuple[Lane, Lane, Playout]) -> None:
    one, other, _ = lanes
    recording = Recording()
    one.recorder = cast("Recorder", recording)
    for index in range(4):
        one.sound_packet(index)
        other.sound_packet(index)
        await one.picture_packet(index)
        await other.picture_packet(index)
    assert recording.sounds == recording.videos == [0, 1, 2, 3]


async def test_each_peer_has_an_encoder_for_its_own_network(lanes: tuple[Lane, Lane, Playout]) -> None:
    one, other, playout = lanes
    one.set_target_bitrate(200_000)
    other.set_target_bitrate(2_000_000)
    sound = np.full(SOUND_HZ // 2, 5000, np.int16)
    playout.push_sound(Sound("s", 0, 0, 0, sound, True, 0))
    noise = NOISE.integers(0, 256, (15, 64 * 64 * 3 // 2), np.uint8)
    playout.push_clip(Clip("s", 0, 0, 0, 0, 16, 0, 64, 64, noise))
    sizes = [0, 0]
    for index in range(24):
        for number, lane in enumerate((one, other)):
            lane.sound_packet(2 * index)
            lane.sound_packet(2 * index + 1)
            sizes[number] += len(await lane.picture_packet(index) or b"")
    assert sizes[0] < sizes[1]


async def test_a_picture_that_others_encode_is_the_same(lanes: tuple[Lane, Lane, Playout]) -> None:
    frame: Any = lanes[0].picture_frame(0)
    assert np.array_equal(frame.to_ndarray().reshape(-1), LOOP.frames[0])
