"""Which of espeak-ng's voices stands for a voice name.

The names are those of OpenAI Realtime and NavTalk (protocols 3.6 and 4.5). A name chooses how the voice
sounds; a language may follow it ("alloy:de") or stand alone ("de", "en-gb"), as espeak-ng's language codes.
Every other name gets one of these voices, always the same one.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace

LANGUAGE = "en-us"
"""Spoken where a name asks for no language, or for one that espeak-ng does not speak."""

_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8}){0,3}")


@dataclass(frozen=True, slots=True)
class EspeakVoice:
    """How espeak-ng is set to speak.

    Attributes:
        language: its language code, such as "en-us"; never anything else that espeak-ng takes for a name.
        variant: its voice variant: the timbre.
        pitch: 0 to 100; 50 is the variant's own.
        pitch_range: 0 monotone to 100; 50 is the variant's own.
        words_per_minute: rate at normal speed.
    """

    language: str
    variant: str
    pitch: int
    pitch_range: int
    words_per_minute: int


_VOICES = {
    "alloy": EspeakVoice(LANGUAGE, "f1", 38, 50, 172),
    "ash": EspeakVoice(LANGUAGE, "m3", 48, 55, 172),
    "ballad": EspeakVoice("en-gb", "m2", 66, 65, 158),
    "cedar": EspeakVoice(LANGUAGE, "m7", 30, 45, 160),
    "coral": EspeakVoice(LANGUAGE, "f3", 62, 65, 178),
    "echo": EspeakVoice(LANGUAGE, "m1", 42, 45, 168),
    "marin": EspeakVoice(LANGUAGE, "f2", 52, 55, 168),
    "sage": EspeakVoice("en-gb", "f5", 40, 45, 160),
    "shimmer": EspeakVoice(LANGUAGE, "Annie", 64, 70, 176),
    "verse": EspeakVoice(LANGUAGE, "Michael", 62, 70, 180),
}

NAMES = tuple(_VOICES)
"""Every voice with a sound of its own."""


def voice_named(name: str) -> EspeakVoice:
    """Return the voice for any name; letter case and spaces around do not matter.

    Whether espeak-ng speaks the language is not known here.
    """
    who, _, language = (part.strip() for part in name.lower().partition(":"))
    if who in _VOICES:
        voice = _VOICES[who]
    else:
        voice = _VOICES[NAMES[zlib.crc32(who.encode(errors="replace")) % len(NAMES)]]
        language = language or who
    if _LANGUAGE_CODE.fullmatch(language):
        return replace(voice, language=language)
    return voice
