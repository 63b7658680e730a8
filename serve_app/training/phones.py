"""Phones by their IPA letters, and how the mouth stands in each.

The shapes follow the phonetics of lips and jaw (Ladefoged and Johnson, "A Course in Phonetics"; the viseme
classes of MPEG-4, ISO/IEC 14496-2, annex C), in the coefficients of `serve_app.models.blendshapes`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """How the mouth stands in a phone, and how much the phone insists on it against its neighbours.

    Attributes:
        jaw: jawOpen.
        funnel: mouthFunnel.
        pucker: mouthPucker.
        stretch: mouthStretch.
        smile: mouthSmile.
        upper: mouthUpperUp.
        lower: mouthLowerDown.
        tongue: tongueOut.
        teeth: how far the lower lip touches the upper teeth: mouthRollLower.
        seal: how tightly the lips are pressed together; 0 where they are not shut.
        jaw_pull: dominance of the jaw's position over that of the phones around.
        lip_pull: dominance of everything else.
    """

    jaw: float
    funnel: float = 0.0
    pucker: float = 0.0
    stretch: float = 0.0
    smile: float = 0.0
    upper: float = 0.0
    lower: float = 0.0
    tongue: float = 0.0
    teeth: float = 0.0
    seal: float = 0.0
    jaw_pull: float = 1.0
    lip_pull: float = 1.0


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone and its time in an utterance; `ipa` is a key of SHAPES, or "" in a pause."""

    ipa: str
    start_s: float
    end_s: float


PAUSE = ""

_VOWELS = {
    "a": Shape(0.82, smile=0.08, lower=0.25, upper=0.1),
    "ɑ": Shape(0.88, lower=0.25),
    "ɐ": Shape(0.62, lower=0.2),
    "æ": Shape(0.76, stretch=0.3, smile=0.12, upper=0.2, lower=0.25),
    "ʌ": Shape(0.6, lower=0.2),
    "ɒ": Shape(0.72, funnel=0.3, lower=0.15),
    "ɔ": Shape(0.6, funnel=0.5, pucker=0.1, lower=0.1),
    "ɛ": Shape(0.52, stretch=0.35, smile=0.12, upper=0.15, lower=0.2),
    "e": Shape(0.42, stretch=0.45, smile=0.18, upper=0.12, lower=0.2),
    "ə": Shape(0.34, stretch=0.08, lower=0.15, jaw_pull=0.6, lip_pull=0.4),
    "ɜ": Shape(0.38, funnel=0.2, lower=0.15),
    "ɝ": Shape(0.32, funnel=0.35, pucker=0.1, lower=0.1),
    "ɪ": Shape(0.3, stretch=0.38, smile=0.12, lower=0.2, jaw_pull=0.8, lip_pull=0.8),
    "i": Shape(0.22, stretch=0.65, smile=0.28, upper=0.12, lower=0.25),
    "ɨ": Shape(0.24, stretch=0.3, lower=0.15, jaw_pull=0.7, lip_pull=0.6),
    "ʊ": Shape(0.28, funnel=0.35, pucker=0.35),
    "u": Shape(0.2, funnel=0.2, pucker=0.78, lip_pull=1.4),
    "o": Shape(0.42, funnel=0.6, pucker=0.32, lip_pull=1.2),
    "y": Shape(0.2, funnel=0.2, pucker=0.72, lip_pull=1.4),
    "ø": Shape(0.36, funnel=0.5, pucker=0.35, lip_pull=1.2),
    "œ": Shape(0.5, funnel=0.48, pucker=0.1),
}

_CONSONANTS = {
    "m": Shape(0.12, seal=0.5, jaw_pull=1.2, lip_pull=1.2),
    "b": Shape(0.12, seal=0.65, jaw_pull=1.2, lip_pull=1.2),
    "p": Shape(0.12, seal=0.75, jaw_pull=1.2, lip_pull=1.2),
    "f": Shape(0.1, upper=0.35, teeth=0.8, jaw_pull=2.0, lip_pull=4.0),
    "v": Shape(0.1, upper=0.32, teeth=0.75, jaw_pull=2.0, lip_pull=4.0),
    "β": Shape(0.12, lip_pull=0.8, jaw_pull=1.2),
    "θ": Shape(0.2, stretch=0.15, lower=0.25, upper=0.08, tongue=0.8, jaw_pull=1.4),
    "ð": Shape(0.2, stretch=0.12, lower=0.22, upper=0.08, tongue=0.7, jaw_pull=1.2),
    "t": Shape(0.14, stretch=0.18, upper=0.1, lower=0.2, tongue=0.35, jaw_pull=1.3, lip_pull=0.3),
    "d": Shape(0.15, stretch=0.16, upper=0.1, lower=0.2, tongue=0.35, jaw_pull=1.3, lip_pull=0.3),
    "n": Shape(0.16, stretch=0.16, upper=0.08, lower=0.18, tongue=0.35, jaw_pull=1.1, lip_pull=0.3),
    "ɾ": Shape(0.2, stretch=0.12, lower=0.18, tongue=0.3, jaw_pull=0.8, lip_pull=0.3),
    "l": Shape(0.26, stretch=0.12, lower=0.15, tongue=0.6, jaw_pull=1.0, lip_pull=0.4),
    "s": Shape(0.07, stretch=0.5, smile=0.1, upper=0.25, lower=0.38, jaw_pull=3.0, lip_pull=0.9),
    "z": Shape(0.08, stretch=0.45, smile=0.08, upper=0.25, lower=0.35, jaw_pull=3.0, lip_pull=0.9),
    "ʃ": Shape(0.12, funnel=0.65, pucker=0.12, upper=0.22, lower=0.3, jaw_pull=2.5, lip_pull=2.0),
    "ʒ": Shape(0.12, funnel=0.6, pucker=0.12, upper=0.2, lower=0.28, jaw_pull=2.5, lip_pull=2.0),
    "ɕ": Shape(0.1, funnel=0.3, stretch=0.2, upper=0.22, lower=0.32, jaw_pull=2.5, lip_pull=1.5),
    "ç": Shape(0.16, stretch=0.4, smile=0.1, upper=0.12, lower=0.25, jaw_pull=1.5, lip_pull=0.6),
    "ɹ": Shape(0.2, funnel=0.36, pucker=0.18, lower=0.08, jaw_pull=1.2, lip_pull=0.8),
    "r": Shape(0.24, funnel=0.1, lower=0.12, tongue=0.2, jaw_pull=0.8, lip_pull=0.3),
    "ʁ": Shape(0.3, lower=0.12, jaw_pull=0.6, lip_pull=0.2),
    "k": Shape(0.22, lower=0.12, jaw_pull=0.8, lip_pull=0.15),
    "ɡ": Shape(0.22, lower=0.12, jaw_pull=0.8, lip_pull=0.15),
    "ŋ": Shape(0.22, lower=0.12, jaw_pull=0.8, lip_pull=0.15),
    "x": Shape(0.26, lower=0.12, jaw_pull=0.8, lip_pull=0.15),
    "h": Shape(0.34, lower=0.15, jaw_pull=0.3, lip_pull=0.1),
    "ʔ": Shape(0.25, lower=0.12, jaw_pull=0.2, lip_pull=0.1),
    "w": Shape(0.14, funnel=0.2, pucker=0.85, jaw_pull=1.2, lip_pull=2.5),
    "ɥ": Shape(0.14, funnel=0.15, pucker=0.8, jaw_pull=1.2, lip_pull=2.5),
    "j": Shape(0.18, stretch=0.5, smile=0.2, upper=0.08, lower=0.2, jaw_pull=1.0, lip_pull=0.8),
}

