"""Hears a user's turns: where in the incoming sound speech starts and stops.

No input or output: sound goes in, events come out. The settings and the positions in the events mean what
they mean in OpenAI Realtime (protocols 4.5 and 4.8): a turn's sound starts `prefix_padding_s` before the
first speech and ends with the silence that ended it.

Hysteresis as in silero-vad's own iterator: speech is what reaches `threshold`; silence begins below
`threshold` - 0.15 and is broken only by speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from serve_app.errors import InvalidMessage
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.vad import STEP

Eagerness: TypeAlias = Literal["low", "medium", "high", "auto"]

LONGEST_PADDING_S = 5.0
LONGEST_SILENCE_S = 10.0

_HYSTERESIS = 0.15
_LOWEST_QUIET = 0.01

_SURE = 0.85
"""A step this likely to be speech starts a turn alone."""

_RISING = 0.4
"""Share of the threshold that the step before must reach else: a knock or a click is over by then."""

_PATIENCE = 1.5
"""After a pause within a turn, semantic settings wait for a silence this much longer than the pause."""

_EAGERNESS: dict[Eagerness, tuple[float, float]] = {
    "low": (1.2, 8.0),
    "medium": (0.7, 4.0),
    "high": (0.35, 2.0),
    "auto": (0.7, 4.0),
}
"""Shortest silence that ends a turn and longest wait, in seconds; the waits are OpenAI's."""


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """How turns are heard; the defaults are those of OpenAI's `server_vad`.

    Attributes:
        threshold: probability from which sound counts as speech, 0 to 1.
        prefix_padding_s: sound before the first speech that belongs to the turn.
        silence_s: silence that ends a turn.
        patience: when above 0, each pause within a turn makes the turn wait for a silence `patience`
            times as long as the longest pause so far: who hesitates is given more time.
        longest_wait_s: silence that ends every turn, however patient.

    Raises:
        InvalidMessage: a value is out of its range.
    """

    threshold: float = 0.5
    prefix_padding_s: float = 0.3
    silence_s: float = 0.5
    patience: float = 0.0
    longest_wait_s: float = LONGEST_SILENCE_S

    def __post_init__(self) -> None:
        _check("threshold", self.threshold, 1.0)
        _check("prefix padding in seconds", self.prefix_padding_s, LONGEST_PADDING_S)
        _check("silence in seconds", self.silence_s, LONGEST_SILENCE_S)
        _check("patience", self.patience, 10.0)
        _check("longest wait in seconds", self.longest_wait_s, LONGEST_SILENCE_S)

    @classmethod
    def semantic(cls, eagerness: Eagerness = "auto") -> TurnSettings:
        """Return settings that stand in for OpenAI's `semantic_vad`.

        OpenAI's asks a model whether the user has finished. This does not know what is said: it goes by
        the user's pauses, with a shortest silence for each eagerness and OpenAI's longest waits of 8, 4
        and 2 s for low, medium (also auto) and high.

        Raises:
            InvalidMessage: no such eagerness.
        """
        if eagerness not in _EAGERNESS:
            raise InvalidMessage(f"eagerness: expected one of {', '.join(_EAGERNESS)}, found {eagerness!r}")
        silence_s, longest_wait_s = _EAGERNESS[eagerness]
        return cls(silence_s=silence_s, patience=_PATIENCE, longest_wait_s=longest_wait_s)


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user began to speak. Positions are samples at SPEECH_HZ since the detector's beginning.

    Attributes:
        at_sample: where the turn's sound starts: the first speech less the padding, but not before the
            end of the turn before; `audio_start_ms` on the wire.
        speech_sample: where the first speech was heard.
        decided_sample: how much had been heard when this was decided.
    """

    at_sample: int
    speech_sample: int
    decided_sample: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The user finished a turn. Positions are samples at SPEECH_HZ since the detector's beginning.

    Attributes:
        at_sample: where the turn's sound ends, the silence that ended it included; `audio_end_ms` on the
            wire.
        speech_sample: where the silence began.
        decided_sample: how much had been heard when this was decided.
    """

    at_sample: int
    speech_sample: int
    decided_sample: int


