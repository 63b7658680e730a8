"""Speech made by a source and a filter, and windows cut from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from serve_app.media.windower import Windower, WindowGrid
from serve_app.models.base import ModelSpec
from serve_app.nouns import SPEECH_HZ, Int16, Window

FORMANTS = {
    "ah": ((730, -1), (1090, -5), (2440, -28)),
    "ee": ((280, -4), (2350, -24), (3000, -28)),
    "oo": ((310, -3), (1600, -19), (2300, -33)),
    "mm": ((250, 0), (1000, -24), (2200, -34)),
}
"""Places in Hz and levels in dB of three resonances, after Peterson and Barney (1952)."""


def voiced(
    sound: str, seconds: float, rms: float = 0.1, pitch_hz: float = 120.0, drift: float = 0.0
) -> Int16:
    """Return a vowel or nasal: pulses through parallel resonances.

    `drift` is the share by which its pitch falls; it wobbles by a seventh of that. A voice has 0.04.
    """
    size = round(seconds * SPEECH_HZ)
    hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
    pulses = np.zeros(size)
    periods = SPEECH_HZ / (pitch_hz * np.linspace(1.0, 1.0 - drift, round(seconds * pitch_hz) + 1))
    wobble = np.random.default_rng(3).normal(1.0, drift / 7, len(periods))
    places = np.concatenate([[0], np.cumsum(np.round(periods * wobble))]).astype(np.int64)
    pulses[places[places < size]] = 1.0
    resonances = [10 ** (db / 20) * np.exp(-(((hz - at_hz) / 110.0) ** 2)) for at_hz, db in FORMANTS[sound]]
    spectrum = np.fft.rfft(pulses) * np.sum(resonances, axis=0)
    return scaled(np.fft.irfft(spectrum, size), rms)


def hiss(seconds: float, rms: float = 0.05) -> Int16:
    """Return an "s": noise above 4 kHz."""
    size = round(seconds * SPEECH_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=size))
    return scaled(np.fft.irfft(spectrum * (np.fft.rfftfreq(size, 1 / SPEECH_HZ) > 4000), size), rms)


def noise(seconds: float, rms: float) -> Int16:
    """Return white noise."""
    return scaled(np.random.default_rng(2).normal(size=round(seconds * SPEECH_HZ)), rms)


def silence(seconds: float) -> Int16:
    """Return nothing to hear."""
    return np.zeros(round(seconds * SPEECH_HZ), np.int16)


def scaled(samples: npt.NDArray[np.float64], rms: float) -> Int16:
    """Return samples of an RMS given as a share of full scale."""
    level = samples / np.sqrt(np.mean(samples**2)) * rms * 32_768
    return np.clip(np.round(level), -32_768, 32_767).astype(np.int16)


def sentence() -> Int16:
    """Return 1.7 s with vowels, a nasal, a sibilant and a pause."""
    parts = [silence(0.1), voiced("mm", 0.15, 0.03), voiced("ah", 0.3), hiss(0.15), voiced("ee", 0.3)]
    return np.concatenate([*parts, silence(0.3), voiced("oo", 0.25), silence(0.15)])


def windows(
    spec: ModelSpec, speech: Int16, sizes: Sequence[int], *, avatar_id: str = "default", base_frame: int = 0
) -> Iterator[Window]:
    """Cut a whole utterance; the last of `sizes` repeats."""
    windower = Windower(WindowGrid(spec.fps, spec.left_context, spec.lookahead))
    windower.push(speech)
    windower.end()
    for size in itertools.chain(sizes, itertools.repeat(sizes[-1])):
        if windower.is_done:
            return
        cut = windower.cut(min(size, windower.available_frames()))
        yield Window(
            "s", 0, 0, avatar_id, cut.first_frame, cut.num_frames, base_frame + cut.first_frame, cut.speech,
            spec.left_context, cut.is_last,
        )  # fmt: skip
