"""Live sessions on one device, in real time: their speech arrives at its own pace, with jitter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serve_app.models.base import Model
from serve_app.nouns import Window
from tests.benchmarks.neural_subjects import animate, voice, window

TICK_S = 0.1
"""How much speech a session sends at a time, as SpeechConfig.tick_s."""

JITTER_S = 0.02
"""Speech arrives up to so much late."""

PLAYOUT_S = 0.2
"""A frame is shown so long after the tick that ends its speech; one that is made later is late, and its
session is not smooth."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What N sessions saw.

    Attributes:
        sessions: how many.
        smooth: those of which no frame was late.
        p50_ms: from a window's arrival to its clip.
        p99_ms: likewise.
        worst_gap_ms: longest time that one picture stood; 40 is perfect at 25 frames a second.
        batch: mean windows in a step.
    """

    sessions: int
    smooth: int
    p50_ms: float
    p99_ms: float
    worst_gap_ms: float
    batch: float


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A window, when it comes, and when its first frame is shown."""

    at_s: float
    show_s: float
    session: int
    window: Window


def simulate(
    model: Model,
    sessions: int,
    seconds: float,
    *,
    max_windows: int = 64,
    now_s: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Serve sessions that all speak: whatever has arrived when a step ends is the next step.

    Args:
        model: what animates.
        sessions: how many.
        seconds: of speech each.
        max_windows: in a step.
        now_s: the clock.
        sleep: waits.
    """
    arrivals = _arrivals(model, sessions, seconds)
    fps = model.spec.fps
    shown: list[list[float]] = [[] for _ in range(sessions)]
    late = [False] * sessions
    waits: list[float] = []
    steps = 0
    start_s = now_s() + 0.05
    at = 0
    while at < len(arrivals):
        until = at
        while (
            until < len(arrivals) and until - at < max_windows and arrivals[until].at_s <= now_s() - start_s
        ):
            until += 1
        if until == at:
            sleep(max(0.0, arrivals[at].at_s - (now_s() - start_s)))
            continue
        due = arrivals[at:until]
        at = until
        animate(model, [arrival.window for arrival in due])
        done_s = now_s() - start_s
        steps += 1
        for arrival in due:
            waits.append(done_s - arrival.at_s)
            for frame in range(arrival.window.num_frames):
                planned_s = arrival.show_s + frame / fps
                late[arrival.session] |= done_s > planned_s
                shown[arrival.session].append(max(done_s, planned_s))
    gaps = [float(np.diff(times).max()) for times in shown if len(times) > 1]
    return Watched(
        sessions,
        late.count(False),
        float(np.percentile(waits, 50)) * 1000,
        float(np.percentile(waits, 99)) * 1000,
        max(gaps) * 1000,
        len(arrivals) / steps,
    )


def _arrivals(model: Model, sessions: int, seconds: float) -> list[_Arrival]:
    rng = np.random.default_rng(5)
    fps = model.spec.fps
    found: list[_Arrival] = []
    for session in range(sessions):
        sound = voice(3.0, session)
        phase_s = float(rng.uniform(0, TICK_S))
        sent = 0
        for tick in range(1, round(seconds / TICK_S) + 1):
            frames = int(tick * TICK_S * fps + 1e-9) - sent
            at_s = phase_s + tick * TICK_S + float(rng.uniform(0, JITTER_S))
            show_s = phase_s + TICK_S + sent / fps + PLAYOUT_S
            found.append(_Arrival(at_s, show_s, session, window(model, session, sent, frames, sound)))
            sent += frames
    return sorted(found, key=lambda arrival: arrival.at_s)
