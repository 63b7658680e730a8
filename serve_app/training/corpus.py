"""The speech to learn from and to be examined with: made once, kept in a folder, one file a voice."""

from __future__ import annotations

import json
import multiprocessing
import random
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from serve_app.models.blendshapes import INDEX
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.training.phones import Phone
from serve_app.training.prosody import gestures
from serve_app.training.sentences import sentence
from serve_app.training.synthesis import Espeak, Flite, Spoken, Synthesiser
from serve_app.training.targets import LOOK_S, targets

LOOK = round(LOOK_S * SPEECH_HZ)

_SLOW_SHARE = 0.2
"""Share of drawled sentences in the training: a long vowel must not be taken for a note of music."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks, and for how long.

    Attributes:
        synthesiser: "flite" or "espeak".
        name: the synthesiser's name of it.
        minutes: of speech to make.
        heard: whether the network learns from it; it is examined with the others.
    """

    synthesiser: str
    name: str
    minutes: float
    heard: bool = True

    @property
    def label(self) -> str:
        """Both names in one."""
        return f"{self.synthesiser} {self.name}"


VOICES = (
    Voice("flite", "slt", 26.0),
    Voice("flite", "awb", 26.0),
    Voice("flite", "kal16", 20.0),
    *(
        Voice("espeak", name, 4.0)
        for name in (
            "en-us", "en-us+f1", "en-us+f2", "en+m1", "en-us+m3", "en-us+klatt", "en+klatt3",
            "en-us+whisper", "en-us+Andy", "en-us+Annie", "en+linda", "en-gb-scotland+steph", "en-us+max",
            "en-us+croak", "de+f2", "de+m2", "fr+f1", "fr+m4", "es+Mario", "it+f3", "pl+m1", "pt-br+belinda",
            "sv+klatt2", "en-gb-x-rp+shelby",
        )
    ),
    Voice("flite", "rms", 8.0, heard=False),
    *(
        Voice("espeak", name, 2.0, heard=False)
        for name in ("en-us+f4", "en-gb-x-rp+m7", "en-029+klatt4", "en-us+Michael", "nl+f5", "de+Gene")
    ),
)  # fmt: skip
"""Every voice; those that are not heard in training take no part in any choice but the report."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance to learn from.

    Attributes:
        voice: the label of who speaks.
        speech: [S] int16 at SPEECH_HZ.
        phones: in order, without gaps.
        targets: [looks, 14] coefficients every LOOK_S seconds.
    """

    voice: str
    speech: Int16
    phones: tuple[Phone, ...]
    targets: npt.NDArray[np.float32]


def make(
    folder: Path, *, seed: int, voices: Sequence[Voice] = VOICES, scale: float = 1.0, jobs: int = 2
) -> None:
    """Speak everything that the folder does not hold yet.

    Args:
        folder: is made if it is not there.
        seed: of the texts, rates and pitches.
        voices: whose files to make.
        scale: of every voice's minutes.
        jobs: processes at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    due = [voice for voice in voices if not _path(folder, voice).exists()]
    # espeak-ng is one global state, and crashes on some texts: each voice has a process to itself.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_make_voice, folder, voice, seed, scale) for voice in due]
        for future in tqdm(as_completed(futures), total=len(futures), desc="voices", unit="voice"):
            future.result()


def load(folder: Path, *, heard: bool, voices: Sequence[Voice] = VOICES) -> list[Utterance]:
    """Return the utterances of the voices that are heard in training, or of those that are not.

    Raises:
        FileNotFoundError: a voice has not been made.
    """
    chosen = [voice for voice in voices if voice.heard is heard]
    missing = [voice.label for voice in chosen if not _path(folder, voice).exists()]
    if missing:
        raise FileNotFoundError(f"expected the speech of {', '.join(missing)} in {folder}: run `make` first")
    progress = tqdm(chosen, desc="loading", unit="voice")
    return [utterance for voice in progress for utterance in _load_voice(_path(folder, voice), voice.label)]


def _path(folder: Path, voice: Voice) -> Path:
    return folder / f"{voice.synthesiser}_{voice.name}.npz"


def _make_voice(folder: Path, voice: Voice, seed: int, scale: float) -> None:
    synthesiser: Synthesiser = Flite(voice.name) if voice.synthesiser == "flite" else Espeak(voice.name)
    rng = random.Random(seed ^ zlib.crc32(voice.label.encode()))
    slow_share = _SLOW_SHARE if voice.heard else 0.0
    spoken = list(_spoken(synthesiser, rng, voice.minutes * scale * 60.0, slow_share))
    phones = [[(phone.ipa, phone.start_s, phone.end_s) for phone in one.phones] for one in spoken]
    partial = _path(folder, voice).with_suffix(".part.npz")
    np.savez(
        partial,
        speech=np.concatenate([one.speech for one in spoken]),
        sizes=np.array([len(one.speech) for one in spoken]),
        gestures=np.concatenate([gestures(one.speech) for one in spoken]),
        phones=np.array(json.dumps(phones)),
    )
    partial.rename(_path(folder, voice))


def _spoken(
    synthesiser: Synthesiser, rng: random.Random, seconds: float, slow_share: float
) -> Iterator[Spoken]:
    while seconds > 0.0:
        text, slow = sentence(rng), slow_share > 0.0 and rng.random() < slow_share
        rate = rng.uniform(0.5, 0.8) if slow else rng.uniform(0.8, 1.3)
        one = synthesiser.speak(text, rate=rate, pitch=rng.uniform(0.75, 1.5))
        if len(one.speech) < SPEECH_HZ // 4 or not one.phones:
            continue
        yield one
        seconds -= len(one.speech) / SPEECH_HZ


def _load_voice(path: Path, label: str) -> Iterator[Utterance]:
    with np.load(path) as shard:
        speech, sizes, brows = shard["speech"], shard["sizes"], shard["gestures"]
        phones = json.loads(str(shard["phones"]))
    at = look = 0
    for size, rows in zip(sizes, phones, strict=True):
        num_looks = int(size) // LOOK + 1
        spoken = tuple(Phone(*row) for row in rows)
        wanted = targets(spoken, num_looks)
        wanted[:, [INDEX["browInnerUp"], INDEX["headNod"]]] = brows[look : look + num_looks]
        yield Utterance(label, speech[at : at + int(size)], spoken, wanted)
        at, look = at + int(size), look + num_looks
