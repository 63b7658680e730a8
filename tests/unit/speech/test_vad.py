from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.vad import STEP, SpeechDetector
from tests.unit.speech.voice import said

pytestmark = pytest.mark.unit


def probabilities(detector: SpeechDetector, samples: Int16) -> list[float]:
    whole = samples.size - samples.size % STEP
    return [detector.probability(samples[start : start + STEP]) for start in range(0, whole, STEP)]


async def test_speech_is_likely_and_other_sounds_are_not() -> None:
    speech = probabilities(SpeechDetector(), await said("Would you tell me more about it?"))
    assert np.median(speech) > 0.9

    t = np.arange(2 * SPEECH_HZ) / SPEECH_HZ
    others = {
        "silence": np.zeros(t.size),
        "noise": np.random.default_rng(0).normal(scale=3000, size=t.size),
        "tone": 8000 * np.sin(2 * np.pi * 440 * t),
        "hum": 4000 * np.sin(2 * np.pi * 50 * t) + 2000 * np.sin(2 * np.pi * 150 * t),
    }
    for name, sound in others.items():
        assert max(probabilities(SpeechDetector(), sound.astype(np.int16))) < 0.3, name


async def test_streams_do_not_disturb_each_other() -> None:
    speech = await said("One stream.")
    other = np.random.default_rng(1).integers(-9000, 9000, speech.size, dtype=np.int16)
    alone = probabilities(SpeechDetector(), speech)

    first, second = SpeechDetector(), SpeechDetector()
    together = []
    for start in range(0, speech.size - STEP + 1, STEP):
        together.append(first.probability(speech[start : start + STEP]))
        second.probability(other[start : start + STEP])
    assert together == alone


async def test_reset_forgets_what_was_heard() -> None:
    speech = await said("Say it again.")
    detector = SpeechDetector()
    first = probabilities(detector, speech)
    assert probabilities(detector, speech) != first
    detector.reset()
    assert probabilities(detector, speech) == first


@pytest.mark.parametrize("shape", [(0,), (STEP - 1,), (STEP + 64,), (1, STEP)])
def test_another_size_than_a_step_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected samples of shape \(512,\), found"):
        SpeechDetector().probability(np.zeros(shape, np.int16))


def test_torch_is_never_imported_and_onnxruntime_late() -> None:
    program = (
        "import sys; from serve_app.speech import vad;"
        "assert 'onnxruntime' not in sys.modules; vad.warm_up();"
        "assert 'onnxruntime' in sys.modules and not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
