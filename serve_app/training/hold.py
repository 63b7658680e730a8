"""Vowels held longer than synthesisers hold them, as people do in "so…", in "um" and in song."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.models.blendshapes import INDEX
from serve_app.nouns import SPEECH_HZ

Float32 = npt.NDArray[np.float32]
Rng = np.random.Generator

LEAST_S, MOST_S = 0.3, 2.0

_SHORTEST, _LONGEST = SPEECH_HZ // 400, SPEECH_HZ // 60
"""Periods of voices, samples."""

_VOICED = 0.6
"""Correlation of a piece with itself a period later from which on it counts as voiced."""

_SETTLED = 0.25
"""How much the coefficients may change in all around the moment that is held."""

_OPEN = 0.06
_TRIES = 8


def held(speech: Float32, targets: Float32, hop: int, rng: Rng) -> tuple[Float32, Float32]:
    """Return an utterance one of whose vowels is held for LEAST_S to MOST_S.

    The vowel's own periods are repeated, with a voice's drift of pitch and loudness.

    Args:
        speech: [S] at SPEECH_HZ.
        targets: [S // hop, 14]; row k belongs to the samples from k * hop on.
        hop: samples of a row.
        rng: chooses vowel, length and drift.

    Returns:
        Both, longer; as they were where no vowel was found.
    """
    lips = targets[:, INDEX["jawOpen"]] - targets[:, INDEX["mouthClose"]]
    moved = np.abs(np.diff(targets, axis=0)).sum(1)
    change = np.convolve(moved, np.ones(5), "same")
    margin = _LONGEST * 4 // hop + 1
    places = np.flatnonzero((lips[:-1] > _OPEN) & (change < _SETTLED))
    places = places[(places >= margin) & (places < len(targets) - margin)]
    for look in rng.permutation(places)[:_TRIES]:
        at = int(look) * hop
        period = _period(speech[at - 2 * _LONGEST : at + 2 * _LONGEST])
        if period is not None:
            looks = int(rng.uniform(LEAST_S, MOST_S) * SPEECH_HZ) // hop
            vowel = _repeated(speech, at, period, looks * hop, rng)
            fade = np.linspace(0.0, 1.0, period, dtype=np.float32)
            before = speech[at - period : at]
            vowel[-period:] = vowel[-period:] * (1.0 - fade) + before * fade
            rows = np.repeat(targets[look : look + 1], looks, axis=0)
            return (
                np.concatenate([speech[:at], vowel, speech[at:]]),
                np.concatenate([targets[:look], rows, targets[look:]]),
            )
    return speech, targets


def _period(piece: Float32) -> int | None:
    """Return a piece's period in samples; None where it is not voiced."""
    piece = piece - piece.mean()
    half = len(piece) // 2
    first = piece[:half]
    power = float(first @ first)
    alike = np.array(
        [
            float(first @ piece[lag : lag + half])
            / (np.sqrt(power * float(piece[lag : lag + half] @ piece[lag : lag + half])) + 1e-9)
            for lag in range(_SHORTEST, _LONGEST)
        ]
    )
    best = float(alike.max())
    if best < _VOICED:
        return None
    # A voice is like itself two periods later, too: the first peak that is as good counts.
    peaks = np.flatnonzero(
        (alike[1:-1] >= alike[:-2]) & (alike[1:-1] >= alike[2:]) & (alike[1:-1] > 0.95 * best)
    )
    return None if len(peaks) == 0 else _SHORTEST + 1 + int(peaks[0])


def _repeated(speech: Float32, at: int, period: int, length: int, rng: Rng) -> Float32:
    """Return [length] of what sounds at a place, for ever; its first samples follow those before `at`."""
    time = np.arange(length) / SPEECH_HZ
    vibrato = rng.choice([0.0, rng.uniform(0.002, 0.02)]) * np.sin(2 * np.pi * rng.uniform(4.5, 7.0) * time)
    drift = np.interp(time, [0.0, time[-1]], [0.0, rng.uniform(-0.08, 0.05)])
    places = np.cumsum(1.0 + vibrato + drift) - 1.0
    reach = int(places[-1]) + 2 * period + 2
    loop = np.empty(reach, np.float32)
    fade = np.linspace(0.0, 1.0, period, dtype=np.float32)
    filled = 0
    tail = speech[at : at + period]
    while filled < reach:
        start = at - period * int(rng.integers(0, 3))
        grain = speech[start : start + period] * fade + tail * (1.0 - fade)
        take = min(period, reach - filled)
        loop[filled : filled + take] = grain[:take]
        filled += take
        tail = speech[start + period : start + 2 * period]
    below = places.astype(np.int64)
    share = (places - below).astype(np.float32)
    sound = loop[below] * (1.0 - share) + loop[below + 1] * share
    knots = 10 ** (rng.uniform(-4.0, 2.0, 4) / 20)
    knots[0] = 1.0
    return (sound * np.interp(time, np.linspace(0.0, time[-1], 4), knots)).astype(np.float32)
