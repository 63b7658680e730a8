"""Makes speech from text on this machine, with espeak-ng.

espeak-ng is licensed under the GPL, version 3 or later. It is no part of this application: the package
espeakng-loader brings its library and data, and a process of its own loads them when a text is first spoken
(see `espeak`). The process is asked by one thread. Texts are cut into sentences and each is a request of its
own: the first is heard soon, and long texts do not hold up those of others.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import logging
import re
import subprocess
import sys
import unicodedata
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from serve_app.errors import AgentFailed, InvalidMessage
from serve_app.nouns import Int16
from serve_app.speech import espeak
from serve_app.speech.voices import LANGUAGE, EspeakVoice, voice_named

logger = logging.getLogger(__name__)

LONGEST_TEXT = 4000
"""Characters that may be spoken at once."""

SLOWEST, FASTEST = 0.25, 4.0

_PIECE_S = 0.6
"""Seconds of speech from which a piece is given out at the next word."""

_LONGEST_SENTENCE = 200
"""Characters after which a sentence is cut at the next best place: some 10 ms of work."""

_LONGEST_WORK_S = 5.0
"""A sentence takes some 10 ms."""

_HZ = 22_050
"""The rate of all of espeak-ng's own voices."""

_SENTENCE_END = re.compile(
    r"""(?<!\.) (?<![\s.][^\W\d]) (?<!\b[A-Z][a-z]) (?<!\b[A-Z][a-z]{2}) \.++ ["'”’)\]]*+ \s++
    | (?<![!?;…]) [!?;…]++ ["'”’)\]]*+ \s++
    | [。！？；]++ [”’」』]*+ \s*+
    | \n \s*+""",
    re.VERBOSE,
)
"""Not after "Mr.", "Mrs." or "e.g.": there espeak-ng decides, which knows abbreviations."""

_CLAUSE_END = re.compile(r"[,:–—]\s+|[，、：]")

_SILENT_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn"})
"""Control characters (espeak-ng takes commands behind U+0001), lone surrogates, unassigned characters."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A few words and their sound.

    Attributes:
        samples: [S] int16 mono at `hz`; empty where the text has no sound.
        hz: the same for all pieces.
        text: the words with their spaces and marks; all pieces joined are the text that was given.
        at_s: when this piece is heard, from the start of the speech.
    """

    samples: Int16
    hz: int
    text: str
    at_s: float


class Synthesizer:
    """Speaks texts with espeak-ng; any number of them share one espeak-ng."""

    async def speak(self, text: str, voice: str = "alloy", speed: float = 1.0) -> AsyncIterator[Spoken]:
        """Yield the speech of a text, a few words at a time, sentence by sentence as it is asked for.

        The text is spoken as it stands: markup is read out, never obeyed, and control characters are
        silent. Closing the iterator stops the work: what runs on is at most the sentence being made.

        Args:
            text: at most LONGEST_TEXT characters.
            voice: any name, see `voices`; an unknown language is spoken as English.
            speed: SLOWEST to FASTEST; espeak-ng goes no further than 80 to 450 words per minute.

        Raises:
            InvalidMessage: the text is too long, or the speed out of range.
            AgentFailed: espeak-ng cannot be started, or refuses.
        """
        if len(text) > LONGEST_TEXT:
            raise InvalidMessage(
                f"text to speak: expected at most {LONGEST_TEXT} characters, found {len(text)}"
            )
        if not SLOWEST <= speed <= FASTEST:
            raise InvalidMessage(f"speed: expected {SLOWEST} to {FASTEST}, found {speed!r}")
        espeak_voice = voice_named(voice)
        rate = espeak_voice.words_per_minute * speed
        espeak_voice = replace(espeak_voice, words_per_minute=round(min(max(rate, 80), 450)))
        sentences = list(_sentences(text))
        at_s = 0.0
        for index, sentence in enumerate(sentences):
            job = _thread().submit(_say, sentence, espeak_voice, pause=index < len(sentences) - 1)
            speech = await asyncio.wrap_future(job)
            for piece in _pieces(sentence, speech, at_s):
                yield piece
            at_s += speech.samples.size / _HZ


def warm_up() -> None:
    """Start espeak-ng and load its first voice, so that the first text does not wait for it.

    Raises:
        AgentFailed: espeak-ng cannot be started.
    """
    _thread().submit(_say, "a", voice_named("alloy"), pause=False).result()


@dataclass(frozen=True, slots=True)
class _Word:
    """Where a word starts: character in the text, sample in the speech."""

    at: int
    sample: int


@dataclass(frozen=True, slots=True)
class _Speech:
    """Of one sentence, at _HZ."""

    samples: Int16
    words: list[_Word]


_SILENCE = _Speech(np.empty(0, np.int16), [])


def _sentences(text: str) -> Iterator[str]:
    """Cut a text into sentences of at most _LONGEST_SENTENCE characters; joined, they are the text."""
    start = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        while end - start > _LONGEST_SENTENCE:
            cut = start + _cut_at(text[start : start + _LONGEST_SENTENCE])
            yield text[start:cut]
            start = cut
        if end > start:
            yield text[start:end]
            start = end


