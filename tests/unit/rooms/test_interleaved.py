from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rooms.interleaved import InterleavedPcm

pytestmark = pytest.mark.unit


def test_stereo_becomes_the_mean_of_its_channels() -> None:
    pcm = InterleavedPcm(2)
    frames = np.array([[100, 300], [-32768, -32768], [32767, 32766], [1, 2]], "<i2")
    assert pcm.push(frames.tobytes()).tolist() == [200, -32768, 32766, 2]


@given(
    channels=st.integers(1, 6),
    samples=st.lists(st.integers(-32768, 32767), max_size=60),
    cuts=st.lists(st.integers(0, 121), max_size=8),
)
def test_pieces_cut_anywhere_give_the_same_samples(
    channels: int, samples: list[int], cuts: list[int]
) -> None:
    data = np.array(samples, "<i2").tobytes()
    whole = InterleavedPcm(channels).push(data)
    pcm = InterleavedPcm(channels)
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [pcm.push(data[a:b]) for a, b in itertools.pairwise(edges)]
    joined = np.concatenate([np.zeros(0, np.int16), *pieces])
    assert len(whole) == len(samples) // channels
    assert np.array_equal(joined, whole)
