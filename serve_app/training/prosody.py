"""What brows and head do with the melody of speech, from pitch and loudness heard so far.

Brows rise on pitch accents and the head bows on loud syllables, a little (Cavé et al., "About the
relationship between eyebrow movements and F0 variations", 1996; Hadar et al., "Head movement correlates of
juncture and stress", 1983).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.nouns import SPEECH_HZ, Int16

_HOP = SPEECH_HZ // 100
_FRAME = 640
_LOW_HZ, _HIGH_HZ = 70, 400
_VOICED = 0.45
"""Normalised autocorrelation above which a moment is voiced."""


def pitch(speech: Int16) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return pitch in semitones above 55 Hz, and whether there is one, every 10 ms.

    The pitch is the highest peak of the autocorrelation of 40 ms.
    """
    num_looks = len(speech) // _HOP + 1
    padded = np.zeros(num_looks * _HOP + _FRAME)
    padded[_FRAME // 2 : _FRAME // 2 + len(speech)] = speech
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP][:num_looks]
    frames = frames - frames.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(frames, 2 * _FRAME)) ** 2
    correlation = np.fft.irfft(power)[:, :_FRAME]
    overlap = 1.0 - np.arange(_FRAME) / _FRAME
    lags = np.arange(SPEECH_HZ // _HIGH_HZ, SPEECH_HZ // _LOW_HZ)
    normal = correlation[:, lags] / overlap[lags] / (correlation[:, :1] + 1e4)
    # Shorter lags win near ties, or half the pitch would be heard.
    best = (normal - 0.0005 * lags).argmax(1)
    height = normal[np.arange(num_looks), best]
    return 12.0 * np.log2(SPEECH_HZ / lags[best] / 55.0), height > _VOICED


def gestures(speech: Int16) -> npt.NDArray[np.float32]:
    """Return [looks, 2] browInnerUp and headNod, every 10 ms; nothing of the future is used."""
    tones, voiced = pitch(speech)
    padded = np.pad(speech.astype(np.float64), _HOP)
    level = np.array([
        np.mean(padded[look * _HOP : (look + 2) * _HOP] ** 2) for look in range(len(tones))
    ])  # fmt: skip
    loud = ((10.0 * np.log10(level + 1.0) - 25.0) / 40.0).clip(0.0, 1.0)
    out = np.zeros((len(tones), 2), np.float32)
    usual: float | None = None
    brow = quick = slow = 0.0
    for look, tone in enumerate(tones):
        accent = 0.0
        if voiced[look]:
            usual = tone if usual is None else usual + 0.012 * (tone - usual)
            accent = min(1.0, max(0.0, (tone - usual) / 7.0))
        brow += (0.15 if accent > brow else 0.025) * (accent - brow)
        quick += 0.09 * (loud[look] - quick)
        slow += 0.022 * (loud[look] - slow)
        out[look] = 0.7 * brow, min(1.0, max(-1.0, 1.1 * (quick - slow))) * 0.8
    return out