TurnEvent: TypeAlias = SpeechStarted | SpeechStopped


class Detector(Protocol):
    """Tells how likely each step of sound is speech; `vad.SpeechDetector` is one."""

    def probability(self, samples: Int16) -> float:
        """Return how likely [STEP] int16 at SPEECH_HZ are speech, from 0 to 1."""
        ...

    def reset(self) -> None:
        """Forget what was heard before."""
        ...


class TurnDetector:
    """Finds the turns in one user's sound.

    Args:
        settings: how turns are heard; may be replaced at any time, also within a turn.
        detector: hears the speech; used by nobody else.
    """

    def __init__(self, settings: TurnSettings, detector: Detector) -> None:
        self.settings = settings
        self._detector = detector
        self._waiting = np.empty(0, np.int16)
        self._position = 0
        self._turn_end = 0
        self._first_speech: int | None = None
        self._quiet_since: int | None = None
        self._longest_pause = 0
        self._is_speaking = False

    @property
    def position(self) -> int:
        """Samples heard since the beginning; those that do not fill a step yet are not among them."""
        return self._position

    @property
    def is_speaking(self) -> bool:
        """Whether a turn has started and not stopped."""
        return self._is_speaking

    def feed(self, samples: Int16) -> list[TurnEvent]:
        """Hear more sound, and return what it started and stopped, in order.

        Takes about 3 ms for each second of sound: feed long pieces in parts.

        Args:
            samples: [S] int16 mono at SPEECH_HZ, of any length.
        """
        heard = np.concatenate([self._waiting, samples]) if self._waiting.size else samples
        whole = heard.size - heard.size % STEP
        events = []
        for start in range(0, whole, STEP):
            probability = self._detector.probability(heard[start : start + STEP])
            self._position += STEP
            event = self._hear_speech(probability) if self._is_speaking else self._hear_silence(probability)
            if event is not None:
                events.append(event)
        self._waiting = heard[whole:].copy()
        return events

    def reset(self) -> None:
        """Drop the turn that is under way and forget what was heard; positions go on counting."""
        self._detector.reset()
        self._turn_end = self._position + self._waiting.size
        self._first_speech = None
        self._quiet_since = None
        self._is_speaking = False

    def _hear_silence(self, probability: float) -> SpeechStarted | None:
        threshold = self.settings.threshold
        if probability < threshold * _RISING:
            self._first_speech = None
            return None
        is_second = self._first_speech is not None
        first = self._position - STEP if self._first_speech is None else self._first_speech
        if not (probability >= max(_SURE, threshold) or (is_second and probability >= threshold)):
            self._first_speech = self._position - STEP
            return None
        self._is_speaking = True
        self._first_speech = None
        self._quiet_since = None
        self._longest_pause = 0
        padding = round(self.settings.prefix_padding_s * SPEECH_HZ)
        return SpeechStarted(max(self._turn_end, first - padding), first, self._position)

    def _hear_speech(self, probability: float) -> SpeechStopped | None:
        if probability >= self.settings.threshold:
            if self._quiet_since is not None:
                self._longest_pause = max(self._longest_pause, self._position - STEP - self._quiet_since)
            self._quiet_since = None
            return None
        if self._quiet_since is None:
            if probability >= max(self.settings.threshold - _HYSTERESIS, _LOWEST_QUIET):
                return None
            self._quiet_since = self._position - STEP
        needed = self._needed_silence()
        if self._position - self._quiet_since < needed:
            return None
        stopped = SpeechStopped(self._quiet_since + needed, self._quiet_since, self._position)
        self._is_speaking = False
        self._quiet_since = None
        self._turn_end = stopped.at_sample
        return stopped

    def _needed_silence(self) -> int:
        settings = self.settings
        patient_s = settings.patience * self._longest_pause / SPEECH_HZ
        return round(min(max(settings.silence_s, patient_s), settings.longest_wait_s) * SPEECH_HZ)


def _check(name: str, value: float, highest: float) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= highest):
        raise InvalidMessage(f"{name}: expected 0 to {highest:g}, found {value!r}")
