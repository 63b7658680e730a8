"""Speech of the local voice, for tests that listen."""

from __future__ import annotations

import numpy as np

from serve_app.media.pcm import Resampler
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.tts import Spoken, Synthesizer

VOICE_HZ = 22_050
FRAME = 1024


async def spoken(text: str, voice: str = "alloy", speed: float = 1.0) -> list[Spoken]:
    """Return all pieces of a speech."""
    return [piece async for piece in Synthesizer().speak(text, voice, speed)]


async def sound(text: str, voice: str = "alloy", speed: float = 1.0) -> Int16:
    """Return a speech at its own rate."""
    return np.concatenate([piece.samples for piece in await spoken(text, voice, speed)])


async def said(text: str, voice: str = "alloy") -> Int16:
    """Return a speech at SPEECH_HZ."""
    pieces = await spoken(text, voice)
    resampler = Resampler(pieces[0].hz, SPEECH_HZ)
    parts = [resampler.push(piece.samples) for piece in pieces]
    return np.concatenate([*parts, resampler.flush()])


def with_noise(speech: Int16, *, before_s: float, after_s: float, snr_db: float, seed: int = 0) -> Int16:
    """Return speech between silences, all under white noise."""
    silences = [np.zeros(round(seconds * SPEECH_HZ)) for seconds in (before_s, after_s)]
    clean = np.concatenate([silences[0], speech.astype(np.float64), silences[1]])
    rms = np.sqrt(np.mean(speech.astype(np.float64) ** 2)) * 10 ** (-snr_db / 20)
    noisy = clean + np.random.default_rng(seed).normal(scale=rms, size=clean.size)
    return np.clip(np.round(noisy), -32_768, 32_767).astype(np.int16)


def pitch_hz(samples: Int16) -> float:
    """Return the median pitch of the voiced frames of a speech at VOICE_HZ, from their autocorrelation."""
    pitches = []
    for start in range(0, samples.size - FRAME, FRAME // 2):
        frame = samples[start : start + FRAME].astype(np.float64)
        if np.sqrt(np.mean(frame**2)) < 800:
            continue
        power = np.abs(np.fft.rfft(frame * np.hanning(FRAME), 4 * FRAME)) ** 2
        correlation = np.fft.irfft(power)
        lags = np.arange(VOICE_HZ // 400, VOICE_HZ // 60)
        best = lags[np.argmax(correlation[lags])]
        if correlation[best] > 0.4 * correlation[0]:
            pitches.append(VOICE_HZ / best)
    return float(np.median(pitches))
