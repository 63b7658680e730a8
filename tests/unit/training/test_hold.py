"""Held vowels are the voice's own, and nothing else is held."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.nouns import SPEECH_HZ
from serve_app.training.hold import LEAST_S, MOST_S, held

pytestmark = pytest.mark.unit

HOP = 160
PERIOD = SPEECH_HZ // 100


def vowel(seconds: float) -> np.ndarray:
    """Harmonics of 100 Hz around two resonances, [S]."""
    time = np.arange(round(seconds * SPEECH_HZ)) / SPEECH_HZ
    tones = [
        (np.exp(-(((100 * k - 700) / 200) ** 2)) + 0.4 * np.exp(-(((100 * k - 1200) / 300) ** 2)))
        * np.sin(2 * np.pi * 100 * k * time)
        for k in range(1, 30)
    ]
    return (0.2 * np.sum(tones, axis=0)).astype(np.float32)


def open_rows(looks: int) -> np.ndarray:
    rows = np.zeros((looks, len(NAMES)), np.float32)
    rows[:, INDEX["jawOpen"]] = 0.5
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_a_vowel_goes_on_in_its_own_pitch_without_a_click(seed: int) -> None:
    speech, rows = vowel(0.6), open_rows(60)
    longer, shapes = held(speech, rows, HOP, np.random.default_rng(seed))
    added_s = (len(longer) - len(speech)) / SPEECH_HZ
    assert LEAST_S - 0.01 <= added_s <= MOST_S
    assert len(longer) == len(shapes) * HOP
    assert (shapes == rows[0]).all()
    assert np.abs(np.diff(longer)).max() <= 1.6 * np.abs(np.diff(speech)).max()
    middle = longer[len(longer) // 2 - 8 * PERIOD : len(longer) // 2]
    lags = range(PERIOD * 3 // 4, PERIOD * 5 // 4)
    alike = [np.corrcoef(middle[: 4 * PERIOD], middle[lag : lag + 4 * PERIOD])[0, 1] for lag in lags]
    assert max(alike) > 0.9


@pytest.mark.parametrize("why", ["noise", "shut", "short", "restless"])
def test_what_is_no_steady_vowel_stays_as_it_is(why: str) -> None:
    rng = np.random.default_rng(1)
    speech, rows = vowel(0.6), open_rows(60)
    if why == "noise":
        speech = rng.standard_normal(len(speech)).astype(np.float32)
    elif why == "shut":
        rows[:] = 0.0
    elif why == "short":
        speech, rows = speech[: 8 * HOP], rows[:8]
    else:
        rows[::2, INDEX["mouthPucker"]] = 0.3
    longer, shapes = held(speech, rows, HOP, rng)
    assert longer is speech
    assert shapes is rows
