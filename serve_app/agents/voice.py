"""What agents that make words need of a synthesizer, and how its speech becomes their output."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Protocol

from serve_app.agents.base import Output, Request, SpeechDelta, TranscriptDelta
from serve_app.nouns import Int16

FIRST_PIECE_S = 0.1
"""A response's first piece is short, so that playing can begin before the rest is handed over."""

PIECE_S = 0.5

MAX_SPOKEN_CHARS = 2_000
"""More than two minutes of speech; what is longer is cut."""


class Spoken(Protocol):
    """A piece of synthesized speech, as speech.tts makes it."""

    @property
    def samples(self) -> Int16:
        """[S] int16 mono at `hz`."""
        ...

    @property
    def hz(self) -> int:
        """Sample rate, the same in all pieces of a text."""
        ...

    @property
    def text(self) -> str:
        """The words of this piece; all pieces' texts joined are the text that was asked for."""
        ...

    @property
    def at_s(self) -> float:
        """When the piece begins, in seconds from the start of the speech."""
        ...


class Voice(Protocol):
    """A speech synthesizer."""

    def speak(self, text: str, voice: str, speed: float = 1.0) -> AsyncIterator[Spoken]:
        """Yield the speech of `text` piece by piece, as it is made."""
        ...


def pieces(samples: Int16, hz: int, first_s: float = FIRST_PIECE_S) -> Iterator[SpeechDelta]:
    """Cut [S] samples at `hz` into pieces of PIECE_S, of which the first has `first_s`."""
    start, length = 0, round(first_s * hz)
    while start < len(samples):
        yield SpeechDelta(samples[start : start + length], hz)
        start, length = start + length, round(PIECE_S * hz)


async def say(text: str, request: Request, voice: Voice) -> AsyncGenerator[Output, None]:
    """Yield `text` as a response's output: spoken, or as text alone where no sound was asked for."""
    text = text[:MAX_SPOKEN_CHARS]
    if not request.with_sound:
        yield TranscriptDelta(text)
        return
    first_s = FIRST_PIECE_S
    speech = voice.speak(text, request.voice, request.speed)
    try:
        async for spoken in speech:
            if spoken.text:
                yield TranscriptDelta(spoken.text, spoken.at_s)
            for piece in pieces(spoken.samples, spoken.hz, first_s):
                yield piece
                first_s = PIECE_S
    finally:
        # A generator left alone would go on until it is collected.
        if isinstance(speech, AsyncGenerator):
            await speech.aclose()
