"""Sounds of the examination in which nobody speaks, none of them made as those of the training are.

Each models how its sound comes about rather than how it looks in a spectrum, so that a network that only
knows the habits of `noises` is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from serve_app.nouns import SPEECH_HZ

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rng = np.random.Generator


def fan(rng: Rng, size: int) -> Float32:
    """Return a fan: a rumble, tones of its blades that wander a little, and air through a grille."""
    time = np.arange(size) / SPEECH_HZ
    wander = np.cumsum(rng.standard_normal(size)) / SPEECH_HZ
    blades_hz = rng.uniform(60, 300)
    phase = 2 * np.pi * (blades_hz * time + 0.4 * wander)
    tones = np.zeros(size)
    for k in range(1, 7):
        tones += np.sin(k * phase + rng.uniform(0, 6.3)) * rng.uniform(0.2, 1.0) / k
    air = _filtered(rng.standard_normal(size), _slope(-rng.uniform(0.4, 1.1)))
    return _unit(_scaled(air) + rng.uniform(0.05, 0.4) * _scaled(tones))


def rain(rng: Rng, size: int) -> Float32:
    """Return rain: thousands of drops, each a bubble that rings for a few milliseconds (Minnaert)."""
    out = 0.02 * rng.standard_normal(size)
    drops = int(size / SPEECH_HZ * rng.uniform(100, 600))
    time = np.arange(240) / SPEECH_HZ
    for at in rng.integers(0, size - 240, drops):
        hz = 10 ** rng.uniform(2.9, 3.85)
        ring = np.sin(2 * np.pi * hz * time) * np.exp(-time * rng.uniform(300, 1500))
        out[at : at + 240] += 10 ** rng.uniform(-1.5, 0.0) * ring
    return _unit(out)


def traffic(rng: Rng, size: int) -> Float32:
    """Return cars that pass by: tyres' noise that swells and falls, and engines whose pitch sinks."""
    out = 0.1 * _scaled(_filtered(rng.standard_normal(size), _slope(-1.0)))
    time = np.arange(size) / SPEECH_HZ
    for _ in range(max(1, round(size / SPEECH_HZ / 4))):
        passes_s, near_s = rng.uniform(0, time[-1]), rng.uniform(0.4, 2.0)
        loud = 1.0 / (1.0 + ((time - passes_s) / near_s) ** 2)
        tyres = _filtered(rng.standard_normal(size), _resonances([(rng.uniform(600, 1200), 500.0)], 0.05))
        engine_hz = rng.uniform(40, 120) * (1.0 - 0.06 * np.tanh((time - passes_s) / near_s))
        phase = 2 * np.pi * np.cumsum(engine_hz) / SPEECH_HZ
        engine = np.sum([np.sin(k * phase) / k**0.7 for k in range(1, 15)], axis=0)
        out += loud * (_scaled(tyres) + rng.uniform(0.0, 0.5) * _scaled(engine))
    return _unit(out)


def hiss(rng: Rng, size: int) -> Float32:
    """Return steam or air from a valve: steady, and coloured as an "s", "sh" or "f" is."""
    middle_hz, wide_hz = [(5800.0, 1500.0), (3200.0, 1200.0), (4500.0, 4000.0)][int(rng.integers(3))]
    shape = _resonances([(middle_hz * rng.uniform(0.85, 1.15), wide_hz)], 0.02)
    return _unit(_filtered(rng.standard_normal(size), shape))


