"""Sounds in which nobody speaks, so that the mouth learns to stay shut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serve_app.nouns import SPEECH_HZ

Float32 = npt.NDArray[np.float32]
Rng = np.random.Generator


def noise(rng: Rng, size: int) -> Float32:
    """Return noise of a spectrum that falls or rises at random, steady or in gusts: hiss, fans, wind."""
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ) + 30.0
    slope = rng.uniform(-1.5, 0.5)
    colour = (hz / 500.0) ** slope
    for _ in range(int(rng.integers(0, 4))):
        middle, wide = 10 ** rng.uniform(2.2, 3.85), rng.uniform(0.1, 1.0)
        colour *= rng.uniform(0.05, 0.5) + np.exp(-((np.log(hz / middle) / wide) ** 2))
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * colour, size)
    sound *= _drift(rng, size, rng.choice([0.1, 0.3, 0.9]))
    if rng.random() < 0.3:
        flutter_hz, depth = rng.uniform(2.0, 25.0), rng.uniform(0.1, 0.6)
        sound *= 1.0 + depth * np.sin(2 * np.pi * flutter_hz * np.arange(size) / SPEECH_HZ)
    return _unit(sound)


def rush(rng: Rng, size: int) -> Float32:
    """Return bursts of noise coloured like fricatives, without a voice: sprays, cloth, paper, steam."""
    out = np.zeros(size)
    at = int(rng.uniform(0, 8000))
    while at < size:
        length = min(int(SPEECH_HZ * 10 ** rng.uniform(-1.0, 0.5)), size - at)
        burst = noise(rng, max(length, 400))[:length]
        attack, decay = (int(SPEECH_HZ * 10 ** rng.uniform(-2.3, -0.3)) for _ in range(2))
        place = np.arange(length)
        burst = burst * np.minimum(np.minimum(place / attack, (length - place) / decay), 1.0)
        out[at : at + length] += burst * rng.uniform(0.2, 1.0)
        at += length + int(SPEECH_HZ * rng.exponential(0.5))
    return _unit(out + 1e-3 * rng.standard_normal(size))


def clatter(rng: Rng, size: int) -> Float32:
    """Return things that are struck: dishes, steps, doors, tools, each a few damped tones and some noise."""
    out = 0.002 * rng.standard_normal(size)
    at = 0
    pause_s = 10 ** rng.uniform(-1.2, 0.0)
    while True:
        at += int(SPEECH_HZ * rng.exponential(pause_s) + 200)
        length = int(SPEECH_HZ * rng.uniform(0.02, 0.5))
        if at + length >= size:
            return _unit(out)
        time = np.arange(length) / SPEECH_HZ
        fade = 3.0 / time[-1]
        hit = rng.uniform(0.0, 0.6) * rng.standard_normal(length) * np.exp(-time * fade * rng.uniform(1, 9))
        for _ in range(int(rng.integers(1, 7))):
            hz = 10 ** rng.uniform(1.9, 3.8)
            swing = np.sin(2 * np.pi * hz * time + rng.uniform(0, 6.3))
            hit += rng.uniform(0.1, 1.0) * swing * np.exp(-time * fade * rng.uniform(1, 5))
        out[at : at + length] += hit * 10 ** rng.uniform(-1.0, 0.0)


def crackle(rng: Rng, size: int) -> Float32:
    """Return many small clicks, from a few to thousands a second: fire, gravel, applause, frying, foil."""
    knots = 10 ** (rng.uniform(0.7, 3.5) + rng.uniform(0.0, 0.7) * rng.standard_normal(size // 8000 + 2))
    rate = np.interp(np.arange(size) / 8000, np.arange(len(knots)), knots)
    clicks = (rng.random(size) < rate / SPEECH_HZ) * rng.standard_normal(size)
    clicks *= np.exp(rng.uniform(0.0, 1.2) * rng.standard_normal(size))
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ) + 30.0
    colour = (hz / 500.0) ** rng.uniform(-1.0, 0.5)
    for _ in range(int(rng.integers(0, 4))):
        middle, wide = 10 ** rng.uniform(2.2, 3.85), rng.uniform(0.05, 0.6)
        colour *= rng.uniform(0.05, 0.5) + np.exp(-((np.log(hz / middle) / wide) ** 2))
    sound = np.fft.irfft(np.fft.rfft(clicks) * colour, size)
    return _unit(sound + 1e-3 * (sound.std() + 1e-6) * rng.standard_normal(size))


def murmur(rng: Rng, size: int) -> Float32:
    """Return a crowd too far away for words: noise of speech's spectrum that swells at its rate."""
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ) + 30.0
    layers = []
    for _ in range(int(rng.integers(1, 5))):
        middles = rng.uniform((300, 900, 2000), (800, 2000, 3500))
        colour = sum(
            rng.uniform(0.1, 1.0) * np.exp(-(((hz - middle) / rng.uniform(80, 400)) ** 2))
            for middle in middles
        )
        sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * colour, size)
        knots = rng.uniform(0.0, 1.0, int(size / SPEECH_HZ * rng.uniform(3.0, 9.0)) + 2) ** 1.5
        layers.append(sound * np.interp(np.linspace(0, len(knots) - 1, size), np.arange(len(knots)), knots))
    return _unit(np.sum(layers, axis=0) + 0.05 * noise(rng, size) * float(np.std(layers)))


