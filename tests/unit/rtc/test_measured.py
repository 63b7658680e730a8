"""What is told of jobs on encoder threads."""

from __future__ import annotations

import threading
import time

import pytest

from serve_app.rtc.measured import MeasuredExecutor

pytestmark = pytest.mark.unit


def test_a_job_behind_another_is_told_with_its_wait_and_its_own_time() -> None:
    told: list[tuple[float, float]] = []
    gate = threading.Event()
    with MeasuredExecutor(1, lambda waited_s, ran_s: told.append((waited_s, ran_s))) as executor:
        first = executor.submit(gate.wait, 10.0)
        second = executor.submit(max, 3, 5)
        time.sleep(0.05)
        gate.set()
        assert (first.result(), second.result()) == (True, 5)
    (_, first_ran_s), (second_waited_s, second_ran_s) = told
    assert first_ran_s >= 0.05
    assert second_waited_s >= 0.05
    assert second_ran_s < 0.05


def test_a_job_that_raises_is_told_as_well_and_raises_where_it_is_awaited() -> None:
    told: list[tuple[float, float]] = []

    def fail() -> None:
        raise ValueError("x264")

    with MeasuredExecutor(1, lambda waited_s, ran_s: told.append((waited_s, ran_s))) as executor:
        failed = executor.submit(fail).exception()
    assert isinstance(failed, ValueError)
    assert len(told) == 1
