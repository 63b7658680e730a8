"""Examines the hearing with voices it was never trained on, and with sounds in which nobody speaks.

Everything is measured on the frames of a video at FPS, from the weights as the server loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from serve_app.models.blendshapes import INDEX, opening
from serve_app.models.hearing import LEFT_CONTEXT, Hearing, lookahead
from serve_app.nouns import SPEECH_HZ, Int16, Window, speech_index
from serve_app.training.corpus import LOOK, Utterance
from serve_app.training.noises import KINDS
from serve_app.training.phones import CLASSES, LIP_TO_TEETH, SEALED
from serve_app.training.scenes import SCENES

FPS = 30

SHUT = 0.05
"""Opening below which lips are shut: a twentieth of the way to a wide "aa", which moves the lips of a
512 pixels high face about 50 pixels apart. What is left is as thin as the line between closed lips."""

CONTACT = 0.35
"""mouthRollLower from which the lower lip is at the teeth: about half of what an unhurried "f" has."""

CONTACT_OPENING = 0.25
"""Opening up to which the lip can reach the teeth."""

Float32 = npt.NDArray[np.float32]
Hear = Callable[[Int16], Float32]


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of some utterances.

    Attributes:
        name: whose, or of what.
        seconds: of speech.
        correlation: of the lips' opening with what the phones say, over all frames.
        loudness: the same of the sound's level in decibels: what one gets without listening.
        rounding: the same as `correlation` of mouthPucker and mouthFunnel together.
        spreading: of mouthStretch.
        shut: share of m, b, p in which the lips are shut in at least one frame.
        shut_wanted: the same of what the phones say: what video at FPS can show at all.
        contact: share of f, v in which the lower lip is at the teeth.
        contact_wanted: the same of what the phones say.
        shut_vowels: share of vowels in the middle of which the lips are shut, which is wrong.
    """

    name: str
    seconds: float
    correlation: float
    loudness: float
    rounding: float
    spreading: float
    shut: float
    shut_wanted: float
    contact: float
    contact_wanted: float
    shut_vowels: float


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What is measured of a class of phones: openings at the middles of its phones."""

    name: str
    count: int
    wanted: float
    heard: float
    error: float


@dataclass(frozen=True, slots=True)
class Stillness:
    """How still the lips are while nobody speaks: their opening's mean, 99th percentile and change.

    `taught` says whether the training has sounds of this kind, though never these.
    """

    name: str
    taught: bool
    level_db: float
    mean: float
    highest: float
    motion: float


@dataclass(frozen=True, slots=True)
class Examined:
    """An utterance with what was heard in it and what its phones say, both [F, 14]."""

    utterance: Utterance
    heard: Float32
    wanted: Float32


def listener(hearing: Hearing, fps: int = FPS) -> Hear:
    """Return the function from a whole utterance to its [F, 14] coefficients."""

    def hear(speech: Int16) -> Float32:
        num_frames = len(speech) * fps // SPEECH_HZ
        size = LEFT_CONTEXT + speech_index(num_frames, fps) + lookahead(fps)
        padded = np.zeros(size, np.int16)
        part = speech[: size - LEFT_CONTEXT]
        padded[LEFT_CONTEXT : LEFT_CONTEXT + len(part)] = part
        window = Window("", 0, 0, "", 0, num_frames, 0, padded, LEFT_CONTEXT, is_last=True)
        return hearing.listen([window]).numpy()

    return hear


def examine(
    hear: Hear, utterances: Sequence[Utterance], speech: Callable[[Int16], Int16] | None = None
) -> list[Examined]:
    """Hear all utterances.

    Args:
        hear: what to examine.
        utterances: to hear.
        speech: what becomes of the sound on its way, such as a room; None is nothing.
    """
    out = []
    for one in tqdm(utterances, desc="hearing", unit="utterance", leave=False):
        heard = hear(one.speech if speech is None else speech(one.speech))
        middles = (np.arange(len(heard)) + 0.5) * SPEECH_HZ / FPS / LOOK
        below = np.minimum(middles.astype(np.int64), len(one.targets) - 2)
        share = (middles - below)[:, None].astype(np.float32)
        wanted = one.targets[below] * (1.0 - share) + one.targets[below + 1] * share
        out.append(Examined(one, heard, wanted))
    return out


def figures(name: str, examined: Sequence[Examined]) -> Figures:
    """Return the figures of some utterances together."""
    heard, wanted = (np.concatenate([getattr(one, side) for one in examined]) for side in ("heard", "wanted"))
    level = np.concatenate([_loudness(one.utterance.speech, len(one.heard)) for one in examined])
    rounded = [INDEX["mouthPucker"], INDEX["mouthFunnel"]]
    spread = INDEX["mouthStretch"]
    return Figures(
        name,
        sum(len(one.utterance.speech) for one in examined) / SPEECH_HZ,
        _correlation(_opening(heard), _opening(wanted)),
        _correlation(level, _opening(wanted)),
        _correlation(heard[:, rounded].sum(1), wanted[:, rounded].sum(1)),
        _correlation(heard[:, spread], wanted[:, spread]),
        _share(_is_shut(one.heard[frames]) for one, frames in _phones(examined, SEALED)),
        _share(_is_shut(one.wanted[frames]) for one, frames in _phones(examined, SEALED)),
        _share(_is_contact(one.heard[frames]) for one, frames in _phones(examined, LIP_TO_TEETH)),
        _share(_is_contact(one.wanted[frames]) for one, frames in _phones(examined, LIP_TO_TEETH)),
        _share(_is_shut(one.heard[frames]) for one, frames in _phones(examined, _VOWELS, middle=True)),
    )


def by_class(examined: Sequence[Examined]) -> list[ClassFigures]:
    """Return the figures of each class of phones, at the middle of each phone."""
    out = []
    for name, phones in CLASSES.items():
        middles = [(one, frames) for one, frames in _phones(examined, phones, middle=True)]
        if not middles:
            continue
        heard, wanted = (
            np.concatenate([_opening(getattr(one, side)[frames]) for one, frames in middles])
            for side in ("heard", "wanted")
        )
        error = float(np.sqrt(np.mean((heard - wanted) ** 2)))
        out.append(ClassFigures(name, len(middles), float(wanted.mean()), float(heard.mean()), error))
    return out


def stillness(hear: Hear, *, seed: int, seconds: float = 60.0) -> list[Stillness]:
    """Return how still the face is in silence, and in noises and scenes at two levels.

    Args:
        hear: what to examine.
        seed: of the sounds, which are other ones than the training's for any seed.
        seconds: of each sound; five pieces of it follow each other at once.
    """
    size = round(seconds * SPEECH_HZ)
    sounds = [("silence", True, -120.0, np.zeros(size, np.int16))]
    for number, (name, make) in enumerate({**KINDS, **SCENES}.items()):
        rng = np.random.default_rng((seed, 99, number))
        sound = np.concatenate([make(rng, size // 5) for _ in range(5)])
        for level_db in (-40.0, -24.0):
            scaled = np.round(sound * 10 ** (level_db / 20) * 32_768).clip(-32_768, 32_767)
            sounds.append((name, name in KINDS, level_db, scaled.astype(np.int16)))
    out = []
    for name, taught, level_db, samples in sounds:
        apart = _opening(hear(samples))
        motion = float(np.abs(np.diff(apart)).mean())
        highest = float(np.percentile(apart, 99))
        out.append(Stillness(name, taught, level_db, float(apart.mean()), highest, motion))
    return out


def in_a_room(seed: int) -> Callable[[Int16], Int16]:
    """Return what a room, a fan and a telephone make of speech: an echo, noise at 20 dB, 300 to 3400 Hz."""
    rng = np.random.default_rng((seed, 98))

    def change(speech: Int16) -> Int16:
        tail = rng.standard_normal(4000) * 10 ** (-3.0 * np.arange(4000) / 4000)
        tail *= 0.35 / np.sqrt((tail**2).sum())
        tail[0] = 1.0
        size = len(speech) + 4000
        hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
        spectrum = np.fft.rfft(speech.astype(np.float64), size) * np.fft.rfft(tail, size)
        sound = np.fft.irfft(spectrum, size)[: len(speech)]
        sound += rng.standard_normal(len(sound)) * np.sqrt(np.mean(sound**2)) * 0.1
        band = 1.0 / (1.0 + (hz / 3400.0) ** 16) * (1.0 - 1.0 / (1.0 + (hz / 300.0) ** 8))
        sound = np.fft.irfft(np.fft.rfft(sound, size) * band, size)[: len(speech)]
        return np.round(sound.clip(-32_768, 32_767)).astype(np.int16)

    return change


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one examination."""

    voices: list[Figures]
    unseen: Figures
    room: Figures
    heard_before: Figures
    classes: list[ClassFigures]
    stillness: list[Stillness]

    def as_dict(self) -> dict[str, object]:
        """Return the figures for JSON."""
        return asdict(self)