def hum(rng: Rng, size: int) -> Float32:
    """Return mains or motor hum: a steady low tone and its harmonics, with some hiss."""
    base_hz = rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(40, 220)])
    time = np.arange(size) / SPEECH_HZ
    fall = rng.uniform(0.5, 2.0)
    waves = [
        np.sin(2 * np.pi * base_hz * k * time + rng.uniform(0, 6.3)) * rng.uniform(0.2, 1.0) / k**fall
        for k in range(1, 1 + min(40, int(7000 / base_hz)))
    ]
    return _unit(np.sum(waves, axis=0) + 0.1 * rng.uniform() * noise(rng, size))


def music(rng: Rng, size: int) -> Float32:
    """Return chords, tunes, a bass and drums: plucked, struck, blown and bowed, of random timbres."""
    beat = int(SPEECH_HZ * rng.uniform(0.2, 0.6))
    key_hz = rng.uniform(90, 240)
    minor = rng.random() < 0.4
    scale = np.array([0, 2, 3, 5, 7, 8, 10] if minor else [0, 2, 4, 5, 7, 9, 11])
    scale = np.concatenate([scale, scale + 12])
    parts = [part for part, share in (("chords", 0.65), ("tune", 0.6), ("bass", 0.4)) if rng.random() < share]
    out = np.zeros(size)
    for part in parts or ["tune"]:
        instrument = _Instrument(rng)
        loud = rng.uniform(0.4, 1.0)
        start, degree = int(rng.uniform(0, beat)), int(rng.integers(0, 7))
        while start < size:
            beats = rng.choice([0.5, 1.0, 1.0, 2.0, 4.0])
            length = min(int(beat * beats * rng.uniform(0.7, 1.3)), size - start)
            if length > 400 and rng.random() < 0.9:
                degree = int(np.clip(degree + rng.integers(-3, 4), 0, 9))
                chord = [degree, degree + 2, degree + 4] if part == "chords" else [degree]
                octave = {"chords": 1.0, "tune": 2.0, "bass": 0.5}[part]
                for step in chord:
                    hz = key_hz * octave * 2 ** (scale[step] / 12)
                    out[start : start + length] += loud * instrument.play(rng, hz, length)
            start += int(beat * beats)
    if rng.random() < 0.5:
        out += rng.uniform(0.2, 1.2) * (out.std() + 1e-3) * _drums(rng, size, beat)
    return _unit(out)


class _Instrument:
    """A timbre: harmonics that fall off through a body of a few resonances, an envelope, and a vibrato."""

    def __init__(self, rng: Rng) -> None:
        self._fall = rng.uniform(0.4, 2.2)
        self._odd = rng.choice([1.0, 1.0, 0.2])
        self._body = [
            (10 ** rng.uniform(2.4, 3.6), rng.uniform(0.15, 0.6), rng.uniform(0.3, 3.0))
            for _ in range(int(rng.integers(0, 4)))
        ]
        self._attack_s = 10 ** rng.uniform(-2.7, -0.8)
        self._decay_hz = rng.choice([0.0, rng.uniform(1.0, 12.0)])
        self._damping = rng.choice([0.0, rng.uniform(0.0, 0.6)])
        self._stiffness = rng.choice([0.0, 10 ** rng.uniform(-5.0, -3.0)])
        self._chorus = rng.choice([0.0, rng.uniform(0.001, 0.008)])
        self._vibrato = rng.choice([0.0, rng.uniform(0.002, 0.03)])
        self._vibrato_hz = rng.uniform(4.0, 7.5)
        self._breath = rng.choice([0.0, rng.uniform(0.0, 0.15)])
        self._glide_s = rng.choice([0.0, rng.uniform(0.02, 0.15)])

    def play(self, rng: Rng, hz: float, length: int) -> npt.NDArray[np.float64]:
        """Return one tone of some samples."""
        time = np.arange(length) / SPEECH_HZ
        bend = 1.0 + self._vibrato * np.sin(2 * np.pi * self._vibrato_hz * time + rng.uniform(0, 6.3))
        if self._glide_s:
            bend = bend * 2 ** (rng.uniform(-0.3, 0.3) * np.exp(-time / self._glide_s))
        phase = 2 * np.pi * hz * np.cumsum(bend) / SPEECH_HZ + rng.uniform(0, 6.3)
        tone = self._breath * rng.standard_normal(length)
        for k in range(1, 1 + min(20, int(7200 / hz))):
            loud = k**-self._fall * (1.0 if k % 2 else self._odd)
            for middle, wide, gain in self._body:
                loud *= 1.0 + gain * np.exp(-((np.log(hz * k / middle) / wide) ** 2))
            wave = np.sin(k * (1.0 + self._stiffness * k * k) * phase)
            if self._chorus:
                wave = wave + np.sin(k * (1.0 + self._chorus) * phase)
            if self._decay_hz and self._damping:
                # Treble dies first in strings and bells.
                wave = wave * np.exp(-time * self._decay_hz * self._damping * k)
            tone += loud * wave
        fade = np.minimum((length - np.arange(length)) / 300, 1.0)
        return tone * np.minimum(time / self._attack_s, 1.0) * np.exp(-time * self._decay_hz) * fade


