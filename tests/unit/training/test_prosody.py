"""Brows and head follow the melody that was heard so far."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.training.prosody import gestures, pitch
from tests.unit.models.speech import noise, silence, voiced

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("hz", [95.0, 140.0, 230.0])
def test_pitch_of_a_voice_is_found(hz: float) -> None:
    tones, has_pitch = pitch(voiced("ah", 0.5, pitch_hz=hz))
    assert has_pitch[5:-5].mean() > 0.9
    assert np.median(tones) == pytest.approx(12 * np.log2(hz / 55.0), abs=0.7)


def test_noise_and_silence_have_no_pitch() -> None:
    for sound in (noise(0.5, 0.1), silence(0.5)):
        assert pitch(sound)[1].mean() < 0.1


def test_brows_rise_with_the_pitch_and_stay_down_in_silence() -> None:
    flat, rise = voiced("ah", 0.6, pitch_hz=110.0), voiced("ah", 0.4, pitch_hz=170.0)
    brow = gestures(np.concatenate([flat, rise]))[:, 0]
    assert brow[40:58].max() < 0.15
    assert brow[60:].max() > 0.3
    assert np.abs(gestures(silence(0.5))).max() == 0.0


def test_nothing_of_the_future_is_used() -> None:
    start = np.concatenate([voiced("ah", 0.5), voiced("ee", 0.3, 0.3)])
    whole = gestures(np.concatenate([start, voiced("ah", 0.5, 0.4, 220.0)]))
    np.testing.assert_allclose(whole[:75], gestures(start)[:75], atol=1e-6)
