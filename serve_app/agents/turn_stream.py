"""Which of the user's sound goes to an upstream while it is still being spoken.

Sending a turn's sound as it comes saves the time of sending it when the turn is over. But between turns there
is silence, without end and not free of charge, and what a turn is gets known only at its end. So sound goes
out from the moment it is loud, and at the turn's end what went out is compared with the turn: where they
differ, the turn is sent whole. What the upstream commits is always the turn.

The events are `input_audio_buffer.append`, `.clear` and `.commit` of OpenAI Realtime (GA).
"""

from __future__ import annotations

import base64
from collections import deque
from typing import Any

import numpy as np

from serve_app.agents.base import AGENT_HZ
from serve_app.nouns import Int16

Event = dict[str, Any]

LEAD_S = 0.6
"""Sound from before it was loud that goes out with it."""

QUIET_S = 3.0
"""After so much silence without a turn, what went out is taken back."""

LOUD = 150.0
"""Root mean square, in int16 steps (-47 dBFS), from which sound may be speech."""

LEAST_APPEND_S = 0.1
MOST_APPEND_S = 2.0

MORE_BEFORE_S, MORE_AFTER_S = 1.0, 0.5
"""How far what went out may reach beyond the turn at its ends; it may begin after it by silence only."""

_TAIL_SAMPLES = AGENT_HZ
_MATCH_SAMPLES = AGENT_HZ // 100
_FRAME_SAMPLES = AGENT_HZ // 50
_CLEAR: Event = {"type": "input_audio_buffer.clear"}
_COMMIT: Event = {"type": "input_audio_buffer.commit"}


class TurnStream:
    """One user's sound on its way upstream.

    Args:
        max_turn_s: longest turn; what goes out is bounded by it.
    """

    def __init__(self, max_turn_s: float) -> None:
        self._most = round(max_turn_s * AGENT_HZ)
        self._lead: deque[Int16] = deque()
        self._lead_samples = 0
        self._unsent: list[Int16] = []
        self._unsent_samples = 0
        self._streamed = 0
        self._quiet = 0
        self._tail = b""
        self._is_whole = True

    def hear(self, samples: Int16) -> list[Event]:
        """Take the next [S] samples at AGENT_HZ; return what is to be sent now."""
        if not len(samples):
            return []
        is_loud = _is_loud(samples)
        if not self._streamed:
            self._keep_lead(samples)
            return self._begin() if is_loud else []
        self._quiet = 0 if is_loud else self._quiet + len(samples)
        if self._quiet > QUIET_S * AGENT_HZ or self._streamed > self._most:
            return self.forget()
        return self._stream(samples)

    def lose(self) -> None:
        """Note that an event from `hear` was not sent."""
        self._is_whole = False

    def forget(self) -> list[Event]:
        """Return what takes back everything that went out."""
        events = [_CLEAR] if self._streamed else []
        self._reset()
        return events

    def commit(self, turn: Int16) -> list[Event]:
        """Return what makes `turn` ([S] at AGENT_HZ) an item; the last event is the commit."""
        if len(turn) and self._is_whole and self._streamed and self._matches(turn):
            events = self._flush()
        else:
            events = [_CLEAR] if self._streamed else []
            step = round(MOST_APPEND_S * AGENT_HZ)
            events += [_append(turn[at : at + step]) for at in range(0, len(turn), step)]
        self._reset()
        return [*events, _COMMIT]

    def _reset(self) -> None:
        self._lead.clear()
        self._unsent.clear()
        self._lead_samples = self._unsent_samples = self._streamed = self._quiet = 0
        self._tail = b""
        self._is_whole = True

    def _keep_lead(self, samples: Int16) -> None:
        self._lead.append(samples)
        self._lead_samples += len(samples)
        while self._lead_samples - len(self._lead[0]) >= LEAD_S * AGENT_HZ:
            self._lead_samples -= len(self._lead.popleft())

    def _begin(self) -> list[Event]:
        lead = np.concatenate(self._lead)
        self._lead.clear()
        self._lead_samples = 0
        return self._stream(lead)

    def _stream(self, samples: Int16) -> list[Event]:
        self._streamed += len(samples)
        self._tail = (self._tail + samples.tobytes())[-2 * _TAIL_SAMPLES :]
        self._unsent.append(samples)
        self._unsent_samples += len(samples)
        return self._flush() if self._unsent_samples >= LEAST_APPEND_S * AGENT_HZ else []

    def _flush(self) -> list[Event]:
        if not self._unsent:
            return []
        events = [_append(np.concatenate(self._unsent))]
        self._unsent.clear()
        self._unsent_samples = 0
        return events

    def _matches(self, turn: Int16) -> bool:
        """Return whether what went out is the turn, give or take silence at its ends."""
        end = turn[-_MATCH_SAMPLES:].tobytes()
        at = self._tail.rfind(end)
        if at < 0 or at % 2:
            return False
        after = (len(self._tail) - at - len(end)) // 2
        before = self._streamed - after - len(turn)
        most_before, most_missing = MORE_BEFORE_S * AGENT_HZ, min(LEAD_S * AGENT_HZ, len(turn))
        if after > MORE_AFTER_S * AGENT_HZ or not -most_missing <= before <= most_before:
            return False
        missing = range(0, -before, _FRAME_SAMPLES)
        return not any(_is_loud(turn[at : min(at + _FRAME_SAMPLES, -before)]) for at in missing)


def _is_loud(samples: Int16) -> bool:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float32)))) >= LOUD


def _append(samples: Int16) -> Event:
    sound = base64.b64encode(samples.astype("<i2", copy=False).tobytes()).decode("ascii")
    return {"type": "input_audio_buffer.append", "audio": sound}
