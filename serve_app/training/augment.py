"""Rows of training sound: real rooms, microphones, codecs and speakers differ from a synthesiser.

Speed and pitch change by resampling; the vocal tract's length by shifting the mel bands (see `Rows.warps`);
then a room, an equaliser, noise, a band limit, a level and a coarse quantiser, each by chance. What a row is
made of depends on its seed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.models.hearing_network import AHEAD, HOP, LOOKS_PER_STEP, samples_after, samples_before
from serve_app.nouns import SPEECH_HZ
from serve_app.training.corpus import Utterance
from serve_app.training.noises import KINDS

Float32 = npt.NDArray[np.float32]
Rng = np.random.Generator

STEPS = 200
"""Steps of a row that are learned from: 4 s."""

WARPS = (0.86, 0.9, 0.94, 0.97, 1.0, 1.03, 1.07, 1.12, 1.17)
"""Factors of the mel bands' places."""

_SIZE = samples_after(STEPS - 1) - samples_before(0)
_LEAD_LOOKS = -samples_before(0) // HOP + 2
_ROW_LOOKS = _LEAD_LOOKS + LOOKS_PER_STEP * (STEPS + AHEAD) + 4
_FLITE_SHARE = 0.62
_NOBODY_SHARE = 0.24


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch to learn from.

    Attributes:
        speech: [B, S] in [-1, 1].
        targets: [B, LOOKS_PER_STEP * STEPS, 14].
        warps: [B] indices into WARPS.
    """

    speech: Float32
    targets: Float32
    warps: npt.NDArray[np.int64]


class Augmenter:
    """Makes batches.

    Args:
        utterances: to draw from.
        seed: of the noises and of every batch.
        noise_s: seconds of each kind of noise to make in advance.
    """

    def __init__(self, utterances: Sequence[Utterance], *, seed: int, noise_s: float = 60.0) -> None:
        self._natural = [one for one in utterances if one.voice.startswith("flite")]
        self._formant = [one for one in utterances if not one.voice.startswith("flite")]
        self._seed = seed
        rng = np.random.default_rng((seed, 1))
        piece = _SIZE + SPEECH_HZ
        pieces = max(1, round(noise_s * SPEECH_HZ / piece))
        self._noises = [np.concatenate([make(rng, piece) for _ in range(pieces)]) for make in KINDS.values()]

    def batch(self, step: int, size: int) -> Rows:
        """Return the batch of a training step: the same one every time."""
        rng = np.random.default_rng((self._seed, 2, step))
        rows = [self._row(rng) for _ in range(size)]
        return Rows(
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]),
            rng.integers(0, len(WARPS), size),
        )

    def _row(self, rng: Rng) -> tuple[Float32, Float32]:
        if rng.random() < _NOBODY_SHARE:
            silent = np.zeros((LOOKS_PER_STEP * STEPS, self._natural[0].targets.shape[1]), np.float32)
            return _captured(self._nobody(rng), rng), silent
        speed = rng.uniform(0.86, 1.18)
        sound, wanted = self._speech(rng, round(_ROW_LOOKS * speed) + 3)
        sound = _between(sound, np.arange(_SIZE) * speed)
        wanted = _between(wanted, (np.arange(LOOKS_PER_STEP * STEPS) - samples_before(0) / HOP) * speed)
        lead = 0
        if rng.random() < 0.25:
            # An utterance begins after digital silence: there is nothing yet to tell the level by.
            lead = -samples_before(0) + int(rng.integers(0, 2 * HOP))
            sound[:lead] = 0.0
            wanted[: (lead + samples_before(0)) // HOP] = 0.0
        if rng.random() < 0.4:
            sound = _room(sound, rng)
        if rng.random() < 0.6:
            sound = _equalised(sound, rng)
        level = _level(sound)
        if rng.random() < 0.65:
            kind = self._noises[int(rng.integers(len(self._noises)))]
            at = int(rng.integers(len(kind) - _SIZE))
            loud = level * 10 ** (-rng.uniform(2.0, 36.0) / 20)
            sound += kind[at : at + _SIZE] * np.float32(loud)
        sound = _captured(sound / np.float32(level + 1e-9), rng)
        sound[:lead] = 0.0
        return sound, wanted

    def _nobody(self, rng: Rng) -> Float32:
        sound = np.zeros(_SIZE, np.float32)
        for _ in range(int(rng.integers(0, 3))):
            kind = self._noises[int(rng.integers(len(self._noises)))]
            at = int(rng.integers(len(kind) - _SIZE))
            sound += kind[at : at + _SIZE] * np.float32(10 ** rng.uniform(-1.2, 0.1))
        if rng.random() < 0.3:
            sound[: int(rng.integers(_SIZE))] = 0.0
        return sound

    def _speech(self, rng: Rng, num_looks: int) -> tuple[Float32, Float32]:
        """Return a random piece of utterances one after another: [num_looks * HOP] and [num_looks, 14]."""
        skip = int(rng.integers(0, 150))
        pool = self._natural if rng.random() < _FLITE_SHARE else self._formant
        sounds: list[Float32] = []
        wanted: list[Float32] = []
        missing = skip + num_looks
        while missing > 0:
            one = pool[int(rng.integers(len(pool)))]
            looks = len(one.speech) // HOP
            scale = 10 ** (rng.uniform(-3, 3) / 20) / 32_768
            sounds.append(one.speech[: looks * HOP] * np.float32(scale))
            wanted.append(one.targets[:looks])
            missing -= looks
        return np.concatenate(sounds)[skip * HOP : (skip + num_looks) * HOP], np.concatenate(wanted)[skip:]


def _between(rows: Float32, places: npt.NDArray[np.floating]) -> Float32:
    """Return what lies at fractional places of rows of samples or of targets."""
    below = np.floor(places).astype(np.int64)
    share = (places - below).astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[below] * (1.0 - share) + rows[below + 1] * share


def _level(sound: Float32) -> float:
    """Return the root mean square of the louder parts."""
    blocks = sound[: len(sound) // 400 * 400].reshape(-1, 400)
    power = np.sort((blocks**2).mean(1))
    return float(np.sqrt(power[len(power) // 2 :].mean()) + 1e-9)


def _room(sound: Float32, rng: Rng) -> Float32:
    """Add early reflections and a tail that dies away."""
    reach = int(SPEECH_HZ * rng.uniform(0.1, 0.5))
    tail = rng.standard_normal(reach) * 10 ** (-3.0 * np.arange(reach) / reach)
    tail[: int(rng.uniform(0.002, 0.012) * SPEECH_HZ)] = 0.0
    tail *= 10 ** (-rng.uniform(0.0, 16.0) / 20) / (np.sqrt((tail**2).sum()) + 1e-9)
    tail[0] = 1.0
    size = _fast_size(len(sound) + reach)
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail.astype(np.float32), size), size)
    return wet[: len(sound)].astype(np.float32)


def _equalised(sound: Float32, rng: Rng) -> Float32:
    """Tilt the spectrum, and raise or lower a few broad places of it."""
    size = _fast_size(len(sound))
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ) + 20.0
    octaves = np.log2(hz / 1000.0)
    db = rng.uniform(-4.0, 4.0) * octaves
    for _ in range(int(rng.integers(0, 4))):
        middle, wide = rng.uniform(-3.5, 3.0), rng.uniform(0.3, 1.2)
        db += rng.uniform(-10.0, 8.0) * np.exp(-(((octaves - middle) / wide) ** 2))
    db -= 25.0 * (hz < rng.uniform(20.0, 160.0))
    gain = (10 ** (db / 20)).astype(np.float32)
    return np.fft.irfft(np.fft.rfft(sound, size) * gain, size)[: len(sound)].astype(np.float32)


def _captured(sound: Float32, rng: Rng) -> Float32:
    """Return what a microphone and a codec leave of a sound of level 1."""
    if rng.random() < 0.35:
        size = _fast_size(len(sound))
        hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
        high = rng.choice([3400.0, 4000.0, 6000.0, 7000.0])
        keep = 1.0 / (1.0 + (hz / high) ** 24)
        if high == 3400.0:
            keep *= 1.0 - 1.0 / (1.0 + (hz / 250.0) ** 8)
        gain = keep.astype(np.float32)
        sound = np.fft.irfft(np.fft.rfft(sound, size) * gain, size)[: len(sound)].astype(np.float32)
    sound = sound * np.float32(10 ** (rng.uniform(-44.0, -11.0) / 20))
    floor = np.float32(10 ** (rng.uniform(-110.0, -70.0) / 20))
    sound = sound + floor * rng.standard_normal(len(sound), np.float32)
    if rng.random() < 0.12:
        # G.711's mu-law: 256 steps, evenly spaced in the logarithm.
        log = np.log1p(255.0 * np.abs(sound).clip(max=1.0)) / np.log(256.0)
        sound = np.sign(sound) * np.expm1(np.round(log * 127.0) / 127.0 * np.log(256.0)) / 255.0
    return (np.round(sound.clip(-1.0, 0.99997) * 32_768.0) / 32_768.0).astype(np.float32)


def _fast_size(size: int) -> int:
    """Return a length that the FFT is quick at."""
    return -(-size // 4096) * 4096
