from __future__ import annotations

import numpy as np
import pytest

from serve_app.config import SpeechConfig
from serve_app.errors import SpeechOverrun
from serve_app.media.windower import WindowGrid
from serve_app.nouns import SOUND_HZ, Credit, Int16, Window
from serve_app.speech.source import SpeechSource

pytestmark = pytest.mark.unit

GRID = WindowGrid(fps=30, left_context=1600, lookahead=800)
CONFIG = SpeechConfig()


def voice(seconds: float, hz: int = 16_000) -> Int16:
    t = np.arange(round(seconds * hz)) / hz
    return (8000 * np.sin(2 * np.pi * 220 * t)).astype(np.int16)


def source(config: SpeechConfig = CONFIG) -> SpeechSource:
    return SpeechSource("s", "a", GRID, config)


def drive(
    speech: SpeechSource, seconds: float, *, start_s: float = 0.0, tick_s: float = 0.02, base: int = 0
) -> list[Window]:
    """Take windows for a while for a host that answers at once and shows frames in real time."""
    windows = []
    ahead = 0.0
    for step in range(round(seconds / tick_s)):
        now_s = start_s + step * tick_s
        speech.advance()
        ahead = max(0.0, ahead - tick_s * GRID.fps)
        while (window := speech.take_window(now_s)) is not None:
            windows.append(window)
            ahead += window.num_frames
            speech.landed(1)
            shown = base + round((now_s - start_s) * GRID.fps)
            speech.credit(Credit("s", speech.generation, round(ahead), shown), now_s)
    return windows


def test_first_window_is_short_and_the_next_ones_grow() -> None:
    speech = source()
    speech.begin(0)
    speech.feed(voice(5.0), 16_000)
    speech.end()
    sizes = [window.num_frames for window in drive(speech, 5.0)]
    assert sizes[0] == 3
    assert sizes[1] <= 6
    assert max(sizes) == 12
    assert sum(sizes) == 150


def test_host_is_never_more_than_the_credit_ahead() -> None:
    speech = source()
    speech.begin(0)
    speech.feed(voice(20.0), 16_000)
    speech.end()
    at_once = drive(speech, 0.02)
    assert sum(window.num_frames for window in at_once) <= CONFIG.max_ahead_s * GRID.fps


def test_windows_without_an_answer_are_limited() -> None:
    speech = source(SpeechConfig(max_windows_in_flight=1))
    speech.begin(0)
    speech.feed(voice(5.0), 16_000)
    assert speech.take_window(0.0) is not None
    assert speech.take_window(0.1) is None
    speech.landed(1)
    assert speech.take_window(0.2) is not None


def test_live_sound_leaves_frame_by_frame() -> None:
    speech = source()
    speech.begin(0)
    whole = voice(1.0)
    windows = []
    for chunk in range(50):
        speech.feed(whole[chunk * 320 : (chunk + 1) * 320], 16_000)
        windows += drive(speech, 0.02, start_s=chunk * 0.02)
    assert windows[0].num_frames <= 3
    assert sum(window.num_frames for window in windows) >= 27
    assert max(window.num_frames for window in windows) <= 3


def test_sound_keeps_its_length_at_any_rate() -> None:
    for hz in (8_000, 16_000, 22_050, 24_000, 44_100, 48_000):
        speech = source()
        speech.begin(7)
        whole = voice(2.0, hz)
        for at in range(0, len(whole), 777):
            speech.feed(whole[at : at + 777], hz)
        speech.end()
        sounds = speech.take_sounds()
        assert abs(sum(len(sound.samples) for sound in sounds) - 2 * SOUND_HZ) <= 2
        assert sounds[-1].is_last
        assert sounds[0].client_index == 7
        at = 0
        for sound in sounds:
            assert sound.first_sample == at
            at += len(sound.samples)


def test_utterances_leave_in_order() -> None:
    speech = source()
    for index in range(3):
        speech.begin(index)
        speech.feed(voice(1.0), 16_000)
        speech.end()
    windows = drive(speech, 4.0)
    assert [w.utterance for w in windows] == sorted(w.utterance for w in windows)
    assert [w.is_last for w in windows].count(True) == 3
    assert [s.utterance for s in speech.take_sounds()] == [0, 1, 2]
    assert not speech.has_work


def test_base_frames_go_on_from_one_utterance_to_the_next() -> None:
    speech = source(SpeechConfig(max_ahead_s=10))
    speech.credit(Credit("s", 0, 0, 100), 0.0)
    for index in range(2):
        speech.begin(index)
        speech.feed(voice(1.0), 16_000)
        speech.end()
    windows = drive(speech, 2.0, base=100)
    second = next(w for w in windows if w.utterance == 1)
    assert abs(second.base_frame - (windows[0].base_frame + 30)) <= 2
    assert 100 <= windows[0].base_frame <= 104


def test_interrupt_forgets_everything_and_bumps_the_generation() -> None:
    speech = source()
    speech.begin(0)
    speech.feed(voice(3.0), 16_000)
    speech.interrupt()
    assert speech.take_window(0.0) is None
    assert speech.take_sounds() == []
    speech.begin(1)
    speech.feed(voice(1.0), 16_000)
    window = speech.take_window(0.1)
    assert window is not None
    assert window.generation == 1
    assert window.first_frame == 0


def test_too_much_unplayed_speech_is_refused_and_nothing_is_taken() -> None:
    speech = source(SpeechConfig(max_buffered_s=2.0))
    speech.begin(0)
    speech.feed(voice(1.5), 16_000)
    with pytest.raises(SpeechOverrun, match="expected at most 2 s"):
        speech.feed(voice(1.0), 16_000)
    speech.feed(voice(0.4), 16_000)
    speech.end()
    assert sum(len(s.samples) for s in speech.take_sounds()) == pytest.approx(1.9 * SOUND_HZ, abs=2)


def test_continued_utterance_sends_sound_and_leaves_windows_to_the_host() -> None:
    speech = source()
    speech.go_on(4, 9, received=48_000)
    speech.feed(voice(1.0), 16_000)
    speech.end()
    assert speech.take_window(0.0) is None
    sounds = speech.take_sounds()
    assert sounds[0].first_sample == 48_000
    assert sounds[0].utterance == 4
    assert sounds[-1].is_last
    speech.begin(10)
    speech.feed(voice(1.0), 16_000)
    window = speech.take_window(0.0)
    assert window is not None
    assert window.utterance == 5


def test_long_speech_is_resampled_in_slices() -> None:
    speech = source()
    speech.begin(0)
    speech.feed(voice(20.0), 16_000)
    speech.end()
    sent = [sum(len(s.samples) for s in speech.take_sounds())]
    while speech.advance():
        sent.append(sum(len(s.samples) for s in speech.take_sounds()))
    sent.append(sum(len(s.samples) for s in speech.take_sounds()))
    assert max(sent) <= 4.1 * SOUND_HZ
    assert sum(sent) == pytest.approx(20 * SOUND_HZ, abs=2)
    assert speech.take_window(0.0) is not None


def test_utterance_that_nothing_was_fed_to_never_was() -> None:
    speech = source()
    speech.begin(0)
    speech.end()
    assert not speech.has_work
    assert speech.take_sounds() == []