def report(
    hearing: Hearing,
    unseen: Sequence[Utterance],
    seen: Sequence[Utterance],
    *,
    seed: int,
    quiet_s: float = 60.0,
) -> Report:
    """Examine with voices that were never heard in training, and a few that were.

    Args:
        hearing: at FPS.
        unseen: utterances of voices never trained on.
        seen: utterances of voices trained on; every fortieth is taken.
        seed: of what is drawn by chance.
        quiet_s: seconds of each sound without speech.
    """
    hear = listener(hearing)
    examined = examine(hear, unseen)
    labels = list(dict.fromkeys(one.voice for one in unseen))
    voices = [figures(label, [one for one in examined if one.utterance.voice == label]) for label in labels]
    return Report(
        voices,
        _mean_of("mean of unseen voices", voices),
        figures("unseen, room and telephone", examine(hear, unseen[::3], in_a_room(seed))),
        figures("voices of the training", examine(hear, seen[::40])),
        by_class(examined),
        stillness(hear, seed=seed, seconds=quiet_s),
    )


_VOWELS = CLASSES["open vowels"] | CLASSES["mid vowels"] | CLASSES["close vowels"]


def _mean_of(name: str, voices: Sequence[Figures]) -> Figures:
    rows = [asdict(one) for one in voices]
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "name"}
    return Figures(name, **{**means, "seconds": sum(one.seconds for one in voices)})


