"""Speech as files: any sound file to samples, and the WAV header in front of a stream."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np

from serve_app.errors import InvalidAudio
from serve_app.nouns import Int16

UNKNOWN_BYTES = 0xFFFFFFFF
"""Stands for a length that is not known yet, as ffmpeg and sox write it into streamed WAV."""


def read_speech(source: Path | bytes) -> tuple[Int16, int]:
    """Decode the first sound track of a file of any kind that FFmpeg reads.

    Args:
        source: a path or the file's bytes.

    Returns:
        [S] int16 mono, and their rate in Hz: the file's own.

    Raises:
        InvalidAudio: the file has no sound that can be decoded.
    """
    name = source.name if isinstance(source, Path) else f"{len(source)} bytes"
    try:
        with av.open(str(source) if isinstance(source, Path) else io.BytesIO(source)) as container:
            if not container.streams.audio:
                raise InvalidAudio(f"{name}: expected a sound track, found none")
            hz = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="s16", layout="mono", rate=hz)
            parts = [
                resampled.to_ndarray()[0]
                for frame in [*container.decode(audio=0), None]
                for resampled in resampler.resample(frame)
            ]
    except (av.FFmpegError, OSError) as error:
        raise InvalidAudio(f"{name}: expected a sound file, found: {error}") from error
    if not parts:
        raise InvalidAudio(f"{name}: expected speech, found no samples", too_short=True)
    return np.concatenate(parts).astype(np.int16), hz


def wav_header(hz: int, data_bytes: int = UNKNOWN_BYTES) -> bytes:
    """Return the 44 bytes before mono int16 samples in a WAV file (RIFF, "Multiple Channel Audio Data").

    Args:
        hz: sample rate.
        data_bytes: length of the samples; UNKNOWN_BYTES in front of a stream.
    """
    riff_bytes = min(UNKNOWN_BYTES, 36 + data_bytes)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff_bytes, b"WAVE", b"fmt ", 16, 1, 1, hz, 2 * hz, 2, 16)
    return head + struct.pack("<4sI", b"data", data_bytes)
