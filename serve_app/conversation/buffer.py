"""The input audio buffer: holds the user's sound until a turn is made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from serve_app.agents.base import AGENT_HZ
from serve_app.conversation.model import TurnDetection
from serve_app.media.pcm import Resampler
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.turns import SpeechStarted, TurnEvent, TurnSettings

KEPT_S = 2.0
"""Sound kept while nobody speaks, beyond the padding: a detector decides after the fact."""


class Detector(Protocol):
    """Finds turns in sound; `speech.turns.TurnDetector` is one."""

    settings: TurnSettings

    def feed(self, samples: Int16) -> list[TurnEvent]:
        """Hear [S] int16 at SPEECH_HZ; return what it started and stopped."""
        ...

    def reset(self) -> None:
        """Drop the turn that is under way; positions go on counting."""
        ...


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The user began to speak; `start_ms` counts from the first sound ever put into the buffer."""

    start_ms: int


@dataclass(frozen=True, slots=True)
class TurnStopped:
    """The user's turn is over; `samples` is all of it, [S] int16 at AGENT_HZ."""

    end_ms: int
    samples: Int16


Turn: TypeAlias = TurnStarted | TurnStopped


class InputBuffer:
    """One user's sound at AGENT_HZ, and the turns in it.

    Args:
        turns: makes a detector.
        max_turn_s: longest turn; longer ones are cut in two.
    """

    def __init__(self, turns: Callable[[TurnSettings], Detector], max_turn_s: float) -> None:
        self._turns = turns
        self._most = round(max_turn_s * AGENT_HZ)
        self._chunks: deque[Int16] = deque()
        self._start = 0
        self._end = 0
        self._detector: Detector | None = None
        self._to_speech = Resampler(AGENT_HZ, SPEECH_HZ)
        self._origin = 0
        self._turn_start: int | None = None

    @property
    def position_ms(self) -> int:
        """Milliseconds of sound ever put in."""
        return _ms(self._end)

    @property
    def held_s(self) -> float:
        """Seconds of sound held now."""
        return (self._end - self._start) / AGENT_HZ

    @property
    def is_in_turn(self) -> bool:
        """Whether a turn has been heard to start and not to stop."""
        return self._turn_start is not None

    def room_for(self, seconds: float) -> bool:
        """Return whether so much more can be held; turns that are found leave by themselves."""
        return self._detector is not None or self._end - self._start + seconds * AGENT_HZ <= self._most

    def listen(self, detection: TurnDetection | None) -> None:
        """Find turns from now on as `detection` says; None: the client makes them itself."""
        if detection is None:
            self._detector = None
            self._turn_start = None
        elif self._detector is None:
            self._detector = self._turns(detection.settings())
            self._to_speech = Resampler(AGENT_HZ, SPEECH_HZ)
            self._origin = self._end
        else:
            self._detector.settings = detection.settings()

    def add(self, samples: Int16) -> list[Turn]:
        """Hold [S] int16 at AGENT_HZ; return the turns that start and stop in it, in order."""
        self._chunks.append(samples)
        self._end += len(samples)
        turns = [] if self._detector is None else self._find(self._detector, samples)
        self._trim()
        return turns

    def take(self) -> Int16:
        """Return all sound held and hold nothing; a turn that is under way is over."""
        samples = self._cut(self._start, self._end)
        self.clear()
        return samples

    def clear(self) -> None:
        """Hold nothing; a turn that is under way never was."""
        self._chunks.clear()
        self._start = self._end
        self._turn_start = None
        if self._detector is not None:
            self._detector.reset()

    def _find(self, detector: Detector, samples: Int16) -> list[Turn]:
        turns: list[Turn] = []
        for event in detector.feed(self._to_speech.push(samples)):
            at = self._origin + event.at_sample * AGENT_HZ // SPEECH_HZ
            if isinstance(event, SpeechStarted):
                self._turn_start = max(at, self._start)
                turns.append(TurnStarted(_ms(self._turn_start)))
            elif self._turn_start is not None:
                turns.append(self._stop(self._turn_start, min(at, self._end)))
        if self._turn_start is not None and self._end - self._turn_start >= self._most:
            turns.append(self._stop(self._turn_start, self._end))
            detector.reset()
        return turns

    def _stop(self, start: int, end: int) -> TurnStopped:
        self._turn_start = None
        samples = self._cut(start, end)
        self._drop_before(end)
        return TurnStopped(_ms(end), samples)

    def _trim(self) -> None:
        if self._detector is None:
            self._drop_before(self._end - self._most)
        elif self._turn_start is None:
            kept_s = KEPT_S + self._detector.settings.prefix_padding_s
            self._drop_before(self._end - round(kept_s * AGENT_HZ))

    def _drop_before(self, position: int) -> None:
        while self._chunks and self._start + len(self._chunks[0]) <= position:
            self._start += len(self._chunks.popleft())
        if self._chunks and self._start < position:
            # A copy, so that what is dropped is really let go.
            self._chunks[0] = self._chunks[0][position - self._start :].copy()
            self._start = position

    def _cut(self, start: int, end: int) -> Int16:
        if not self._chunks:
            return np.zeros(0, np.int16)
        held = np.concatenate(self._chunks)
        return held[start - self._start : max(start, end) - self._start].copy()


def _ms(samples: int) -> int:
    return samples * 1_000 // AGENT_HZ
