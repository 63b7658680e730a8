"""Speech is made once, the same for the same seed, with phones where the sound is."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from serve_app.nouns import SPEECH_HZ
from serve_app.training import corpus
from serve_app.training.corpus import LOOK, VOICES, Voice
from serve_app.training.phones import PAUSE, SHAPES
from serve_app.training.synthesis import Espeak, Flite, Spoken, Synthesiser

pytestmark = pytest.mark.unit

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


def level_db(spoken: Spoken, phones: str) -> float:
    """Return the mean level of the middles of some phones."""
    power = []
    for phone in spoken.phones:
        if phone.ipa in set(phones) if phones else phone.ipa == PAUSE:
            middle = round((phone.start_s + phone.end_s) / 2 * SPEECH_HZ)
            power.append(np.mean(spoken.speech[middle - 80 : middle + 80].astype(float) ** 2))
    return float(10.0 * np.log10(np.mean(power) + 1.0))


@pytest.mark.parametrize(
    "synthesiser",
    [pytest.param("flite", marks=needs_flite), "espeak"],
)
def test_phones_lie_where_their_sound_is(synthesiser: str) -> None:
    voice: Synthesiser = Flite("slt") if synthesiser == "flite" else Espeak("en-us+f2")
    spoken = voice.speak("A top cop got a pack of potatoes.", rate=0.9, pitch=1.0)
    assert all(phone.ipa in SHAPES for phone in spoken.phones)
    assert all(one.end_s == pytest.approx(two.start_s) for one, two in pairwise(spoken.phones))
    assert spoken.phones[-1].end_s == pytest.approx(len(spoken.speech) / SPEECH_HZ, abs=0.05)
    assert level_db(spoken, "ɑæ") > level_db(spoken, "") + 20.0
    assert level_db(spoken, "ɑæ") > level_db(spoken, "pk") + 6.0


@needs_flite
def test_rate_changes_the_length() -> None:
    slow, fast = (Flite("kal16").speak("Hello my friend.", rate=rate, pitch=1.0) for rate in (0.8, 1.3))
    assert len(slow.speech) > 1.3 * len(fast.speech)


def test_an_unknown_voice_of_espeak_is_an_error() -> None:
    with pytest.raises(ValueError, match="'xx-none'"):
        Espeak("xx-none")


def test_speech_is_made_once_and_read_back(tmp_path: Path) -> None:
    voices = (Voice("espeak", "en-us", 0.08), Voice("espeak", "en-us+f4", 0.05, heard=False))
    corpus.make(tmp_path / "one", seed=3, voices=voices, jobs=1)
    corpus.make(tmp_path / "two", seed=3, voices=voices[:1], jobs=1)
    heard = corpus.load(tmp_path / "one", heard=True, voices=voices)
    same = corpus.load(tmp_path / "two", heard=True, voices=voices[:1])
    assert {one.voice for one in heard} == {"espeak en-us"}
    assert sum(len(one.speech) for one in heard) >= 0.08 * 60 * SPEECH_HZ
    for one, other in zip(heard, same, strict=True):
        np.testing.assert_array_equal(one.speech, other.speech)
        assert one.targets.shape == (len(one.speech) // LOOK + 1, 14)
    made = (tmp_path / "one" / "espeak_en-us.npz").stat().st_mtime_ns
    corpus.make(tmp_path / "one", seed=3, voices=voices, jobs=1)
    assert (tmp_path / "one" / "espeak_en-us.npz").stat().st_mtime_ns == made


def test_speech_that_was_not_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="flite rms"):
        corpus.load(tmp_path, heard=False)


def test_voices_of_the_examination_are_none_of_the_training() -> None:
    heard, unseen = ([voice for voice in VOICES if voice.heard is side] for side in (True, False))
    assert unseen
    assert not {voice.name for voice in heard} & {voice.name for voice in unseen}
    variants = {voice.name.partition("+")[2] for voice in heard if voice.synthesiser == "espeak"}
    assert not variants & {voice.name.partition("+")[2] for voice in unseen if voice.synthesiser == "espeak"}
