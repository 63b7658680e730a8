"""The input buffer, with the real turn detector behind it; only the ear that tells speech is a fake."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.agents.base import AGENT_HZ
from serve_app.conversation.buffer import KEPT_S, InputBuffer, Turn, TurnStarted, TurnStopped
from serve_app.conversation.model import TurnDetection
from serve_app.nouns import Int16
from serve_app.speech.turns import TurnDetector

pytestmark = pytest.mark.unit


class LoudIsSpeech:
    """Takes loud steps for speech."""

    def probability(self, samples: Int16) -> float:
        return 1.0 if np.abs(samples.astype(int)).mean() > 100 else 0.0

    def reset(self) -> None:
        pass


SERVER_VAD = TurnDetection()


def buffer(max_turn_s: float = 60.0, detection: TurnDetection | None = SERVER_VAD) -> InputBuffer:
    made = InputBuffer(lambda settings: TurnDetector(settings, LoudIsSpeech()), max_turn_s)
    made.listen(detection)
    return made


def add(to: InputBuffer, seconds: float, level: int = 0) -> list[Turn]:
    """Put in sound of one level, in pieces of 20 ms."""
    turns: list[Turn] = []
    for _ in range(round(seconds / 0.02)):
        turns += to.add(np.full(480, level, np.int16))
    return turns


def test_a_turn_has_its_padding_before_and_its_silence_after() -> None:
    made = buffer()
    add(made, 3.0)
    turns = add(made, 1.0, 1000) + add(made, 1.0)
    started, stopped = turns
    assert isinstance(started, TurnStarted)
    assert isinstance(stopped, TurnStopped)
    assert started.start_ms == pytest.approx(2_700, abs=40)
    assert stopped.end_ms == pytest.approx(4_500, abs=40)
    assert len(stopped.samples) * 1000 / AGENT_HZ == pytest.approx(stopped.end_ms - started.start_ms, abs=1)
    loud = np.flatnonzero(stopped.samples == 1000)
    assert len(loud) == AGENT_HZ
    assert loud[0] / AGENT_HZ == pytest.approx(0.3, abs=0.04)


def test_little_is_held_while_nobody_speaks() -> None:
    made = buffer()
    add(made, 100.0)
    assert made.held_s == pytest.approx(KEPT_S + 0.3, abs=0.03)


def test_without_detection_all_is_held_up_to_the_longest_turn() -> None:
    made = buffer(2.0, None)
    add(made, 1.5, 5)
    assert made.held_s == pytest.approx(1.5)
    assert made.room_for(0.5)
    assert not made.room_for(0.6)
    add(made, 1.0, 7)
    samples = made.take()
    assert len(samples) == 2 * AGENT_HZ
    assert (samples[:AGENT_HZ] == 5).all()
    assert (samples[AGENT_HZ:] == 7).all()
    assert made.held_s == 0
    assert made.position_ms == 2_500


def test_positions_go_on_through_clearing_and_new_settings() -> None:
    made = buffer()
    add(made, 1.0, 1000)
    made.clear()
    assert not made.is_in_turn
    made.listen(None)
    add(made, 1.0)
    made.listen(TurnDetection(silence_duration_ms=200))
    add(made, 1.0)
    turns = add(made, 0.5, 1000) + add(made, 0.5)
    assert isinstance(turns[0], TurnStarted)
    assert isinstance(turns[1], TurnStopped)
    assert turns[0].start_ms == pytest.approx(2_700, abs=40)
    assert turns[1].end_ms == pytest.approx(3_700, abs=40)


def test_a_turn_that_never_ends_is_cut_and_begins_anew() -> None:
    made = buffer(1.0)
    turns = add(made, 2.5, 1000)
    assert [type(turn) for turn in turns] == [TurnStarted, TurnStopped, TurnStarted, TurnStopped, TurnStarted]
    assert all(len(turn.samples) <= 1.05 * AGENT_HZ for turn in turns if isinstance(turn, TurnStopped))
