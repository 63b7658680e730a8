"""Utterances whose sound follows their phones: voiced where the mouth is open, silent in pauses."""

from __future__ import annotations

import numpy as np

from serve_app.models.blendshapes import INDEX
from serve_app.nouns import SPEECH_HZ
from serve_app.training.corpus import LOOK, Utterance
from serve_app.training.phones import PAUSE, Phone
from serve_app.training.targets import targets
from tests.unit.models.speech import scaled

PHRASE = (
    (PAUSE, 0.3),
    ("m", 0.1),
    ("ɑ", 0.2),
    ("f", 0.12),
    ("i", 0.2),
    ("p", 0.1),
    ("u", 0.25),
    (PAUSE, 0.4),
)


def utterance(voice: str = "flite test", *, seed: int = 1) -> Utterance:
    """Return 1.67 s of noise that is as loud as the mouth is open."""
    phones, at = [], 0.0
    for ipa, length_s in PHRASE:
        phones.append(Phone(ipa, at, at + length_s))
        at += length_s
    size = round(at * SPEECH_HZ)
    wanted = targets(phones, size // LOOK + 1)
    loud = np.interp(np.arange(size) / LOOK, np.arange(len(wanted)), wanted[:, INDEX["jawOpen"]])
    sound = np.random.default_rng(seed).normal(size=size) * loud**2
    return Utterance(voice, scaled(sound, 0.1), tuple(phones), wanted)
