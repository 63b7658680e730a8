from __future__ import annotations

import numpy as np
import pytest

from serve_app.config import PlayoutConfig
from serve_app.media.pcm import Resampler
from serve_app.media.playout import Playout
from serve_app.media.windower import Windower, WindowGrid
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16, Sound
from serve_app.session.rescue import cut_window

pytestmark = pytest.mark.unit

GRID = WindowGrid(fps=30, left_context=4800, lookahead=800)


def voice(seconds: float) -> Int16:
    t = np.arange(round(seconds * SPEECH_HZ)) / SPEECH_HZ
    tone = 6000 * np.sin(2 * np.pi * 180 * t) + 3000 * np.sin(2 * np.pi * 900 * t)
    return (tone * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * t))).astype(np.int16)


def to_sound(speech: Int16) -> Int16:
    up = Resampler(SPEECH_HZ, SOUND_HZ)
    return np.concatenate([up.push(speech), up.flush()])


def held(speech: Int16, *, is_last: bool = True) -> Playout:
    playout = Playout(GRID.fps, PlayoutConfig())
    playout.push_sound(Sound("s", 0, 0, 0, to_sound(speech), is_last, 0))
    return playout


def test_windows_cut_by_a_host_are_those_a_gateway_would_have_cut() -> None:
    speech = voice(2.0)
    playout = held(speech)
    windower = Windower(GRID)
    windower.push(speech)
    windower.end()
    while windower.available_frames():
        theirs = windower.cut(min(12, windower.available_frames()))
        mine = cut_window(playout, GRID, "s", "a", 12)
        assert mine is not None
        assert playout.expect(mine)
        assert (mine.first_frame, mine.num_frames, mine.is_last) == (
            theirs.first_frame,
            theirs.num_frames,
            theirs.is_last,
        )
        error = mine.speech.astype(float) - theirs.speech
        middle = slice(64, -64)
        assert np.sqrt(np.mean(error[middle] ** 2)) < 0.02 * np.sqrt(np.mean(speech.astype(float) ** 2))
    assert cut_window(playout, GRID, "s", "a", 12) is None


def test_open_utterance_keeps_its_lookahead() -> None:
    playout = held(voice(0.5), is_last=False)
    window = cut_window(playout, GRID, "s", "a", 60)
    assert window is not None
    assert window.num_frames == int((0.5 - GRID.lookahead / SPEECH_HZ) * GRID.fps)
    assert not window.is_last


def test_what_has_been_shown_is_not_cut_again() -> None:
    playout = held(voice(1.0))
    first = cut_window(playout, GRID, "s", "a", 12)
    assert first is not None
    playout.expect(first)
    second = cut_window(playout, GRID, "s", "a", 12)
    assert second is not None
    assert second.first_frame == 12
    assert second.base_frame == playout.base_frame + 12


def test_nothing_is_cut_without_sound() -> None:
    assert cut_window(Playout(30, PlayoutConfig()), GRID, "s", "a", 12) is None