def _phones(
    examined: Iterable[Examined], wanted: frozenset[str], *, middle: bool = False
) -> Iterable[tuple[Examined, slice]]:
    """Yield the frames in which a viewer sees each phone of a set: those whose middle is in it, or nearly."""
    for one in examined:
        for phone in one.utterance.phones:
            if phone.ipa not in wanted:
                continue
            if middle:
                first = last = int((phone.start_s + phone.end_s) / 2 * FPS)
            else:
                # A frame stands for half a frame on each side of its middle.
                first, last = int(phone.start_s * FPS), int(phone.end_s * FPS)
            if last < len(one.heard):
                yield one, slice(first, last + 1)


def _opening(coefficients: Float32) -> Float32:
    return opening(torch.from_numpy(coefficients)).numpy()


def _is_shut(coefficients: Float32) -> bool:
    return bool(_opening(coefficients).min() < SHUT)


def _is_contact(coefficients: Float32) -> bool:
    touches = coefficients[:, INDEX["mouthRollLower"]] >= CONTACT
    return bool((touches & (_opening(coefficients) <= CONTACT_OPENING)).any())


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return float(np.mean(found)) if found else float("nan")


def _loudness(speech: Int16, num_frames: int) -> Float32:
    """Return [F] decibels of the 40 ms around each frame's middle."""
    padded = np.pad(speech.astype(np.float32), 640)
    middles = ((np.arange(num_frames) + 0.5) * SPEECH_HZ / FPS).astype(np.int64) + 640
    power = [float(np.mean(padded[at - 320 : at + 320] ** 2)) for at in middles]
    return (10.0 * np.log10(np.array(power) + 30.0)).astype(np.float32)


def _correlation(one: Float32, other: Float32) -> float:
    # What does not move follows nothing.
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) > 0.0 and np.ptp(other) > 0.0 else 0.0
