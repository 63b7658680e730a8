from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.speech.voices import NAMES, EspeakVoice, voice_named
from tests.unit.speech.voice import pitch_hz, sound

pytestmark = pytest.mark.unit

MALE = ("ash", "ballad", "cedar", "echo", "verse")
FEMALE = ("alloy", "coral", "marin", "sage", "shimmer")


def test_the_documents_voices_are_known() -> None:
    assert set(NAMES) == set(MALE) | set(FEMALE)


async def test_male_and_female_voices_differ_in_pitch() -> None:
    text = "The rain in Spain stays mainly on the plain."
    pitches = {name: pitch_hz(await sound(text, name)) for name in NAMES}
    assert all(60 < pitches[name] < 140 for name in MALE)
    assert all(150 < pitches[name] < 300 for name in FEMALE)


async def test_every_voice_sounds_different() -> None:
    sounds = [await sound("Hello there.", name) for name in NAMES]
    for first, second in itertools.combinations(sounds, 2):
        size = min(first.size, second.size)
        correlation = np.corrcoef(first[:size], second[:size])[0, 1]
        assert first.size != second.size or correlation < 0.9


def test_unknown_names_keep_their_voice() -> None:
    assert voice_named("Brooding baritone") == voice_named("brooding baritone ")
    timbres = {voice_named(f"unknown voice {number}").variant for number in range(200)}
    assert len(timbres) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("alloy", "en-us"),
        ("sage", "en-gb"),
        ("alloy:de", "de"),
        (" Alloy : PT-BR ", "pt-br"),
        ("de", "de"),
        ("en-gb-scotland", "en-gb-scotland"),
        ("alloy:", "en-us"),
        ("alloy:../../etc", "en-us"),
        ("alloy:de+f3", "en-us"),
        ("alloy:ｄｅ", "en-us"),
    ],
)
def test_languages_are_taken_from_names(name: str, language: str) -> None:
    assert voice_named(name).language == language


async def test_a_language_changes_what_is_heard_and_an_unknown_one_is_english() -> None:
    text = "Guten Morgen, die Straße ist lang."
    german, english = await sound(text, "alloy:de"), await sound(text, "alloy")
    assert german.size != pytest.approx(english.size, rel=0.05)
    assert (await sound(text, "alloy:zz")).size == pytest.approx(english.size, rel=0.02)


@given(st.text(max_size=40))
def test_any_name_has_a_voice_that_espeak_takes_for_no_path(name: str) -> None:
    voice = voice_named(name)
    assert isinstance(voice, EspeakVoice)
    assert re.fullmatch(r"[a-z0-9-]+", voice.language)
    assert voice.variant in {voice_named(known).variant for known in NAMES}