def _cut_at(text: str) -> int:
    """Return where to cut a sentence that is too long: after a clause, else after a space, else anywhere."""
    half = len(text) // 2
    clauses = [match.end() for match in _CLAUSE_END.finditer(text) if match.end() > half]
    spaces = [index + 1 for index in range(half, len(text)) if text[index].isspace()]
    return next((found[-1] for found in (clauses, spaces) if found), len(text))


def _pieces(text: str, speech: _Speech, at_s: float) -> Iterator[Spoken]:
    """Cut a sentence's speech at words, into pieces of at least _PIECE_S seconds."""
    start = _Word(0, 0)
    for word in [*speech.words, _Word(len(text), speech.samples.size)]:
        is_end = word.at == len(text)
        if not is_end and (word.sample - start.sample < _PIECE_S * _HZ or not _may_cut(text, word.at)):
            continue
        samples = speech.samples[start.sample : word.sample]
        yield Spoken(samples, _HZ, text[start.at : word.at], at_s + start.sample / _HZ)
        start = word


def _may_cut(text: str, at: int) -> bool:
    """Whether a word starts here for a reader too; espeak-ng also names the parts of numbers."""
    return text[at - 1].isspace() or unicodedata.category(text[at - 1]) == "Lo"


def _plain(text: str) -> str:
    """Return a text of the same length of which only letters and digits are left."""
    return "".join(char if char.isalnum() else " " for char in text)


def _speakable(text: str) -> str:
    """Return a text of the same length in which everything that is not to be spoken is a space."""
    return "".join(
        " " if char != "\n" and unicodedata.category(char) in _SILENT_CATEGORIES else char for char in text
    )


def _rising(words: list[list[int]], length: int, num_samples: int) -> Iterator[_Word]:
    """Yield the words behind the first that go on in both the text and the speech."""
    at, sample = 0, 0
    for position, ms in words:
        word = _Word(position - 1, ms * _HZ // 1000)
        if at < word.at < length and sample < word.sample < num_samples:
            yield word
            at, sample = word.at, word.sample


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """Return the one thread that may use the process."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak-ng")


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def _say(text: str, voice: EspeakVoice, *, pause: bool) -> _Speech:
    """Return the speech of one sentence; runs in the thread. What espeak-ng cannot speak is silent.

    Raises:
        AgentFailed: espeak-ng cannot be started, or refuses.
    """
    for speakable in (_speakable(text), _plain(text)):
        try:
            return _espeak().say(speakable, voice, pause=pause)
        except _EspeakLost as lost:
            # What the text was is the user's own.
            logger.warning("espeak-ng %s at a sentence of %d characters", lost, len(text))
    return _SILENCE


class _EspeakLost(Exception):
    """The process crashed, or did not answer; the next request starts another."""


class _Espeak:
    """Our side of the process; used in one thread only.

    Args:
        longest_work_s: time for one request, after which the process counts as hung.
    """

    def __init__(self, longest_work_s: float = _LONGEST_WORK_S) -> None:
        self._longest_work_s = longest_work_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        atexit.register(self.close)

    def say(self, text: str, voice: EspeakVoice, *, pause: bool) -> _Speech:
        """Return the speech of a text, and a pause after it where that is wanted.

        Raises:
            AgentFailed: the process cannot be started, or espeak-ng refuses.
            _EspeakLost: it crashed or hangs.
        """
        if text.isspace():
            return _SILENCE
        request = {
            "text": text,
            "voices": [f"{language}+{voice.variant}" for language in (voice.language, LANGUAGE)],
            "rate": voice.words_per_minute,
            "pitch": voice.pitch,
            "range": voice.pitch_range,
            "pause": pause,
        }
        connection = self._connection or self._start()
        try:
            head, sound = self._ask(connection, json.dumps(request).encode())
        except (EOFError, OSError) as error:
            self.close()
            raise _EspeakLost("crashed") from error
        if head["status"] != 0:
            raise AgentFailed(f"espeak-ng: expected status 0, found {head['status']}")
        samples = np.frombuffer(sound, np.int16)
        return _Speech(samples, list(_rising(head["words"], len(text), samples.size)))

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _ask(self, connection: Connection, request: bytes) -> tuple[dict[str, Any], bytes]:
        connection.send_bytes(request)
        if not connection.poll(self._longest_work_s):
            self.close()
            raise _EspeakLost("hung")
        return json.loads(connection.recv_bytes()), connection.recv_bytes()

    def _start(self) -> Connection:
        try:
            import espeakng_loader

            paths = (espeakng_loader.get_library_path(), espeakng_loader.get_data_path())
        except (ImportError, RuntimeError) as error:
            raise AgentFailed(f"the local voice needs the package espeakng-loader: {error}") from error
        ours, theirs = Pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", espeak.__file__, str(theirs.fileno()), *paths],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except OSError as error:
            ours.close()
            raise AgentFailed(f"espeak-ng: its process cannot be started: {error}") from error
        self._connection = ours
        try:
            hz = json.loads(ours.recv_bytes())["hz"] if ours.poll(self._longest_work_s) else None
        except (EOFError, OSError):
            hz = None
        if hz != _HZ:
            self.close()
            raise AgentFailed(
                f"espeak-ng: expected to start with {_HZ} Hz, found {hz}; its library: {paths[0]}"
            )
        return ours
