"""What the speech messages of one Audio-to-Video socket mean. Sans-I/O.

The rules, where document 000 leaves them open:

- An utterance is opened by `is_first`, by `agent.speak`, or by a chunk while none is open; the first index
  is its base and names it in events. Opening one ends the one before it.
- Indices count up by one. A repeated one is dropped and reported. After a gap later chunks are held until
  the missing one comes; the gap is reported once. When the utterance ends, or too much is held, what is
  there goes on in order and the missing indices are reported.
- `agent.speak` with `is_final` false opens an utterance, and continues one that an `agent.speak` opened
  when its index is larger than the base. Every other `agent.speak` is an utterance of its own.
- A chunk that cannot be used is reported and passed over. When it would have opened an utterance, nothing
  is known of the format of those after it, so they are ignored up to the next beginning.
- After an interrupt, chunks that continue the interrupted stream are ignored up to its `is_final` or
  `agent.speak_end`, or up to the next beginning: `is_first`, an `agent.speak`, or a smaller index.
- Speech that a session has no room for is not taken; the same message may be sent again later.
- A chunk that comes when it has been given up is dropped and reported.
- Only a whole utterance can be too short: streamed speech has been heard when its length is known.
- A trailing `agent.speak_end` after `is_final` says nothing new and is silent.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from serve_app.config import AppConfig
from serve_app.errors import AvatarError, InvalidAudio, InvalidMessage, SpeechOverrun
from serve_app.gateway.a2v.messages import AgentAudioChunk, AgentSpeak
from serve_app.media.pcm import PcmStream, WavStream, check_hz, container_of, is_wav
from serve_app.nouns import SPEECH_HZ, Int16

MAX_HELD_CHUNKS = 64
"""Chunks that wait for a missing one."""

MAX_HELD_BYTES = 8 * 1_048_576
"""Their sound together."""

_WHITESPACE = b" \t\r\n"

Decoder: TypeAlias = WavStream | PcmStream


class SpeechSink(Protocol):
    """The part of a SessionLink that takes speech."""

    def begin(self, client_index: int) -> None:
        """Open an utterance; an open one is ended first."""
        ...

    def feed(self, samples: Int16, hz: int) -> None:
        """Add [S] int16 mono at `hz` to the open utterance.

        Raises:
            SpeechOverrun: nothing was taken.
        """
        ...

    def end(self) -> None:
        """End the open utterance."""
        ...


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What the door takes; the fields are those of the configuration."""

    max_chunk_bytes: int
    max_utterance_bytes: int
    min_utterance_s: float
    pad_short_utterances: bool

    @classmethod
    def of(cls, config: AppConfig) -> AudioLimits:
        """Return the limits that `config` sets."""
        return cls(
            config.gateway.max_chunk_bytes,
            config.gateway.max_utterance_bytes,
            config.speech.min_utterance_s,
            config.speech.pad_short_utterances,
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to tell the client; `details` go into the error event."""

    error: AvatarError
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    index: int
    sound: bytes
    is_final: bool


@dataclass(slots=True)
class _Stream:
    """An open utterance; `expected` is None when another socket began it and its next index is unknown."""

    base: int
    expected: int | None
    decoder: Decoder | None
    is_from_speak: bool = False
    begun: bool = False
    continued: bool = False
    num_samples: int = 0
    opening: _Piece | None = None
    held: dict[int, _Piece] = field(default_factory=dict)
    gap_reported_at: int | None = None
    overrun: tuple[int, Int16] | None = None

    @property
    def is_over_full(self) -> bool:
        held_bytes = sum(len(piece.sound) for piece in self.held.values())
        return len(self.held) > MAX_HELD_CHUNKS or held_bytes > MAX_HELD_BYTES


class A2vAudio:
    """Turns speech messages into utterances of a session.

    Every method returns what to report to the client, in order; nothing is raised for what a client sent.

    Args:
        sink: the session.
        limits: what is taken.
        open_index: number of an utterance that another socket began and this one continues.
    """

    def __init__(self, sink: SpeechSink, limits: AudioLimits, open_index: int | None = None) -> None:
        self._sink = sink
        self._limits = limits
        self._stream: _Stream | None = None
        self._ignored_from: int | None = None
        self._ended_by_final = False
        self._given_up: list[tuple[int, int]] = []
        if open_index is not None:
            self._stream = _Stream(open_index, None, None, begun=True, continued=True)

    def speak(self, message: AgentSpeak) -> list[Fault]:
        """Take a whole utterance, or with `is_final` false a piece of one."""
        displaced = self._stream
        faults = self._speak(message)
        if displaced is None or displaced is self._stream or displaced.is_from_speak:
            return faults
        if isinstance(displaced.decoder, WavStream):
            # Later chunks of the displaced stream would be taken for raw PCM.
            self._ignored_from = displaced.expected
        return faults

    def chunk(self, message: AgentAudioChunk) -> list[Fault]:
        """Take a piece of streamed speech."""
        if self._is_ignored(message):
            return []
        index, stream = message.chunk_index, self._stream
        opens = stream is None or message.is_first
        if opens and not message.is_first and any(first <= index <= last for first, last in self._given_up):
            return [_out_of_turn(index, "its utterance has ended without it")]
        try:
            sound = _sound("chunk", message.chunk, self._limits.max_chunk_bytes, message.is_final)
            piece = _Piece(index, sound, message.is_final)
            if stream is not None and (not opens or piece == stream.opening):
                return self._place(stream, piece)
            decoder = _decoder(sound, None, SPEECH_HZ)
        except InvalidAudio as error:
            return self._refuse(index, error, opens=opens, is_final=message.is_final)
        return self._open(piece, decoder, is_from_speak=False)

    def speak_end(self) -> list[Fault]:
        """End the open utterance."""
        if self._stream is not None:
            return self._close()
        if self._ignored_from is not None or self._ended_by_final:
            self._ignored_from = None
            self._ended_by_final = False
            return []
        return [Fault(InvalidMessage("agent.speak_end: expected an open utterance, found none"))]

    def interrupted(self) -> None:
        """Forget the open utterance: the session drops all speech."""
        if self._stream is not None:
            self._ignored_from = self._stream.expected or 0
        self._stream = None

    # Beginnings.

    def _speak(self, message: AgentSpeak) -> list[Fault]:
        index, stream = message.chunk_index, self._stream
        is_next = _continues(stream, message)
        try:
            sound = _sound("audio", message.audio, self._limits.max_utterance_bytes, message.is_final)
            piece = _Piece(index, sound, message.is_final)
            if stream is not None and (is_next or piece == stream.opening):
                _check_rate(stream, message)
                return self._place(stream, piece)
            decoder = _decoder(sound, message.format, message.sample_rate)
        except InvalidAudio as error:
            return self._refuse(index, error, opens=not is_next, is_final=message.is_final)
        return self._open(piece, decoder, is_from_speak=True)

    def _open(self, piece: _Piece, decoder: Decoder, *, is_from_speak: bool) -> list[Fault]:
        self._ignored_from = None
        if piece.is_final:
            return self._play_whole(piece, decoder)
        faults = self._close()
        self._given_up.clear()
        self._stream = _Stream(piece.index, piece.index, decoder, is_from_speak, opening=piece)
        return faults + self._place(self._stream, piece)

    def _play_whole(self, piece: _Piece, decoder: Decoder) -> list[Fault]:
        details: dict[str, object] = {"chunk_index": piece.index}
        try:
            samples = decoder.push(piece.sound)
            decoder.finish()
            assert decoder.hz is not None, "finish() accepts no sound without a rate"
            samples = self._long_enough(samples, decoder.hz)
        except InvalidAudio as error:
            return self._refuse(piece.index, error, opens=True, is_final=True)
        faults = self._close(by_final=True)
        self._given_up.clear()
        self._sink.begin(piece.index)
        try:
            self._sink.feed(samples, decoder.hz)
        except SpeechOverrun as error:
            faults.append(Fault(error, details))
        self._sink.end()
        return faults

    def _long_enough(self, samples: Int16, hz: int) -> Int16:
        if not len(samples):
            raise InvalidAudio("expected sound, got none", too_short=True)
        missing = self._missing_samples(len(samples), hz)
        if missing == 0:
            return samples
        if not self._limits.pad_short_utterances:
            raise InvalidAudio(
                f"expected at least {self._limits.min_utterance_s:g} s of sound, "
                f"got {len(samples) / hz:.2f} s",
                too_short=True,
            )
        return np.concatenate([samples, np.zeros(missing, np.int16)])

    def _missing_samples(self, num_samples: int, hz: int) -> int:
        return max(0, round(self._limits.min_utterance_s * hz) - num_samples)

    def _refuse(self, index: int, error: InvalidAudio, *, opens: bool, is_final: bool) -> list[Fault]:
        """Report a message that cannot be used, and go on without it."""
        fault = Fault(error, {"chunk_index": index})
        stream = self._stream
        if opens or stream is None:
            faults = self._close(by_final=is_final)
            self._ignored_from = None if is_final else index + 1
            return [*faults, fault]
        if is_final and (stream.expected is None or index >= stream.expected):
            return [fault, *self._close(by_final=True)]
        if index != stream.expected:
            return [fault]
        stream.expected = index + 1
        return [fault, *self._release(stream)]

    def _is_ignored(self, message: AgentAudioChunk) -> bool:
        if self._ignored_from is None or self._stream is not None:
            return False
        if message.is_first or message.chunk_index < self._ignored_from:
            self._ignored_from = None
            return False
        if message.is_final:
            self._ignored_from = None
            self._ended_by_final = True
        return True

    # Order.

    def _place(self, stream: _Stream, piece: _Piece) -> list[Fault]:
        """Take, hold or drop a piece by its index."""
        if stream.expected is None:
            stream.decoder = _decoder(piece.sound, None, SPEECH_HZ)
            stream.expected = piece.index
        if piece.index < stream.expected or piece.index in stream.held:
            return [_out_of_turn(piece.index, "it has come before or comes too late", stream.expected)]
        if piece.index > stream.expected:
            return self._hold(stream, piece)
        return self._take(stream, piece) + self._release(stream)

    def _hold(self, stream: _Stream, piece: _Piece) -> list[Fault]:
        faults = []
        stream.held[piece.index] = piece
        if stream.gap_reported_at != stream.expected:
            stream.gap_reported_at = stream.expected
            faults = [_out_of_turn(piece.index, "it waits for those before it", stream.expected)]
        if piece.is_final:
            return faults + self._close(by_final=True)
        if stream.is_over_full:
            return faults + self._skip_gap(stream) + self._release(stream)
        return faults

    def _release(self, stream: _Stream) -> list[Fault]:
        """Take what was held and is in turn now."""
        faults: list[Fault] = []
        while self._stream is stream and stream.expected in stream.held:
            index = stream.expected
            faults += self._take(stream, stream.held.pop(index))
            if stream.expected == index:
                break
        return faults

    def _skip_gap(self, stream: _Stream) -> list[Fault]:
        """Go on at the first held piece without those before it."""
        first = min(stream.held)
        assert stream.expected is not None, "pieces are held against an expected index"
        missing = (stream.expected, first - 1)
        self._given_up.append(missing)
        stream.expected = first
        text = (
            f"chunk_index: expected {missing[0]} to {missing[1]}, which did not come; going on with {first}"
        )
        return [Fault(InvalidMessage(text), {"missing": list(missing)})]

    def _take(self, stream: _Stream, piece: _Piece) -> list[Fault]:
        """Give a piece that is in turn to the session; `expected` stays when there is no room for it."""
        details: dict[str, object] = {"chunk_index": piece.index}
        try:
            samples = self._decode(stream, piece)
        except InvalidAudio as error:
            self._stream = None
            self._ignored_from = None if piece.is_final else piece.index + 1
            self._ended_by_final = piece.is_final
            if stream.begun:
                self._sink.end()
            return [Fault(error, details)]
        try:
            self._feed(stream, samples)
        except SpeechOverrun as error:
            stream.overrun = (piece.index, samples)
            return [Fault(error, details)]
        stream.expected = piece.index + 1
        if piece is not stream.opening:
            stream.opening = None
        return self._close(by_final=True) if piece.is_final else []

    def _decode(self, stream: _Stream, piece: _Piece) -> Int16:
        # The decoder has read a piece that found no room: what is sent again is not decoded again.
        overrun, stream.overrun = stream.overrun, None
        if overrun is not None and overrun[0] == piece.index:
            return overrun[1]
        assert stream.decoder is not None, "the first piece brings the decoder"
        return stream.decoder.push(piece.sound)

    def _feed(self, stream: _Stream, samples: Int16) -> None:
        if not len(samples):
            return
        if not stream.begun:
            stream.begun = True
            self._sink.begin(stream.base)
        assert stream.decoder is not None
        assert stream.decoder.hz is not None, "samples come after their rate"
        self._sink.feed(samples, stream.decoder.hz)
        stream.num_samples += len(samples)

    # Ends.

    def _close(self, *, by_final: bool = False) -> list[Fault]:
        """End the open utterance, if there is one, with all that is held."""
        stream = self._stream
        self._ended_by_final = by_final
        if stream is None:
            return []
        faults: list[Fault] = []
        while self._stream is stream and stream.held:
            if stream.expected not in stream.held:
                faults += self._skip_gap(stream)
            index = min(stream.held)
            faults += self._take(stream, stream.held.pop(index))
            stream.expected = index + 1
        if self._stream is not stream:
            return faults
        self._stream = None
        return faults + self._finish(stream)

    def _finish(self, stream: _Stream) -> list[Fault]:
        faults: list[Fault] = []
        details: dict[str, object] = {"chunk_index": stream.base}
        try:
            if stream.decoder is not None:
                stream.decoder.finish()
            if not stream.begun:
                raise InvalidAudio("expected sound, got none", too_short=True)
        except InvalidAudio as error:
            faults.append(Fault(error, details))
        if not stream.begun:
            return faults
        try:
            self._pad(stream)
        except SpeechOverrun as error:
            faults.append(Fault(error, details))
        self._sink.end()
        return faults

    def _pad(self, stream: _Stream) -> None:
        hz = stream.decoder.hz if stream.decoder is not None else None
        if not self._limits.pad_short_utterances or stream.continued or hz is None:
            return
        missing = self._missing_samples(stream.num_samples, hz)
        if missing:
            self._sink.feed(np.zeros(missing, np.int16), hz)


def _continues(stream: _Stream | None, message: AgentSpeak) -> bool:
    is_numbered = "chunk_index" in message.model_fields_set
    return stream is not None and stream.is_from_speak and is_numbered and message.chunk_index > stream.base


def _check_rate(stream: _Stream, message: AgentSpeak) -> None:
    is_given = "sample_rate" in message.model_fields_set
    if isinstance(stream.decoder, PcmStream) and is_given and message.sample_rate != stream.decoder.hz:
        raise InvalidAudio(
            f"sample_rate: expected {stream.decoder.hz} Hz as before, got {message.sample_rate} Hz"
        )


def _out_of_turn(index: int, why: str, expected: int | None = None) -> Fault:
    details: dict[str, object] = {"expected": expected, "found": index}
    wanted = "a later one" if expected is None else expected
    return Fault(InvalidMessage(f"chunk_index: expected {wanted}, found {index}; {why}"), details)


def _sound(name: str, text: str, limit_bytes: int, may_be_empty: bool) -> bytes:
    """Decode base64 (RFC 4648 section 4); line breaks and blanks between its letters are allowed.

    Raises:
        InvalidAudio: it is not base64, too large, or empty where that means nothing.
    """
    # Four letters carry three bytes; this keeps a message that is far too large from being copied.
    if len(text) // 4 * 3 > 2 * limit_bytes:
        raise InvalidAudio(
            f"{name}: expected at most {limit_bytes} bytes of sound, got about {len(text) // 4 * 3}"
        )
    try:
        sound = base64.b64decode(text.encode("ascii").translate(None, _WHITESPACE), validate=True)
    except UnicodeEncodeError:
        raise InvalidAudio(f"{name}: expected base64, got letters outside ASCII") from None
    except binascii.Error as error:
        found = "a data URL; send what follows its comma" if text.startswith("data:") else str(error)
        raise InvalidAudio(f"{name}: expected base64, got {found}") from None
    if len(sound) > limit_bytes:
        raise InvalidAudio(f"{name}: expected at most {limit_bytes} bytes of sound, got {len(sound)}")
    if not sound and not may_be_empty:
        raise InvalidAudio(f"{name}: expected sound, got 0 bytes; only a final chunk may be empty")
    return sound


def _decoder(sound: bytes, format_: str | None, hz: int) -> Decoder:
    """Choose by the named format and the first bytes; a RIFF header always counts.

    Raises:
        InvalidAudio: the format or rate is not one that is taken.
    """
    name = None if format_ is None else format_.strip().lower()
    if name not in (None, "wav", "pcm"):
        raise InvalidAudio(f"format: expected wav or pcm, got {name[:32]!r}")
    if name == "wav" or is_wav(sound):
        return WavStream()
    if (container := container_of(sound)) is not None:
        raise InvalidAudio(f"expected WAV or raw 16-bit PCM, got {container}")
    return PcmStream(check_hz(hz))
