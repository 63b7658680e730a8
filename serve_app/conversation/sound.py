"""Sound inside events: base64 of PCM or G.711, both ways."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from serve_app.agents.base import AGENT_HZ
from serve_app.conversation import faults, g711
from serve_app.conversation.model import SoundFormat
from serve_app.media.pcm import Resampler
from serve_app.nouns import Int16

MAX_APPEND_BYTES = 15 * 1_048_576
MAX_APPEND_CHARS = MAX_APPEND_BYTES // 3 * 4

DELTA_S = 0.2
"""Longest sound in one event: small enough for a data channel, in any format."""

_LAWS: dict[SoundFormat, g711.Law] = {"audio/pcmu": "mu", "audio/pcma": "a"}
_NAMES = {
    "audio/pcm": "mono PCM16 at 24 kHz",
    "audio/pcmu": "G.711 mu-law at 8 kHz",
    "audio/pcma": "G.711 A-law at 8 kHz",
}


def hz_of(format_: SoundFormat) -> int:
    """Return the sample rate of a format."""
    return AGENT_HZ if format_ == "audio/pcm" else g711.G711_HZ


def decode(text: str, format_: SoundFormat, param: str) -> Int16:
    """Return base64 sound as [S] int16 at the format's own rate.

    Args:
        text: base64 of whole samples.
        format_: how they are coded.
        param: path of the field, for the error.

    Raises:
        RealtimeFault: too much, not base64, or half a sample.
    """
    if len(text) > MAX_APPEND_CHARS:
        raise faults.too_long(param, "string", MAX_APPEND_CHARS, len(text))
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _not_sound(format_, param, "an invalid value") from None
    if format_ in _LAWS:
        return g711.decode(data, _LAWS[format_])
    if len(data) % 2:
        raise _not_sound(format_, param, f"{len(data)} bytes, which end within a sample")
    return np.frombuffer(data, "<i2").astype(np.int16)


def _not_sound(format_: SoundFormat, param: str, found: str) -> faults.RealtimeFault:
    message = f"Invalid '{param}'. Expected base64-encoded audio bytes ({_NAMES[format_]}) but got {found}."
    return faults.invalid("invalid_value", message, param)


class SoundEncoder:
    """Turns one answer's speech into the base64 pieces of `response.output_audio.delta`.

    Args:
        format_: how the client wants it.
    """

    def __init__(self, format_: SoundFormat) -> None:
        self._format = format_
        self._hz = hz_of(format_)
        self._resampler: Resampler | None = None

    def push(self, samples: Int16, hz: int) -> list[str]:
        """Return the pieces that [S] int16 mono at `hz` complete; the rate stays the same."""
        if self._resampler is None:
            self._resampler = Resampler(hz, self._hz)
        return self._pieces(self._resampler.push(samples))

    def flush(self) -> list[str]:
        """Return what is left at the end of the speech."""
        return [] if self._resampler is None else self._pieces(self._resampler.flush())

    def _pieces(self, samples: Int16) -> list[str]:
        most = round(DELTA_S * self._hz)
        return [self._encode(samples[start : start + most]) for start in range(0, len(samples), most)]

    def _encode(self, samples: Int16) -> str:
        law = _LAWS.get(self._format)
        data = samples.astype("<i2").tobytes() if law is None else g711.encode(samples, law)
        return base64.b64encode(data).decode()
