from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidMessage
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.turns import (
    Eagerness,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
    TurnEvent,
    TurnSettings,
)
from serve_app.speech.vad import STEP, SpeechDetector
from tests.unit.speech.voice import said, with_noise

pytestmark = pytest.mark.unit

DEFAULT = TurnSettings()
PADDING = 4800
SILENCE = 8000


class Scripted:
    """A detector that hears what the test says, one probability for each step, then silence."""

    def __init__(self, probabilities: Iterable[float]) -> None:
        self._probabilities = list(probabilities)
        self.resets = 0

    def probability(self, samples: Int16) -> float:
        assert samples.shape == (STEP,)
        return self._probabilities.pop(0) if self._probabilities else 0.0

    def reset(self) -> None:
        self.resets += 1


def steps(count: int) -> Int16:
    return np.zeros(count * STEP, np.int16)


def heard(probabilities: list[float], settings: TurnSettings = DEFAULT) -> list[TurnEvent]:
    return TurnDetector(settings, Scripted(probabilities)).feed(steps(len(probabilities)))


def test_turn_begins_with_its_padding_and_ends_with_its_silence() -> None:
    events = heard([0.0] * 20 + [0.95] * 10 + [0.0] * 16)
    assert events == [
        SpeechStarted(at_sample=20 * STEP - PADDING, speech_sample=20 * STEP, decided_sample=21 * STEP),
        SpeechStopped(at_sample=30 * STEP + SILENCE, speech_sample=30 * STEP, decided_sample=46 * STEP),
    ]


def test_padding_does_not_reach_before_the_beginning() -> None:
    assert heard([0.0, 0.95]) == [SpeechStarted(0, STEP, 2 * STEP)]


def test_padding_does_not_reach_into_the_turn_before() -> None:
    events = heard([0.95] * 2 + [0.0] * 16 + [0.95])
    assert [event.at_sample for event in events] == [0, 2 * STEP + SILENCE, 2 * STEP + SILENCE]


@pytest.mark.parametrize(
    ("probabilities", "starts_at_step"),
    [
        ([0.0, 0.86], 1),
        ([0.6, 0.6], 0),
        ([0.3, 0.55], 0),
        ([0.6, 0.0, 0.6, 0.0], None),
        ([0.1, 0.8, 0.1], None),
        ([0.4] * 20, None),
    ],
)
def test_a_turn_starts_at_sure_or_at_rising_speech(
    probabilities: list[float], starts_at_step: int | None
) -> None:
    started = [event.speech_sample for event in heard(probabilities)]
    assert started == ([] if starts_at_step is None else [starts_at_step * STEP])


def test_probabilities_just_under_the_threshold_do_not_begin_a_silence() -> None:
    assert len(heard([0.95] + [0.4] * 100)) == 1
    assert len(heard([0.95] + [0.34] * 100)) == 2


def test_silence_goes_on_below_the_threshold_and_ends_with_speech() -> None:
    assert len(heard([0.95, 0.1] + [0.45] * 15)) == 2
    assert len(heard([0.95] + ([0.0] * 15 + [0.5]) * 5)) == 1


def test_positions_go_on_over_many_feeds_of_any_size() -> None:
    script = [0.0] * 12 + [0.95] * 8 + [0.0] * 20 + [0.7] * 3 + [0.0] * 17
    whole = heard(script)
    assert len(whole) == 4

    @given(st.lists(st.integers(0, 2000), max_size=60))
    def check(sizes: list[int]) -> None:
        detector = TurnDetector(DEFAULT, Scripted(script))
        events, left = [], steps(len(script))
        for size in [*sizes, left.size]:
            events += detector.feed(left[:size])
            left = left[size:]
        assert events == whole
        assert detector.position == len(script) * STEP

    check()


def test_settings_can_change_within_a_turn() -> None:
    detector = TurnDetector(TurnSettings(silence_s=5.0), Scripted([0.95]))
    assert len(detector.feed(steps(1 + 31))) == 1
    assert detector.is_speaking
    detector.settings = TurnSettings(silence_s=0.2)
    assert detector.feed(steps(1)) == [SpeechStopped(STEP + 3200, STEP, 33 * STEP)]
    assert not detector.is_speaking


def test_no_silence_at_all_ends_a_turn_at_the_first_quiet_step() -> None:
    assert heard([0.95, 0.0], TurnSettings(silence_s=0.0))[1] == SpeechStopped(STEP, STEP, 2 * STEP)


def test_reset_drops_the_turn_and_keeps_counting() -> None:
    scripted = Scripted([0.95] * 4)
    detector = TurnDetector(DEFAULT, scripted)
    detector.feed(np.concatenate([steps(2), np.zeros(100, np.int16)]))
    detector.reset()
    assert (detector.is_speaking, scripted.resets) == (False, 1)
    assert detector.feed(steps(1)) == [SpeechStarted(2 * STEP + 100, 2 * STEP, 3 * STEP)]


