import numpy as np
import pytest

from serve_app.media.idle import EncodedLoop
from serve_app.nouns import BaseLoop, UInt8

pytestmark = pytest.mark.unit


class NamingEncoder:
    """Makes packets of 100 bytes that name their picture, 300 for keyframes."""

    def __init__(self) -> None:
        self.keyframes: list[int] = []

    def __call__(self, i420: UInt8, *, keyframe: bool) -> bytes:
        if keyframe:
            self.keyframes.append(int(i420[0]))
        return bytes([i420[0]]) * (300 if keyframe else 100)


def loop(num_frames: int) -> BaseLoop:
    frames = np.repeat(np.arange(num_frames, dtype=np.uint8)[:, None], 24, axis=1)
    return BaseLoop("a", 4, 4, 30, frames)


@pytest.mark.parametrize(
    ("num_frames", "gop_s", "keyframes"),
    [
        (120, 2.0, [0, 60]),
        (130, 2.0, [0, 65]),
        (10, 2.0, [0]),
        (100, 1.0, [0, 33, 66]),
        (3, 0.001, [0, 1, 2]),
    ],
)
def test_groups_of_pictures_have_nearly_equal_length(
    num_frames: int, gop_s: float, keyframes: list[int]
) -> None:
    encoder = NamingEncoder()
    encoded = EncodedLoop(loop(num_frames), encoder, gop_s)
    assert encoder.keyframes == keyframes
    assert [n for n in range(num_frames) if encoded.is_keyframe(n)] == keyframes


def test_packets_go_round_with_the_base_frames() -> None:
    encoded = EncodedLoop(loop(90), NamingEncoder(), 1.0)
    for base_frame in (0, 29, 30, 89, 90, 119, 9_000_030):
        assert encoded.packet(base_frame)[0] == base_frame % 90
        assert encoded.is_keyframe(base_frame) == (base_frame % 30 == 0)


def test_size_and_bitrate_are_those_of_the_packets() -> None:
    encoded = EncodedLoop(loop(90), NamingEncoder(), 1.0)
    assert encoded.size_bytes == 87 * 100 + 3 * 300
    assert encoded.bitrate_bps == pytest.approx(encoded.size_bytes * 8 / 3)
