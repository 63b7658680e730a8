"""Sound as it arrives: WAV files and streams, raw PCM, and a stateful resampler.

Everything leaves as int16 mono. Integer samples of 16 bits pass unchanged; all else is converted with
rounding, clipping and, for several channels, their mean. What cannot be converted faithfully is refused.

WAV is RIFF/WAVE as in "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft,
1991) with WAVE_FORMAT_EXTENSIBLE (Microsoft, "Multiple Channel Audio Data and WAVE Files", 2001).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

import av
import numpy as np
import numpy.typing as npt

from serve_app.errors import InvalidAudio
from serve_app.nouns import Int16

MIN_HZ = 8_000
MAX_HZ = 192_000
"""Sample rates that are accepted, both included."""

MAX_CHANNELS = 32

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_COMPRESSED = {
    0x0002: "Microsoft ADPCM",
    0x0006: "A-law",
    0x0007: "mu-law",
    0x0011: "IMA ADPCM",
    0x0031: "GSM 6.10",
    0x0050: "MPEG",
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0161: "Windows Media Audio",
}
_SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""Bytes 2-15 of KSDATAFORMAT_SUBTYPE_*: the first two hold the format tag."""

_UNKNOWN_BYTES = 0x7FFF_0000
"""Sizes from here on are placeholders of writers that cannot seek back: espeak-ng, SoX, FFmpeg, services."""

_MAX_FORMAT_BYTES = 4_096

_OTHER_CONTAINERS = (
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"ID3", "MP3"),
    (b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (b"RIFX", "big-endian RIFX"),
    (b"RF64", "RF64"),
    (b"FORM", "AIFF"),
    (b".snd", "Sun AU"),
    (b"caff", "Core Audio"),
)

Samples: TypeAlias = npt.NDArray[np.int16] | npt.NDArray[np.int32] | npt.NDArray[np.float64]


def is_wav(data: bytes) -> bool:
    """Return whether `data` begins like a RIFF file."""
    return data[:4] == b"RIFF"


def container_of(data: bytes) -> str | None:
    """Return the name of the sound container `data` begins with when it is neither WAV nor raw PCM."""
    if data[4:8] == b"ftyp":
        return "MP4"
    return next((name for magic, name in _OTHER_CONTAINERS if data.startswith(magic)), None)


def check_hz(hz: int) -> int:
    """Return `hz` when it is a rate this server takes.

    Raises:
        InvalidAudio: it is outside MIN_HZ to MAX_HZ.
    """
    if not MIN_HZ <= hz <= MAX_HZ:
        raise InvalidAudio(f"sample rate: expected {MIN_HZ} to {MAX_HZ} Hz, got {hz} Hz")
    return hz


def decode_pcm16(data: bytes) -> Int16:
    """Return raw little-endian 16-bit mono PCM as [S] int16.

    Raises:
        InvalidAudio: the byte count is odd.
    """
    if len(data) % 2:
        raise InvalidAudio(f"PCM: expected whole 16-bit samples, got {len(data)} bytes")
    return np.frombuffer(data, "<i2").astype(np.int16)


class PcmStream:
    """Raw little-endian 16-bit mono PCM that arrives in pieces, cut anywhere.

    Args:
        hz: its sample rate.

    Attributes:
        hz: as given.
    """

    def __init__(self, hz: int) -> None:
        self.hz = hz
        self._half = b""
        self._found_bytes = 0

    def push(self, data: bytes) -> Int16:
        """Take the next bytes; return the samples they complete as [S] int16."""
        self._found_bytes += len(data)
        sound = self._half + data
        whole = len(sound) - len(sound) % 2
        self._half = sound[whole:]
        return decode_pcm16(sound[:whole])

    def finish(self) -> None:
        """Check at the end of the stream that no sample is cut.

        Raises:
            InvalidAudio: half a sample is left.
        """
        if self._half:
            raise InvalidAudio(f"PCM: expected whole 16-bit samples, got {self._found_bytes} bytes")


def decode_wav(data: bytes) -> tuple[Int16, int]:
    """Decode a whole WAV file.

    Args:
        data: RIFF/WAVE with PCM of 8, 16, 24 or 32 bits or float of 32 or 64 bits, any channels, 8-192 kHz.
            A data size that a streaming writer left open means "up to the end".

    Returns:
        [S] int16 mono, and its sample rate.

    Raises:
        InvalidAudio: not such a file, compressed, or cut; the text says what was expected and found.
    """
    stream = WavStream()
    samples = stream.push(data)
    stream.finish()
    assert stream.hz is not None, "finish() accepts no file without a format"
    return samples, stream.hz


@dataclass(frozen=True, slots=True)
class _Format:
    is_float: bool
    channels: int
    hz: int
    sample_bytes: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.sample_bytes


