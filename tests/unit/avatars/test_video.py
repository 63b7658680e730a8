"""Videos are decoded upright and in time within limits, and what is none is refused with the reason."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.avatars.photo import REASONS, PhotoRefused
from serve_app.avatars.video import MAX_VIDEO_BYTES, Video, looks_like_video
from serve_app.nouns import UInt8
from tests.avatar_tools import HOPPER, video_file

pytestmark = pytest.mark.unit


def grey(level: int, width: int = 160, height: int = 144) -> UInt8:
    return np.full((height, width, 3), level, np.uint8)


@functools.cache
def counting(fps: int = 10, seconds: float = 3.0, kind: str = "mp4") -> bytes:
    """Return a video whose picture n is 5 n bright."""
    return video_file([grey(5 * number) for number in range(round(fps * seconds))], fps, kind)


def levels(video: Video, fps: float, begin_s: float = 0.0, end_s: float = 70.0) -> list[int]:
    """Return the numbers of the pictures that are sampled."""
    return [round(picture.rgb.mean() / 5) for picture in video.sampled(fps, begin_s, end_s)]


def refusal(content: bytes) -> PhotoRefused:
    with pytest.raises(PhotoRefused) as caught:
        list(Video(content).sampled(5.0))
    assert caught.value.reason in REASONS
    assert caught.value.suggestion
    return caught.value


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "webm", "avi"])
def test_every_kind_is_read_whole_and_in_order(kind: str) -> None:
    content = counting(kind=kind)
    assert looks_like_video(content)
    video = Video(content)
    assert video.fps == pytest.approx(10, abs=0.01)
    assert levels(video, 10.0) == list(range(30))
    assert levels(video, 10.0) == list(range(30)), "as often as it is asked for"


def test_other_rates_take_the_picture_on_show() -> None:
    video = Video(counting())
    assert levels(video, 5.0) == list(range(0, 30, 2))
    assert levels(video, 20.0)[:9] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    times = [picture.time_s for picture in video.sampled(4.0, 1.0, 2.0)]
    assert times == [1.0, 1.25, 1.5, 1.75]


def test_a_stretch_is_cut_out() -> None:
    assert levels(Video(counting()), 10.0, 1.2, 1.7) == [12, 13, 14, 15, 16]


def test_pictures_of_uneven_rate_are_taken_by_their_times() -> None:
    times = [0, 1, 2, 3, 10, 11, 12, 20, 29]
    content = video_file([grey(5 * time) for time in times], 10, times=times)
    shown = levels(Video(content), 10.0)
    assert shown[:12] == [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 10, 11]
    assert shown[19:22] == [12, 20, 20]


def test_a_video_held_upright_is_turned() -> None:
    picture = grey(40, 192, 144)
    picture[:40, :40] = (250, 30, 30)
    content = bytearray(video_file([picture] * 30, 10))
    # The matrix of the track's header: a quarter turn clockwise (ISO/IEC 14496-12, 8.3.2).
    at = content.index(struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    content[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    turned = next(iter(Video(bytes(content)).sampled(5.0))).rgb
    assert turned.shape == (192, 144, 3)
    assert turned[15, 144 - 15, 0] > 200
    assert turned[15, 15, 0] < 80


@pytest.mark.parametrize("height", [144, 720])
def test_colours_without_a_label_are_those_of_their_size(height: int) -> None:
    colour = (200, 80, 40)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = height * 16 // 9, height, "yuv420p"
        for number in range(25):
            pixels = np.full((height, height * 16 // 9, 3), colour, np.uint8)
            space = "ITU709" if height >= 720 else "ITU601"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=space, dst_color_range="MPEG"
            )
            frame.colorspace, frame.color_range = 2, 0
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    shown = next(iter(Video(file.getvalue()).sampled(5.0))).rgb
    np.testing.assert_allclose(shown.mean((0, 1)), colour, atol=3)


def test_large_pictures_are_made_smaller() -> None:
    content = video_file([grey(90, 2560, 1440)] * 6, 2)
    assert next(iter(Video(content).sampled(2.0))).rgb.shape == (1080, 1920, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not_a_video"),
        (b"some text that is no video at all", "not_a_video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n", "not_a_video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_a_video"),
        (HOPPER.read_bytes(), "not_a_video"),
        (bytes(4) + b"ftypheic" + bytes(100), "not_a_video"),
        (bytes(4) + b"ftypisom" + bytes(100), "damaged"),
        (b"\x1aE\xdf\xa3" + bytes(100), "damaged"),
        (bytes(4) + b"ftyp" + bytes(MAX_VIDEO_BYTES), "too_large"),
    ],
    ids=["empty", "text", "playlist", "concat", "photo", "heic", "no moov", "no matroska", "large"],
)
def test_other_files_are_refused(content: bytes, reason: str) -> None:
    assert refusal(content).reason == reason


def test_sound_alone_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for number in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(file.getvalue()).reason == "no_pictures"


def test_a_file_that_was_cut_is_refused() -> None:
    # The header comes first, so that a player shows what is there; here half is not a video.
    content = video_file(
        [np.random.default_rng(n).integers(0, 255, (144, 160, 3), dtype=np.uint8) for n in range(40)],
        10,
        options={"movflags": "faststart"},
    )
    noisy = counting()
    assert refusal(noisy[: len(noisy) // 2]).reason == "damaged"
    webm = counting(kind="webm")
    assert refusal(webm[: len(webm) // 2]).reason == "damaged"
    assert refusal(content[: len(content) * 2 // 3]).reason == "damaged"


def test_a_video_is_of_sixty_seconds_at_most() -> None:
    assert refusal(video_file([grey(90)] * 122, 2)).reason == "too_long"


def test_a_video_that_does_not_tell_its_length_is_counted() -> None:
    content = video_file([grey(90)] * 124, 2, "webm", options={"live": "1"})
    video = Video(content)
    assert video.claimed_s is None
    with pytest.raises(PhotoRefused, match="found more than 60 s"):
        list(video.sampled(5.0))


def test_pictures_that_are_too_large_or_too_small_are_refused_by_the_header() -> None:
    assert refusal(video_file([grey(90, 4320, 160)] * 8, 2)).reason == "too_many_pixels"
    assert refusal(video_file([grey(90, 160, 96)] * 8, 2)).reason == "too_small"


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), kind=st.sampled_from(["mp4", "webm", "avi"]))
def test_damaged_videos_are_read_or_refused(place: int, value: int, kind: str) -> None:
    content = bytearray(counting(kind=kind))
    content[place % len(content)] = value
    with contextlib.suppress(PhotoRefused):
        for picture in Video(bytes(content)).sampled(5.0):
            assert picture.rgb.dtype == np.uint8