def _drums(rng: Rng, size: int, beat: int) -> npt.NDArray[np.float64]:
    """Return a bar of drums again and again: low thumps, noisy snares, hissing cymbals."""
    out = np.zeros(size)
    pattern = rng.random((3, 8)) < np.array([[0.35], [0.25], [0.6]])
    time = np.arange(4000) / SPEECH_HZ
    kick = np.sin(2 * np.pi * rng.uniform(45, 80) * time + 8 * np.exp(-time * 40)) * np.exp(-time * 14)
    snare = rng.standard_normal(4000) * np.exp(-time * 18) + np.sin(1200 * time) * np.exp(-time * 25)
    hat = np.diff(rng.standard_normal(4001)) * np.exp(-time * rng.uniform(15, 90))
    for number, start in enumerate(range(0, size - 4000, max(beat // 2, 800))):
        for drum, loud, plays in zip(
            (kick, snare, hat), (2.0, 0.8, 0.3), pattern[:, number % 8], strict=True
        ):
            if plays:
                out[start : start + 4000] += loud * rng.uniform(0.7, 1.0) * drum
    return out / (out.std() + 1e-9)


def keyboard(rng: Rng, size: int) -> Float32:
    """Return key strokes: a click down, a softer one up, each a few milliseconds of coloured noise."""
    out = 0.003 * rng.standard_normal(size)
    at = 0
    while True:
        at += int(SPEECH_HZ * rng.exponential(0.15) + 500)
        if at + 3000 >= size:
            return _unit(out)
        for shift, loud in ((0, rng.uniform(0.3, 1.0)), (int(rng.uniform(900, 2000)), rng.uniform(0.1, 0.5))):
            length = int(rng.uniform(80, 700))
            click = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 4))
            thump = np.sin(2 * np.pi * rng.uniform(100, 400) * np.arange(length) / SPEECH_HZ)
            out[at + shift : at + shift + length] += loud * (click + 0.5 * thump * click.std())


def breath(rng: Rng, size: int) -> Float32:
    """Return breaths: swells of noise coloured by an open throat, with rests between them."""
    envelope = np.zeros(size)
    at = int(rng.uniform(0, 8000))
    while at < size:
        length = int(SPEECH_HZ * rng.uniform(0.3, 1.2))
        swell = np.sin(np.linspace(0, np.pi, length)) ** rng.uniform(0.7, 2.0) * rng.uniform(0.4, 1.0)
        envelope[at : at + length] = np.maximum(envelope[at : at + length], swell[: max(0, size - at)])
        at += length + int(SPEECH_HZ * rng.uniform(0.1, 1.5))
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
    colour = 0.02 + np.zeros(len(hz))
    for middle, wide in (
        (rng.uniform(400, 900), 300),
        (rng.uniform(1100, 2000), 400),
        (rng.uniform(2400, 4000), 800),
    ):
        colour += rng.uniform(0.2, 1.0) * np.exp(-(((hz - middle) / wide) ** 2))
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * colour, size)
    return _unit(sound * envelope + 1e-3 * sound.std() * rng.standard_normal(size))


KINDS: dict[str, Callable[[Rng, int], Float32]] = {
    "noise": noise, "hum": hum, "music": music, "keyboard": keyboard, "breath": breath, "rush": rush,
    "clatter": clatter, "crackle": crackle, "murmur": murmur,
}  # fmt: skip
"""Each returns [size] at SPEECH_HZ with a root mean square of 1."""


def _drift(rng: Rng, size: int, depth: float) -> npt.NDArray[np.float64]:
    """Return a slow change of level around 1."""
    knots = rng.uniform(1.0 - depth, 1.0 + depth, size // 8000 + 2)
    return np.interp(np.arange(size) / 8000, np.arange(len(knots)), knots)


def _unit(sound: npt.NDArray[np.float64]) -> Float32:
    return (sound / (np.sqrt(np.mean(sound**2)) + 1e-9)).astype(np.float32)
