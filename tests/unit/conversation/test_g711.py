"""G.711 against FFmpeg's coders."""

from __future__ import annotations

import av
import numpy as np
import pytest

from serve_app.conversation import g711
from serve_app.conversation.g711 import Law

pytestmark = pytest.mark.unit

CODECS: dict[Law, str] = {"mu": "pcm_mulaw", "a": "pcm_alaw"}


def ffmpeg_decoded(law: Law) -> np.ndarray:
    """What FFmpeg makes of each of the 256 codes."""
    codec = av.CodecContext.create(CODECS[law], "r")
    codec.sample_rate = 8_000
    codec.layout = "mono"
    frames = codec.decode(av.Packet(bytes(range(256))))
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize("law", ["mu", "a"])
def test_every_code_means_what_it_means_to_ffmpeg(law: Law) -> None:
    assert np.array_equal(g711.decode(bytes(range(256)), law), ffmpeg_decoded(law))


@pytest.mark.parametrize("law", ["mu", "a"])
def test_every_level_comes_back_and_every_sample_goes_to_the_nearest(law: Law) -> None:
    levels = g711.decode(bytes(range(256)), law)
    assert np.array_equal(g711.decode(g711.encode(levels, law), law), levels)
    samples = np.arange(-32_768, 32_768).astype(np.int16)
    coded = g711.decode(g711.encode(samples, law), law).astype(int)
    nearest = np.abs(levels.astype(int)[None] - samples.astype(int)[:, None]).min(axis=1)
    assert np.array_equal(np.abs(coded - samples), nearest)


def test_silence_is_the_positive_zero() -> None:
    assert g711.encode(np.zeros(3, np.int16), "mu") == b"\xff\xff\xff"