def guitar(rng: Rng, size: int) -> Float32:
    """Return plucked strings (Karplus and Strong, 1983): broken chords and strums, in a wooden body."""
    out = np.zeros(size)
    beat = int(SPEECH_HZ * rng.uniform(0.15, 0.35))
    chords = [(0, 4, 7, 12, 16), (9, 12, 16, 21, 24), (5, 9, 12, 17, 21), (7, 11, 14, 19, 23)]
    for number, start in enumerate(range(0, size - 1, beat)):
        chord = chords[number // 8 % 4]
        strummed = rng.random() < 0.25
        for string, tone in enumerate(chord if strummed else [chord[number % 5]]):
            at = start + string * 200
            length = min(int(SPEECH_HZ * 1.5), size - at)
            if length > 400:
                out[at : at + length] += _plucked(rng, 98.0 * 2 ** (tone / 12), length)
    body = _resonances([(110.0, 40.0), (220.0, 60.0), (430.0, 120.0), (2500.0, 1500.0)], 0.25)
    return _unit(_reverberated(rng, _filtered(out, body)))


def band(rng: Rng, size: int) -> Float32:
    """Return an electric piano (frequency modulation: Chowning, 1973), a bass and drums, driven and mixed."""
    out = np.zeros(size)
    beat = int(SPEECH_HZ * 60 / rng.uniform(80, 150))
    root_hz = rng.uniform(110, 200)
    for number, start in enumerate(range(0, size - 1, beat // 2)):
        length = min(beat, size - start)
        time = np.arange(length) / SPEECH_HZ
        fade = np.minimum((length - np.arange(length)) / 200, 1.0)
        shift = (0, -4, 5, 7)[number // 16 % 4]
        if number % 2 == 0 or rng.random() < 0.3:
            for tone in (0, 3, 7, 10):
                hz = root_hz * 2 ** ((tone + shift) / 12)
                index = 2.0 * np.exp(-time * 6)
                ring = np.sin(2 * np.pi * hz * time + index * np.sin(2 * np.pi * hz * 2 * time))
                out[start : start + length] += 0.3 * ring * np.exp(-time * 3) * fade
        bass_hz = root_hz / 2 * 2 ** (shift / 12)
        out[start : start + length] += 0.7 * np.tanh(3 * np.sin(2 * np.pi * bass_hz * time)) * fade
        hit = (
            rng.standard_normal(length)
            * np.exp(-time * (60, 20)[number % 4 == 2])
            * (0.3, 0.8)[number % 4 == 2]
        )
        thump = np.sin(2 * np.pi * 55 * time + 6 * np.exp(-time * 50)) * np.exp(-time * 12)
        out[start : start + length] += hit + (1.5 * thump if number % 4 == 0 else 0.0)
    return _unit(_reverberated(rng, np.tanh(out)))


def fiddle(rng: Rng, size: int) -> Float32:
    """Return a bowed or blown tune with vibrato and slides, the sound of music that is nearest to a voice."""
    steps = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    lengths: list[int] = []
    tones: list[float] = []
    degree = 4
    while sum(lengths) < size:
        lengths.append(int(SPEECH_HZ * rng.choice([0.2, 0.4, 0.4, 0.8, 1.6])))
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 9))
        tones.append(float(steps[degree]))
    held = np.repeat(tones, lengths)[:size]
    slid = np.convolve(np.pad(held, 400, mode="edge"), np.ones(801) / 801, "valid")
    time = np.arange(size) / SPEECH_HZ
    vibrato = rng.uniform(0.1, 0.35) * np.sin(2 * np.pi * rng.uniform(5.0, 6.5) * time)
    phase = np.cumsum(rng.uniform(196, 300) * 2 ** ((slid + vibrato) / 12)) / SPEECH_HZ
    tone = 2.0 * (phase % 1.0) - 1.0 if rng.random() < 0.6 else np.sin(2 * np.pi * phase) ** 3
    starts = np.concatenate([[0], np.cumsum(lengths)])
    since = np.arange(size) - np.repeat(starts[:-1], lengths)[:size]
    swell = np.minimum(since / (SPEECH_HZ * 0.06), 1.0) * (1.0 - 0.3 * np.exp(-since / SPEECH_HZ))
    body = _resonances([(290.0, 60.0), (470.0, 90.0), (1100.0, 400.0), (2600.0, 900.0)], 0.15)
    sound = _filtered(tone * swell + 0.02 * rng.standard_normal(size), body)
    return _unit(_reverberated(rng, sound))


def breathing(rng: Rng, size: int) -> Float32:
    """Return calm or hurried breathing: bright in through the mouth, dark out, and a moment of rest."""
    out = np.zeros(size)
    at = 0
    cycle_s = rng.uniform(1.2, 4.0)
    inward = _resonances([(rng.uniform(1400, 2000), 500.0), (rng.uniform(3000, 4500), 1200.0)], 0.03)
    outward = _resonances([(rng.uniform(450, 800), 250.0), (rng.uniform(1300, 1800), 500.0)], 0.03)
    while at < size:
        for shape, share, loud in ((inward, 0.35, 1.0), (outward, 0.45, rng.uniform(0.3, 1.0))):
            length = min(int(SPEECH_HZ * cycle_s * share * rng.uniform(0.8, 1.2)), size - at)
            if length < 800:
                at = size
                break
            flow = np.sin(np.pi * np.arange(length) / length) ** 0.8
            flow *= 1.0 + 0.15 * np.interp(np.arange(length), np.arange(0, length + 800, 800),
                                           rng.standard_normal(len(range(0, length + 800, 800))))  # fmt: skip
            # Turbulence grows with the square of the flow (Stevens, "Acoustic Phonetics").
            puff = _filtered(rng.standard_normal(length), shape) * flow**2
            out[at : at + length] += loud * _scaled(puff)
            at += length
        at += int(SPEECH_HZ * cycle_s * 0.2)
    return _unit(out + 2e-3 * rng.standard_normal(size))


def typing(rng: Rng, size: int) -> Float32:
    """Return words typed: each key is a pair of clicks that the case and the desk ring with."""
    drive = np.zeros(size)
    at = int(rng.uniform(0, 4000))
    while at < size - 4000:
        for _ in range(int(rng.integers(2, 9))):
            down, up = at, at + int(SPEECH_HZ * rng.uniform(0.05, 0.1))
            if up < size:
                drive[down : down + 20] += rng.standard_normal(len(drive[down : down + 20]))
                drive[up : up + 12] += 0.4 * rng.standard_normal(len(drive[up : up + 12]))
            at += int(SPEECH_HZ * rng.uniform(0.08, 0.22))
        at += int(SPEECH_HZ * rng.exponential(0.3))
    case = _resonances([(180.0, 60.0), (900.0, 120.0), (2300.0, 300.0), (4100.0, 500.0)], 0.1)
    return _unit(_filtered(drive, case) + 2e-4 * rng.standard_normal(size))


SCENES: dict[str, Callable[[Rng, int], Float32]] = {
    "fan": fan, "rain": rain, "traffic": traffic, "hiss": hiss, "guitar": guitar, "band": band,
    "fiddle": fiddle, "breathing": breathing, "typing": typing,
}  # fmt: skip
"""Each returns [size] at SPEECH_HZ with a root mean square of 1."""


Shape = Callable[[Float64], Float64]


def _slope(power: float) -> Shape:
    """Return the gain that changes with a power of the frequency."""
    return lambda hz: ((hz + 40.0) / 500.0) ** power


def _resonances(peaks: Sequence[tuple[float, float]], floor: float) -> Shape:
    """Return the gain of resonators, each a middle and a bandwidth in Hz, above a floor."""
    return lambda hz: (
        floor
        + np.sum([1.0 / np.sqrt(1.0 + ((hz - middle) / (wide / 2)) ** 2) for middle, wide in peaks], axis=0)
    )


def _filtered(sound: Float64, shape: Shape) -> Float64:
    hz = np.fft.rfftfreq(len(sound), 1 / SPEECH_HZ).astype(np.float64)
    return np.fft.irfft(np.fft.rfft(sound) * shape(hz), len(sound))


def _plucked(rng: Rng, hz: float, length: int) -> Float64:
    """Return a string that starts as noise and loses its treble first, one period after another."""
    period = rng.standard_normal(max(2, round(SPEECH_HZ / hz)))
    periods = []
    for _ in range(-(-length // len(period))):
        periods.append(period)
        period = 0.498 * (period + np.roll(period, 1))
    fade = np.minimum((length - np.arange(length)) / 200, 1.0)
    return np.concatenate(periods)[:length] * fade


def _reverberated(rng: Rng, sound: Float64) -> Float64:
    """Return a sound with the echoes of a hall or a studio."""
    reach = int(SPEECH_HZ * rng.uniform(0.3, 1.2))
    tail = rng.standard_normal(reach) * 10 ** (-3.0 * np.arange(reach) / reach)
    tail *= rng.uniform(0.1, 0.5) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    total = len(sound) + reach
    return np.fft.irfft(np.fft.rfft(sound, total) * np.fft.rfft(tail, total), total)[: len(sound)]


def _scaled(sound: Float64) -> Float64:
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def _unit(sound: Float64) -> Float32:
    return _scaled(sound).astype(np.float32)