class WavStream:
    """A WAV file that arrives in pieces, cut anywhere.

    Samples leave as soon as they are whole. When the promised data is through, or the file has an open
    size, a piece that begins with a RIFF header of its own continues the stream; some TTS services send such.

    Attributes:
        hz: sample rate, known once the format has been read; one stream keeps it.
    """

    def __init__(self) -> None:
        self.hz: int | None = None
        self._rest = b""
        self._format: _Format | None = None
        self._skip_bytes = 0
        self._data_bytes: int | None = 0
        self._data_found_bytes = 0
        self._riff_bytes = 0
        self._offset = 0
        self._stage: Literal["riff", "chunks", "data", "trailer"] = "riff"

    def push(self, data: bytes) -> Int16:
        """Take the next bytes; return the samples they complete as [S] int16 mono at `hz`.

        Raises:
            InvalidAudio: the header is not one that can be decoded.
        """
        if self._may_restart and is_wav(data) and data[8:12] == b"WAVE":
            self._restart()
        self._rest += data
        while self._stage != "data" and self._read_header():
            pass
        return self._take_samples() if self._stage == "data" else np.zeros(0, np.int16)

    def finish(self) -> None:
        """Check at the end of the stream that nothing is missing.

        Raises:
            InvalidAudio: the header or promised data is cut.
        """
        if self._stage == "trailer":
            return
        if self._stage != "data":
            raise InvalidAudio(f"WAV: expected a header with fmt and data chunks, got {self._found_header()}")
        if self._data_bytes is not None:
            raise InvalidAudio(
                f"WAV is cut: expected {self._data_bytes} bytes of sound, got {self._data_found_bytes}"
            )

    @property
    def _may_restart(self) -> bool:
        return self._stage == "trailer" or (self._stage == "data" and self._data_bytes is None)

    def _restart(self) -> None:
        self._rest = b""
        self._format = None
        self._skip_bytes = self._offset = self._data_found_bytes = 0
        self._stage = "riff"

    def _found_header(self) -> str:
        found = self._offset + len(self._rest)
        return f"{found} bytes without {'a data chunk' if self._format else 'a fmt chunk'}"

    def _take(self, count: int) -> bytes | None:
        if len(self._rest) < count:
            return None
        taken, self._rest = self._rest[:count], self._rest[count:]
        self._offset += count
        return taken

    def _read_header(self) -> bool:
        """Advance by one element of the header; return False when more bytes are needed."""
        if self._stage == "riff":
            return self._read_riff()
        if self._stage == "trailer":
            self._rest = b""
            return False
        if self._skip_bytes:
            skipped = self._take(min(self._skip_bytes, len(self._rest))) or b""
            self._skip_bytes -= len(skipped)
            return self._skip_bytes == 0
        return self._read_chunk()

    def _read_riff(self) -> bool:
        # Anything that cannot become a RIFF header is refused at once, not when twelve bytes are there.
        if not b"RIFF".startswith(self._rest[:4]):
            kind = container_of(self._rest)
            raise InvalidAudio(
                f"WAV: expected a file that begins with RIFF, got {kind or self._rest[:4].hex(' ')}"
            )
        header = self._take(12)
        if header is None:
            return False
        if header[8:] != b"WAVE":
            raise InvalidAudio(f"WAV: expected RIFF of type WAVE, got type {header[8:].hex(' ')}")
        self._riff_bytes = int.from_bytes(header[4:8], "little")
        self._stage = "chunks"
        return True

    def _read_chunk(self) -> bool:
        if len(self._rest) < 8:
            return False
        name, size = struct.unpack_from("<4sI", self._rest)
        if name == b"fmt ":
            if size > _MAX_FORMAT_BYTES:
                raise InvalidAudio(
                    f"WAV: expected a fmt chunk of at most {_MAX_FORMAT_BYTES} bytes, got {size}"
                )
            chunk = self._take(8 + size + size % 2)
            if chunk is None:
                return False
            self._set_format(_parse_format(chunk[8 : 8 + size]))
            return True
        self._take(8)
        if name == b"data":
            self._open_data(size)
        else:
            self._skip_bytes = size + size % 2
        return True

    def _set_format(self, format_: _Format) -> None:
        if self.hz not in (None, format_.hz):
            raise InvalidAudio(f"sample rate: expected {self.hz} Hz as before, got {format_.hz} Hz")
        self._format, self.hz = format_, format_.hz

    def _open_data(self, size: int) -> None:
        if self._format is None:
            raise InvalidAudio("WAV: expected a fmt chunk before the data chunk, got none")
        # A data size of 0 is true only if the RIFF size counts something after it.
        is_open = size >= _UNKNOWN_BYTES or (
            size == 0 and not self._offset < self._riff_bytes + 8 < _UNKNOWN_BYTES
        )
        if not is_open and size % self._format.frame_bytes:
            raise InvalidAudio(
                f"WAV: expected sound in whole frames of {self._format.frame_bytes} bytes, got {size} bytes"
            )
        self._data_bytes = None if is_open else size
        self._data_found_bytes = 0
        self._stage = "data"

    def _take_samples(self) -> Int16:
        assert self._format is not None
        count = len(self._rest)
        if self._data_bytes is not None:
            count = min(count, self._data_bytes - self._data_found_bytes)
        count -= count % self._format.frame_bytes
        sound, self._rest = self._rest[:count], self._rest[count:]
        self._data_found_bytes += count
        if self._data_found_bytes == self._data_bytes:
            self._stage, self._rest = "trailer", b""
        return _to_mono(sound, self._format)


