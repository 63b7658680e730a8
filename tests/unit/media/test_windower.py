from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.media.windower import Cut, Windower, WindowGrid
from serve_app.nouns import Int16, speech_index

pytestmark = pytest.mark.unit

GRID = WindowGrid(fps=30, left_context=800, lookahead=400)


def ramp(samples: int) -> Int16:
    return (np.arange(samples) % 30_000 + 1).astype(np.int16)


def cut_all(windower: Windower, sizes: list[int]) -> list[Cut]:
    cuts = []
    at = 0
    while windower.available_frames():
        cuts.append(windower.cut(min(sizes[at % len(sizes)], windower.available_frames())))
        at += 1
    return cuts


def test_frame_waits_for_its_lookahead() -> None:
    windower = Windower(GRID)
    windower.push(ramp(speech_index(1, 30) + 399))
    assert windower.available_frames() == 0
    windower.push(ramp(1))
    assert windower.available_frames() == 1


def test_ended_utterance_needs_no_lookahead_and_pads_its_last_frame() -> None:
    windower = Windower(GRID)
    windower.push(ramp(600))
    windower.end()
    assert windower.available_frames() == 2
    cut = windower.cut(2)
    assert cut.is_last
    own = cut.speech[GRID.left_context :]
    assert np.array_equal(own[:600], ramp(600))
    assert not own[600:].any()


def test_first_window_has_silence_for_its_left_context() -> None:
    windower = Windower(GRID)
    windower.push(ramp(2000))
    assert not windower.cut(1).speech[: GRID.left_context].any()


def test_empty_utterance_is_done_at_once() -> None:
    windower = Windower(GRID)
    windower.end()
    assert windower.is_done
    assert windower.available_frames() == 0


@given(
    pushes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    fps=st.sampled_from([24, 25, 30, 50]),
)
@settings(max_examples=150, deadline=None)
def test_windows_carry_every_frame_once_with_its_true_context(
    pushes: list[int], sizes: list[int], fps: int
) -> None:
    grid = WindowGrid(fps, 800, 400)
    total = sum(pushes)
    whole = ramp(total)
    windower = Windower(grid)
    cuts: list[Cut] = []
    at = 0
    for size in pushes:
        windower.push(whole[at : at + size])
        at += size
        cuts += cut_all(windower, sizes)
    windower.end()
    cuts += cut_all(windower, sizes)
    expected = -(-total * fps // 16_000)
    assert sum(cut.num_frames for cut in cuts) in (expected, expected - 1)
    assert windower.is_done
    frame = 0
    padded = np.concatenate([np.zeros(800, np.int16), whole, np.zeros(4000, np.int16)])
    for cut in cuts:
        assert cut.first_frame == frame
        frame += cut.num_frames
        start = speech_index(cut.first_frame, fps)
        stop = speech_index(frame, fps) + 400
        assert len(cut.speech) == stop - start + 800
        assert np.array_equal(cut.speech, padded[start : stop + 800])
    assert [cut.is_last for cut in cuts] == [False] * (len(cuts) - 1) + [True] * bool(cuts)
