"""Speech without an end marker: an utterance ends when its client pauses and it has been played."""

from __future__ import annotations

import asyncio
from typing import Protocol

from serve_app.clock import Clock
from serve_app.nouns import Int16

PAUSE_S = 0.3
"""Live chunks come every few tens of milliseconds."""

TAIL_S = 0.15
"""An utterance ends so long before it has been played, so that its last frames are made in time."""


class SpeechSink(Protocol):
    """Takes utterances; a `SessionLink`."""

    def begin(self, client_index: int) -> None:
        """Open an utterance."""
        ...

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech to it."""
        ...

    def end(self) -> None:
        """End it."""
        ...


class OpenEndedSpeech:
    """Cuts a stream of speech without marks into utterances.

    Args:
        sink: takes them.
        clock: the time.
        pause_s: without more speech for so long the client pauses.
    """

    def __init__(self, sink: SpeechSink, clock: Clock, pause_s: float = PAUSE_S) -> None:
        self._sink = sink
        self._clock = clock
        self._pause_s = pause_s
        self._next_index = 0
        self._is_open = False
        self._hz = 0
        self._ends_s = 0.0
        self._played_s = 0.0
        self._news = asyncio.Event()

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech, [S] int16 mono at `hz`; opens an utterance where none is open.

        Raises:
            SpeechOverrun: too much is unplayed; nothing was taken.
        """
        now_s = self._clock.now_s()
        if not self._is_open or hz != self._hz:
            self.end()
            self._sink.begin(self._next_index)
            self._next_index += 1
            self._is_open, self._hz = True, hz
            self._played_s = max(self._played_s, now_s)
        self._sink.feed(samples, hz)
        self._played_s = max(self._played_s, now_s) + len(samples) / hz
        self._ends_s = max(now_s + self._pause_s, self._played_s - TAIL_S)
        self._news.set()

    def end(self) -> None:
        """End the open utterance, if there is one."""
        if self._is_open:
            self._is_open = False
            self._sink.end()

    def interrupted(self) -> None:
        """Forget the open utterance: the session dropped all speech."""
        self._is_open = False
        self._played_s = 0.0

    async def run(self) -> None:
        """End utterances when their time has come, for ever."""
        while True:
            if not self._is_open:
                self._news.clear()
                await self._news.wait()
            await self._clock.sleep_until(self._ends_s)
            if self._is_open and self._clock.now_s() >= self._ends_s:
                self.end()
