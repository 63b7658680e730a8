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

from serve_app.models.blendshapes import INDEX
from serve_app.models.hearing_network import AHEAD, HOP, LOOKS_PER_STEP, samples_after, samples_before
from serve_app.nouns import SPEECH_HZ
from serve_app.training.corpus import Utterance
from serve_app.training.hold import held
from serve_app.training.noises import KINDS

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]
Rng = np.random.Generator

STEPS = 200
"""Steps of a row that are learned from: 4 s."""

WARPS = (0.86, 0.9, 0.94, 0.97, 1.0, 1.03, 1.07, 1.12, 1.17)
"""Factors of the mel bands' places."""

_SIZE = samples_after(STEPS - 1) - samples_before(0)
_LEAD_LOOKS = -samples_before(0) // HOP + 2
_ROW_LOOKS = _LEAD_LOOKS + LOOKS_PER_STEP * (STEPS + AHEAD) + 4
_FLITE_SHARE = 0.62
_NOBODY_SHARE = 0.3
_LEAD_SHARE = 0.22
_CUT_SHARE = 0.22
"""Shares of rows that begin in silence, and that fall silent and set in again anywhere."""

_HELD_SHARE = 0.09
"""Share of utterances with a vowel that is held, which else is taken for a note of music."""

_OFTEN = {"music": 3.0, "breath": 2.0, "rush": 1.5}
"""How much more often than the others the kinds of noise come that are easily taken for speech."""


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
        noise_s: seconds of each kind of noise to make in advance; those that come often have more.
    """

    def __init__(self, utterances: Sequence[Utterance], *, seed: int, noise_s: float = 1200.0) -> None:
        self._natural = [one for one in utterances if one.voice.startswith("flite")]
        self._formant = [one for one in utterances if not one.voice.startswith("flite")]
        self._seed = seed
        rng = np.random.default_rng((seed, 1))
        piece = 2 * _SIZE
        pieces = [max(1, round(noise_s * _OFTEN.get(kind, 1.0) * SPEECH_HZ / piece)) for kind in KINDS]
        # Half precision is 66 dB finer than the sound, and hours of it have to fit.
        self._noises = [
            np.concatenate([make(rng, piece).astype(np.float16) for _ in range(count)])
            for make, count in zip(KINDS.values(), pieces, strict=True)
        ]
        often = np.array([_OFTEN.get(kind, 1.0) for kind in KINDS])
        self._often = often / often.sum()

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
        heard = np.ones(_SIZE, np.float32)
        kind = rng.random()
        if kind < _LEAD_SHARE:
            # An utterance begins after digital silence: there is nothing yet to tell the level by.
            heard[: -samples_before(0) + int(rng.integers(0, 2 * HOP))] = 0.0
        elif kind < _LEAD_SHARE + _CUT_SHARE:
            _cut(heard, wanted, rng)
        sound *= heard
        wanted *= _share_heard(heard)[:, None]
        is_digital = kind < _LEAD_SHARE or rng.random() < 0.5
        if rng.random() < 0.5:
            sound = _room(sound, rng)
        if rng.random() < 0.6:
            sound = _equalised(sound, rng)
        level = _level(sound)
        if rng.random() < 0.65:
            loud = level * 10 ** (-rng.uniform(2.0, 36.0) / 20)
            sound += self._noise(rng) * np.float32(loud)
        sound = _captured(sound / np.float32(level + 1e-9), rng)
        return (sound * heard if is_digital else sound), wanted

    def _nobody(self, rng: Rng) -> Float32:
        sound = np.zeros(_SIZE, np.float32)
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.1, 0.6, 0.2, 0.1]))):
            sound += self._noise(rng) * np.float32(10 ** rng.uniform(-1.2, 0.1))
        if rng.random() < 0.3:
            sound = _room(sound, rng)
        if rng.random() < 0.5:
            sound = _equalised(sound, rng)
        if rng.random() < 0.3:
            sound[: int(rng.integers(_SIZE))] = 0.0
        return sound

    def _noise(self, rng: Rng) -> Float32:
        """Return [_SIZE] of a sound without speech, faster or slower than it was made."""
        kind = self._noises[int(rng.choice(len(self._noises), p=self._often))]
        speed = rng.uniform(0.7, 1.35)
        at = int(rng.integers(len(kind) - int(_SIZE * speed) - 1))
        return _between(kind, at + np.arange(_SIZE) * speed)

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
            sound, shapes = one.speech[: looks * HOP] * np.float32(scale), one.targets[:looks]
            if rng.random() < _HELD_SHARE:
                sound, shapes = held(sound, shapes, HOP, rng)
            sounds.append(sound)
            wanted.append(shapes)
            missing -= len(shapes)
            if rng.random() < 0.15:
                # People rest between sentences for longer than synthesisers do.
                rest = int(rng.integers(30, 200))
                sounds.append(np.zeros(rest * HOP, np.float32))
                wanted.append(np.zeros((rest, one.targets.shape[1]), np.float32))
                missing -= rest
        return np.concatenate(sounds)[skip * HOP : (skip + num_looks) * HOP], np.concatenate(wanted)[skip:]


def _between(rows: Float32 | Float16, places: npt.NDArray[np.floating]) -> Float32:
    """Return what lies at fractional places of rows of samples or of targets."""
    below = np.floor(places).astype(np.int64)
    share = (places - below).astype(np.float32).reshape(-1, *[1] * (rows.ndim - 1))
    return rows[below] * (1.0 - share) + rows[below + 1] * share


def _cut(heard: Float32, wanted: Float32, rng: Rng) -> None:
    """Set samples of `heard` to 0 that a gate or a pressed button leaves out.

    Most silences end within a vowel: a synthesiser leads into every vowel that a sentence begins with.
    """
    vowels = np.flatnonzero(wanted[:, INDEX["jawOpen"]] > 0.2)
    for _ in range(int(rng.integers(1, 4))):
        end = (
            int(rng.choice(vowels)) if len(vowels) and rng.random() < 0.7 else int(rng.integers(len(wanted)))
        )
        start = end - int(rng.integers(10, 120))
        heard[max(start * HOP - samples_before(0), 0) : end * HOP - samples_before(0)] = 0.0


def _share_heard(heard: Float32) -> Float32:
    """Return the share of 50 ms around every look of the targets that is heard, [looks]."""
    sums = np.concatenate([[0.0], np.cumsum(heard, dtype=np.float64)])
    first = -samples_before(0) + HOP * np.arange(LOOKS_PER_STEP * STEPS) - 400
    return ((sums[first + 800] - sums[first]) / 800).astype(np.float32)


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
    if rng.random() < 0.4:
        size = _fast_size(len(sound))
        hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
        high = rng.choice([3400.0, 4000.0, 6000.0, 7000.0], p=[0.45, 0.2, 0.15, 0.2])
        keep = 1.0 / (1.0 + (hz / high) ** 24)
        if high == 3400.0:
            keep *= 1.0 - 1.0 / (1.0 + (hz / rng.uniform(200.0, 320.0)) ** 8)
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
