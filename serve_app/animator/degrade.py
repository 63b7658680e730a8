"""What a model does that falls behind.

In this order: it makes every second frame; then the sessions that came last rest on the base loop, with their
sound. It takes the same way back, more slowly. Pure: told of every step, it answers how to make the next one.
"""

from __future__ import annotations

import enum
import math

LATE_S = 0.25
"""A window that waits and is made for longer is late: a session holds little more than that at its start."""

EASE = 0.4
"""Share of LATE_S below which a step is easy: twice the work would still be in time."""

LATE_STEPS = 3
"""So many late steps without an easy one between them, and the next measure is taken."""

CALM_S = 5.0
"""How long all steps must be easy before a measure is taken back."""

SHED = 0.75
"""Share of the sessions that go on when too many speak."""


class Level(enum.IntEnum):
    """How much is saved."""

    FULL = 0
    HALF_RATE = 1
    FEWER_SESSIONS = 2


class Degradation:
    """Decides from the delay of each step.

    Attributes:
        level: of the next step.
        kept: speaking sessions that the model animates; those beyond them, the last to come, rest. None: all.
    """

    def __init__(self) -> None:
        self.level = Level.FULL
        self.kept: int | None = None
        self._late = 0
        self._calm_since_s: float | None = None
        self._last_s: float | None = None

    def note(self, now_s: float, delay_s: float, sessions: int, made_s: float = 0.0) -> None:
        """Take account of a step.

        Args:
            now_s: when it ended.
            delay_s: how long its windows waited for it and were in it.
            sessions: how many speak now, those that rest included.
            made_s: speech it covered for each session. A long step that makes more than it takes is one of
                sessions that fill up what they hold, and not late.
        """
        idle_s = 0.0 if self._last_s is None else now_s - delay_s - self._last_s
        self._last_s = now_s
        if idle_s >= CALM_S:
            # Nothing was asked for meanwhile: what made it late is over.
            self.level, self.kept, self._late, self._calm_since_s = Level.FULL, None, 0, now_s
        if delay_s > max(LATE_S, made_s):
            self._calm_since_s = None
            self._late += 1
            if self._late >= LATE_STEPS:
                self._late = 0
                self._save(sessions)
        elif delay_s > EASE * LATE_S:
            self._calm_since_s = None
        else:
            self._late = 0
            self._calm_since_s = now_s if self._calm_since_s is None else self._calm_since_s
            if now_s - self._calm_since_s >= CALM_S:
                self._calm_since_s = now_s
                self._return(sessions)

    def _save(self, sessions: int) -> None:
        if self.level is Level.FULL:
            self.level = Level.HALF_RATE
            return
        self.level = Level.FEWER_SESSIONS
        self.kept = max(1, math.floor(SHED * min(sessions, self.kept or sessions)))

    def _return(self, sessions: int) -> None:
        if self.kept is not None and self.kept < sessions:
            self.kept = self.kept + max(1, self.kept // 8)
            return
        self.kept = None
        self.level = Level.HALF_RATE if self.level is Level.FEWER_SESSIONS else Level.FULL
