from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.animator.degrade import CALM_S, EASE, LATE_S, LATE_STEPS, Degradation, Level

pytestmark = pytest.mark.unit

LATE, EASY = 2 * LATE_S, 0.5 * EASE * LATE_S


class Steps:
    """Gives a policy steps, ten a second."""

    def __init__(self, sessions: int = 16) -> None:
        self.policy = Degradation()
        self.now_s = 50.0
        self.sessions = sessions

    def take(self, number: int, delay_s: float, made_s: float = 0.0) -> tuple[Level, int | None]:
        for _ in range(number):
            self.now_s += max(0.1, delay_s)
            self.policy.note(self.now_s, delay_s, self.sessions, made_s)
        return self.policy.level, self.policy.kept


def test_measures_are_taken_in_their_order() -> None:
    steps = Steps()
    assert steps.take(LATE_STEPS - 1, LATE) == (Level.FULL, None)
    assert steps.take(1, LATE) == (Level.HALF_RATE, None)
    assert steps.take(LATE_STEPS, LATE) == (Level.FEWER_SESSIONS, 12)
    assert steps.take(LATE_STEPS, LATE) == (Level.FEWER_SESSIONS, 9)
    assert steps.take(100 * LATE_STEPS, LATE) == (Level.FEWER_SESSIONS, 1)


def test_one_late_step_is_a_hiccup() -> None:
    steps = Steps()
    for _ in range(20):
        steps.take(LATE_STEPS - 1, LATE)
        assert steps.take(1, EASY) == (Level.FULL, None)


def test_long_step_that_makes_more_than_it_takes_is_not_late() -> None:
    steps = Steps()
    assert steps.take(50, LATE, made_s=1.5 * LATE) == (Level.FULL, None)
    assert steps.take(LATE_STEPS, LATE, made_s=0.5 * LATE) == (Level.HALF_RATE, None)


def test_the_way_back_is_slow_and_the_same() -> None:
    steps = Steps(sessions=4)
    steps.take(3 * LATE_STEPS, LATE)
    assert (steps.policy.level, steps.policy.kept) == (Level.FEWER_SESSIONS, 2)
    calm = int(10 * CALM_S) + 1
    seen = [steps.take(calm, EASY) for _ in range(4)]
    assert seen == [
        (Level.FEWER_SESSIONS, 3),
        (Level.FEWER_SESSIONS, 4),
        (Level.HALF_RATE, None),
        (Level.FULL, None),
    ]


def test_steps_that_are_neither_late_nor_easy_change_nothing() -> None:
    steps = Steps()
    steps.take(LATE_STEPS, LATE)
    assert steps.take(1000, 0.8 * LATE_S) == (Level.HALF_RATE, None)


def test_silence_ends_all_measures() -> None:
    steps = Steps()
    steps.take(2 * LATE_STEPS, LATE)
    steps.now_s += CALM_S + 0.1
    assert steps.take(1, EASY) == (Level.FULL, None)


@given(st.lists(st.tuples(st.floats(0.001, 3.0), st.integers(0, 60), st.floats(0, 3)), max_size=200))
def test_it_always_keeps_somebody_and_a_count_only_at_the_last_level(
    steps: list[tuple[float, int, float]],
) -> None:
    policy = Degradation()
    now_s = 0.0
    for delay_s, sessions, made_s in steps:
        now_s += delay_s
        policy.note(now_s, delay_s, sessions, made_s)
        assert (policy.kept is not None) == (policy.level is Level.FEWER_SESSIONS)
        assert policy.kept is None or policy.kept >= 1