SHAPES = {**_VOWELS, **_CONSONANTS, PAUSE: Shape(0.0, jaw_pull=0.9, lip_pull=0.6)}
"""Every phone that is told apart here."""

SEALED = frozenset("mbp")
"""Phones in which the lips are shut."""

LIP_TO_TEETH = frozenset("fv")
"""Phones in which the lower lip touches the upper teeth."""

CLASSES = {
    "open vowels": frozenset("aɑɐæʌɒɔ"),
    "mid vowels": frozenset("ɛeəɜɝoøœ"),
    "close vowels": frozenset("iɪɨʊuy"),
    "m b p": SEALED,
    "f v": LIP_TO_TEETH,
    "th": frozenset("θð"),
    "s z": frozenset("sz"),
    "sh zh": frozenset("ʃʒɕç"),
    "t d n l": frozenset("tdnɾl"),
    "r w y": frozenset("ɹrʁwɥj"),
    "k g ng h": frozenset("kɡŋxhʔ"),
    "pause": frozenset({PAUSE}),
}
"""Phone classes of the evaluation's table."""

_SPELLINGS = {
    "g": "ɡ", "ɚ": "ɝ", "ɫ": "l", "ɭ": "l", "ʎ": "lj", "ɲ": "nj", "ʋ": "v", "ɸ": "f", "ɱ": "m", "ʂ": "ʃ",
    "ʐ": "ʒ", "ʑ": "ɕ", "c": "k", "ɟ": "ɡ", "ɣ": "ɡ", "χ": "x", "ħ": "h", "ɦ": "h", "ɻ": "ɹ", "ʀ": "ʁ",
    "ɽ": "ɾ", "ʉ": "u", "ɯ": "ɨ", "ɤ": "ʌ", "ɵ": "o", "ɘ": "ə", "ʏ": "y", "ɶ": "œ", "ʍ": "w", "ᵻ": "ɪ",
    "ɖ": "d", "ʈ": "t", "ɳ": "n", "ʙ": "b", "ɬ": "s", "ɮ": "l", "q": "k", "ʟ": "l", "ɰ": "ɡ", "ʝ": "j",
}  # fmt: skip

_ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "ay": "aɪ", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "er": "ɝ", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h",
    "ih": "ɪ", "iy": "i", "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ",
    "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u",
    "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "",
}  # fmt: skip


def from_ipa(letters: str) -> str:
    """Return the phones in a transcription, one letter of SHAPES each; stress, length and marks fall away."""
    return "".join(phone for letter in letters if (phone := _SPELLINGS.get(letter, letter)).strip(" ()"))


def phones_of(symbol: str, start_s: float, end_s: float) -> list[Phone]:
    """Return the phones of one segment that a synthesiser names in IPA, such as "ˈaɪ" or "tʃ".

    A segment of several letters is divided among them evenly. One without any letter that is known here
    is a pause.
    """
    letters = [letter for letter in from_ipa(symbol) if letter in SHAPES]
    if not letters:
        return [Phone(PAUSE, start_s, end_s)]
    step_s = (end_s - start_s) / len(letters)
    return [
        Phone(letter, start_s + number * step_s, start_s + (number + 1) * step_s)
        for number, letter in enumerate(letters)
    ]


def from_arpabet(symbol: str) -> str:
    """Return the IPA letters of a phone of flite's phone set.

    Raises:
        ValueError: the set has no such phone.
    """
    if symbol not in _ARPABET:
        raise ValueError(f"expected a phone of flite's set ({' '.join(_ARPABET)}), found {symbol!r}")
    return _ARPABET[symbol]