@pytest.mark.parametrize(
    ("eagerness", "longest_s"), [("high", 2.0), ("medium", 4.0), ("auto", 4.0), ("low", 8.0)]
)
def test_semantic_settings_wait_longer_for_who_hesitates_but_not_for_ever(
    eagerness: Eagerness, longest_s: float
) -> None:
    settings = TurnSettings.semantic(eagerness)

    def wait_s(pauses_s: list[float]) -> float:
        script = [0.95] * 10
        for pause_s in pauses_s:
            script += [0.0] * round(pause_s * SPEECH_HZ / STEP) + [0.95] * 10
        started, stopped = heard(script + [0.0] * 300, settings)
        assert isinstance(started, SpeechStarted)
        return (stopped.at_sample - stopped.speech_sample) / SPEECH_HZ

    fluent_s = wait_s([])
    assert fluent_s == pytest.approx(settings.silence_s)
    hesitant_s = wait_s([fluent_s * 0.9])
    assert fluent_s < hesitant_s < longest_s
    pauses_s = [fluent_s * 0.9]
    while pauses_s[-1] * 1.5 < longest_s:
        pauses_s.append(pauses_s[-1] * 1.4)
    assert wait_s(pauses_s) == pytest.approx(longest_s)


def test_eager_settings_wait_less() -> None:
    high, auto, low = (TurnSettings.semantic(eagerness) for eagerness in ("high", "auto", "low"))
    assert high.silence_s < auto.silence_s < low.silence_s
    assert auto == TurnSettings.semantic("medium") == TurnSettings.semantic()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.01}, "threshold: expected 0 to 1, found 1.01"),
        ({"threshold": float("nan")}, "threshold: expected 0 to 1, found nan"),
        ({"prefix_padding_s": -0.1}, "prefix padding in seconds: expected 0 to 5, found -0.1"),
        ({"silence_s": 10.5}, "silence in seconds: expected 0 to 10, found 10.5"),
        ({"patience": 11.0}, "patience: expected 0 to 10, found 11.0"),
        ({"longest_wait_s": float("inf")}, "longest wait in seconds: expected 0 to 10, found inf"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        TurnSettings(**values)
    assert str(refused.value) == message


def test_unknown_eagerness_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="expected one of low, medium, high, auto, found 'keen'"):
        TurnSettings.semantic("keen")  # type: ignore[arg-type]


@pytest.mark.parametrize("voice", ["alloy", "cedar", "shimmer"])
async def test_a_spoken_sentence_under_noise_is_one_turn(voice: str) -> None:
    speech = await said("Do you know the way to the station?", voice)
    loud = np.flatnonzero(np.abs(speech) > 0.02 * np.abs(speech).max())
    sound = with_noise(speech, before_s=1.0, after_s=1.0, snr_db=20)
    detector = TurnDetector(DEFAULT, SpeechDetector())
    events = [
        event for start in range(0, sound.size, 320) for event in detector.feed(sound[start : start + 320])
    ]

    started, stopped = events
    assert isinstance(started, SpeechStarted)
    assert isinstance(stopped, SpeechStopped)
    onset, end = SPEECH_HZ + loud[0], SPEECH_HZ + loud[-1]
    assert 0 <= (started.decided_sample - onset) / SPEECH_HZ <= 0.15
    assert 0.4 <= (stopped.decided_sample - end) / SPEECH_HZ <= 0.75
    assert started.at_sample < onset
    assert stopped.at_sample > end


def test_other_sounds_start_no_turn() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(5 * SPEECH_HZ) / SPEECH_HZ
    clicks = np.zeros(t.size)
    clicks[8000::16000] = 30_000
    bursts = np.where(t % 1.0 < 0.005, rng.normal(scale=9000, size=t.size), 0.0)
    beeps = 8000 * np.sin(2 * np.pi * 1000 * t) * (t % 1.0 < 0.5)
    sounds = {
        "silence": np.zeros(t.size),
        "noise": rng.normal(scale=5000, size=t.size),
        "tone": 8000 * np.sin(2 * np.pi * 220 * t),
        "hum": 4000 * np.sin(2 * np.pi * 50 * t) + 2000 * np.sin(2 * np.pi * 100 * t),
        "clicks": clicks,
        "bursts": bursts,
        "beeps": beeps,
    }
    for name, sound in sounds.items():
        clipped = np.clip(sound, -32_768, 32_767).astype(np.int16)
        assert TurnDetector(DEFAULT, SpeechDetector()).feed(clipped) == [], name
