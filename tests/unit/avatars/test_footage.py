"""Filmed base loops come out of their file as they went in, and other files are refused."""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction

import av
import numpy as np
import pytest

from serve_app.avatars.bundle import SIZE, Footage
from serve_app.avatars.footage import decode, encode
from serve_app.errors import AvatarInvalid
from tests.avatar_tools import filmed

pytestmark = pytest.mark.unit


def footage() -> Footage:
    bundle = filmed()
    assert bundle.footage is not None
    return bundle.footage


def film(width: int = SIZE, height: int = SIZE, codec: str = "libx264", pixels: str = "yuv420p") -> bytes:
    """Return an MP4 file of 12 grey pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for number in range(12):
            frame = av.VideoFrame(width, height, pixels)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_pictures_come_back_as_bt601_of_limited_range() -> None:
    bundle = filmed()
    pictures = decode(footage(), "filmed")
    assert pictures.shape == (12, SIZE * SIZE * 3 // 2)
    shown = np.roll(bundle.portrait, (0, 6), (0, 1)).astype(np.float64)
    red, green, blue = np.moveaxis(shown, -1, 0)
    expected = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    apart = pictures[0, : SIZE * SIZE].reshape(SIZE, SIZE) - expected
    assert abs(apart.mean()) < 0.1
    assert 10 * np.log10(255**2 / np.square(apart).mean()) > 45
    blues = pictures[0, SIZE * SIZE :].reshape(2, SIZE // 2, SIZE // 2)[0]
    expected = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
    apart = blues - expected.reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3))
    assert abs(apart.mean()) < 0.3
    assert np.abs(apart).mean() < 1.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected an MP4 file"),
        (b"GIF89a" + bytes(200), "expected an MP4 file"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "expected an MP4 file"),
        (film(256, 256), "expected h264 512x512, found h264 256x256"),
        (film(codec="mpeg4"), "expected h264 512x512, found mpeg4"),
        (film(pixels="yuv444p"), "expected 512x512 yuv420p"),
    ],
    ids=["empty", "gif", "playlist", "small", "codec", "pixels"],
)
def test_other_files_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(AvatarInvalid, match=f"somewhere/footage.mp4: {reason}"):
        decode(dataclasses.replace(footage(), mp4=content), "somewhere")


def test_a_cut_file_is_refused() -> None:
    for share in (0.3, 0.7, 0.99):
        content = footage().mp4
        with pytest.raises(AvatarInvalid, match=r"footage\.mp4"):
            decode(dataclasses.replace(footage(), mp4=content[: int(len(content) * share)]), "somewhere")


@pytest.mark.parametrize(("frames", "reason"), [(11, "expected 11 pictures, found more"), (13, "found 12")])
def test_pictures_and_faces_are_as_many(frames: int, reason: str) -> None:
    faces = footage().faces[:1] * frames
    with pytest.raises(AvatarInvalid, match=reason):
        decode(dataclasses.replace(footage(), faces=faces), "somewhere")


def test_restless_pictures_are_kept_within_the_limit_or_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    best = len(encode(noise, 20))
    assert len(encode(noise, 20, max_bytes=best - 1)) < best
    with pytest.raises(AvatarInvalid, match=r"footage\.mp4: expected at most 1000 bytes"):
        encode(noise, 20, max_bytes=1000)