def _parse_format(chunk: bytes) -> _Format:
    """Read a fmt chunk (WAVEFORMAT, WAVEFORMATEX or WAVEFORMATEXTENSIBLE)."""
    if len(chunk) < 16:
        raise InvalidAudio(f"WAV: expected a fmt chunk of at least 16 bytes, got {len(chunk)}")
    tag, channels, hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE:
        if len(chunk) < 40:
            raise InvalidAudio(f"WAV: expected an extensible fmt chunk of 40 bytes, got {len(chunk)}")
        if chunk[26:40] != _SUBFORMAT_TAIL:
            raise InvalidAudio(f"WAV: expected a PCM or float subformat, got {chunk[24:40].hex()}")
        tag = int.from_bytes(chunk[24:26], "little")
    if tag not in (_PCM, _FLOAT):
        raise InvalidAudio(
            f"WAV: expected PCM (format tag 0x0001) or float (0x0003), "
            f"got {_COMPRESSED.get(tag, 'an unknown format')} (0x{tag:04X})"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudio(f"WAV: expected 1 to {MAX_CHANNELS} channels, got {channels}")
    sample_bytes = (bits + 7) // 8
    allowed = (4, 8) if tag == _FLOAT else (1, 2, 3, 4)
    if sample_bytes not in allowed or frame_bytes != channels * sample_bytes:
        kind = "float of 32 or 64" if tag == _FLOAT else "PCM of 8, 16, 24 or 32"
        raise InvalidAudio(
            f"WAV: expected {kind} bits, "
            f"got {bits} bits and {channels} channels in frames of {frame_bytes} bytes"
        )
    return _Format(tag == _FLOAT, channels, check_hz(hz), sample_bytes)


def _to_mono(sound: bytes, format_: _Format) -> Int16:
    """Convert whole frames to [S] int16 mono."""
    samples = _decode(sound, format_)  # [S * channels]
    if format_.channels > 1:
        samples = samples.reshape(-1, format_.channels).mean(axis=1)  # [S]
    if samples.dtype == np.int16:
        return samples.astype(np.int16, copy=False)
    return np.clip(np.rint(samples), -32_768, 32_767).astype(np.int16)


def _decode(sound: bytes, format_: _Format) -> Samples:
    """Return interleaved samples at the scale of int16, not yet rounded or clipped."""
    if format_.is_float:
        floats = np.frombuffer(sound, "<f4" if format_.sample_bytes == 4 else "<f8")
        if not np.isfinite(floats).all():
            raise InvalidAudio("WAV: expected finite float samples, got NaN or infinity")
        # Far beyond full scale, so that the mean of channels cannot overflow and is not changed by it.
        return np.clip(floats.astype(np.float64), -1e9, 1e9) * 32_768.0
    if format_.sample_bytes == 1:
        return (np.frombuffer(sound, np.uint8).astype(np.int16) - 128) * np.int16(256)
    if format_.sample_bytes == 2:
        return np.frombuffer(sound, "<i2").astype(np.int16)
    if format_.sample_bytes == 3:
        wide = np.zeros((len(sound) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(sound, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 65_536.0
    return np.frombuffer(sound, "<i4") / 65_536.0


class Resampler:
    """Changes the sample rate of one stream, keeping the filter's state between pieces.

    However a stream is cut into pieces, the same samples leave. The output is aligned with the input
    (libswresample primes its filter), lags by half the filter (16 samples of the lower rate) until `flush`,
    and counts `round(n * to_hz / from_hz)` samples for n pushed ones.

    Args:
        from_hz: rate of what is pushed.
        to_hz: rate of what is returned.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._swr: av.AudioResampler | None = None
        self._pushed = 0
        self._returned = 0

    def push(self, samples: Int16) -> Int16:
        """Take [S] int16 mono; return what has come out of the filter, which may be nothing."""
        if self._from_hz == self._to_hz or not len(samples):
            return samples
        resampled = self._filter(samples)
        self._pushed += len(samples)
        self._returned += len(resampled)
        return resampled

    def flush(self) -> Int16:
        """End the stream: return what the filter still holds. A later push begins a new stream."""
        if self._swr is None:
            return np.zeros(0, np.int16)
        # Silence drives the rest out; libswresample's own flush loses streams shorter than its filter.
        silence = np.zeros(64 * (1 + self._from_hz // self._to_hz), np.int16)
        held = round(self._pushed * self._to_hz / self._from_hz) - self._returned
        rest = self._filter(silence)[:held]
        self._swr = None
        self._pushed = self._returned = 0
        return rest

    def _filter(self, samples: Int16) -> Int16:
        if self._swr is None:
            self._swr = av.AudioResampler(format="s16", layout="mono", rate=self._to_hz)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], format="s16", layout="mono")
        frame.sample_rate = self._from_hz
        arrays = [resampled.to_ndarray()[0] for resampled in self._swr.resample(frame)]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.int16)
