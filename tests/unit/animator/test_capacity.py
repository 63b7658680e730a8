from __future__ import annotations

import pytest

from serve_app.animator.capacity import LOOK_BACK_S, Capacity, Load, measure
from serve_app.errors import ModelOutOfMemory

pytestmark = pytest.mark.unit


class Device:
    """Takes a fixed time for a step and some for each window; its clock is its own."""

    def __init__(self, step_s: float, window_s: float, room: int = 1000) -> None:
        self.step_s, self.window_s, self.room = step_s, window_s, room
        self.s = 0.0
        self.sizes: list[int] = []

    def run(self, size: int) -> None:
        self.sizes.append(size)
        if size > self.room:
            raise ModelOutOfMemory("full")
        self.s += self.step_s + size * self.window_s

    def now_s(self) -> float:
        return self.s

    def capacity(self) -> Capacity:
        return measure(self.run, fps=25, frames=5, now_s=self.now_s)


def test_largest_batch_within_the_deadline_counts() -> None:
    device = Device(0.02, 0.01)
    capacity = device.capacity()
    assert capacity.frames_per_s == pytest.approx(16 * 5 / 0.18)
    assert capacity.sessions == 14
    assert device.sizes == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]


def test_measuring_ends_where_larger_batches_gain_nothing() -> None:
    device = Device(0.0, 0.01)
    assert device.capacity().frames_per_s == pytest.approx(500)
    assert max(device.sizes) == 2


def test_slow_device_carries_one_session_at_least() -> None:
    capacity = Device(0.5, 1.0).capacity()
    assert capacity.frames_per_s == pytest.approx(5 / 1.5)
    assert capacity.sessions == 1


def test_memory_bounds_the_batch_and_none_at_all_means_no_session() -> None:
    assert Device(0.02, 0.001, room=4).capacity().frames_per_s == pytest.approx(20 / 0.024)
    assert Device(0.02, 0.001, room=0).capacity() == Capacity(0.0, 0)


def test_load_is_what_was_asked_for_lately() -> None:
    load = Load(Capacity(100.0, 3))
    assert load.share(0.0) == 0.0
    for tenth in range(100):
        load.note(tenth / 10, 5)
    assert load.share(9.9) == pytest.approx(0.5)
    assert load.share(9.9 + LOOK_BACK_S / 2) == pytest.approx(0.25, abs=0.02)
    assert load.share(30.0) == 0.0
    assert Load(Capacity(None, 8)).share(0.0) == 0.0
