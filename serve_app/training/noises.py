"""Sounds in which nobody speaks, so that the mouth learns to stay shut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serve_app.nouns import SPEECH_HZ

Float32 = npt.NDArray[np.float32]
Rng = np.random.Generator


def noise(rng: Rng, size: int) -> Float32:
    """Return steady noise whose spectrum falls or rises by a random slope: hiss, fans, wind."""
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ) + 30.0
    slope = rng.uniform(-1.3, 0.2)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * (hz / 500.0) ** slope
    if rng.random() < 0.4:
        middle, wide = rng.uniform(150, 4000), rng.uniform(0.2, 1.0)
        spectrum *= 0.1 + np.exp(-((np.log(hz / middle) / wide) ** 2))
    return _unit(np.fft.irfft(spectrum, size) * _drift(rng, size, 0.3))


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
    """Return chords, a tune, a bass and drums, with the envelopes of plucked, struck and bowed sounds."""
    out = np.zeros(size)
    beat = int(SPEECH_HZ * rng.uniform(0.2, 0.6))
    key = rng.uniform(110, 220)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    timbre, struck = rng.uniform(0.6, 2.2), rng.random() < 0.7
    for start in range(0, size, beat):
        root = rng.choice(scale[:7])
        chord = [root, root + 4, root + 7, root - 12] if rng.random() < 0.7 else [rng.choice(scale) + 12]
        last = min(size, start + beat * int(rng.integers(1, 4)))
        time = np.arange(last - start) / SPEECH_HZ
        envelope = np.minimum(time / rng.uniform(0.003, 0.08), 1.0)
        if struck:
            envelope = envelope * np.exp(-time * rng.uniform(2.0, 9.0))
        for tone in chord:
            hz = key * 2 ** (tone / 12)
            for k in range(1, 9):
                if hz * k < 7500:
                    out[start:last] += envelope * np.sin(2 * np.pi * hz * k * time) / k**timbre
        if rng.random() < 0.5:
            tail = np.arange(min(1600, size - start))
            out[start : start + len(tail)] += rng.standard_normal(len(tail)) * np.exp(-tail / 250) * 1.5
    return _unit(out)


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
    "noise": noise, "hum": hum, "music": music, "keyboard": keyboard, "breath": breath,
}  # fmt: skip
"""Each returns [size] at SPEECH_HZ with a root mean square of 1."""


def _drift(rng: Rng, size: int, depth: float) -> npt.NDArray[np.float64]:
    """Return a slow change of level around 1."""
    knots = rng.uniform(1.0 - depth, 1.0 + depth, size // 8000 + 2)
    return np.interp(np.arange(size) / 8000, np.arange(len(knots)), knots)


def _unit(sound: npt.NDArray[np.float64]) -> Float32:
    return (sound / (np.sqrt(np.mean(sound**2)) + 1e-9)).astype(np.float32)
