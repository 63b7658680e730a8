from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest

from serve_app.client.speech_file import read_speech, wav_header
from serve_app.errors import InvalidAudio

pytestmark = pytest.mark.unit

SAMPLES = (np.arange(2400) * 13 % 20_000 - 10_000).astype(np.int16)


def test_the_header_makes_samples_a_wav_file() -> None:
    data = wav_header(24_000, SAMPLES.nbytes) + SAMPLES.tobytes()
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(3000) == SAMPLES.tobytes()


def test_a_mono_wav_is_read_sample_for_sample() -> None:
    samples, hz = read_speech(wav_header(24_000, SAMPLES.nbytes) + SAMPLES.tobytes())
    assert hz == 24_000
    np.testing.assert_array_equal(samples, SAMPLES)


def test_a_file_that_is_no_sound_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no sound here")
    with pytest.raises(InvalidAudio, match=r"notes\.txt: expected a sound file"):
        read_speech(path)
