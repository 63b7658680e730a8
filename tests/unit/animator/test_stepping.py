from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from serve_app.animator.stepping import Stepper
from serve_app.avatars.store import AvatarStore
from serve_app.errors import ReplicaLost
from serve_app.models.base import Model
from serve_app.models.tracer import Tracer
from serve_app.nouns import Clip, ClipFailure, Window
from tests.unit.models.speech import voiced, windows

pytestmark = pytest.mark.unit


class Moody:
    """The tracer, with a device that raises when a test says so."""

    def __init__(self) -> None:
        self.tracer = Tracer(fps=25, device="cpu")
        self.tracer.prepare(AvatarStore(None).load("default"))
        self.batches: list[list[int]] = []
        self.error: Exception | None = None
        self.bad_frame: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracer, name)

    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        self.batches.append([window.first_frame for window in windows])
        if self.error is not None and any(window.first_frame == self.bad_frame for window in windows):
            raise self.error
        return self.tracer.animate(windows)


@pytest.fixture
def model() -> Moody:
    return Moody()


def sound(model: Moody, *sizes: int) -> list[Window]:
    return list(windows(model.tracer.spec, voiced("ah", sum(sizes) / 25), sizes))


def run(model: Moody, stepper: Stepper, every: int = 1) -> list[tuple[int, int] | str]:
    results = stepper.run(sound(model, 4, 4, 4), every=every)
    return [(r.first_frame, len(r.patches)) if isinstance(r, Clip) else r.code for r in results]


@pytest.mark.parametrize(
    ("max_frames", "batches"),
    [(None, [[0, 4, 8]]), (8, [[0, 4], [8]]), (5, [[0], [4], [8]]), (1, [[0], [4], [8]])],
)
def test_batches_hold_at_most_so_many_frames(
    model: Moody, max_frames: int | None, batches: list[list[int]]
) -> None:
    stepper = Stepper(cast("Model", model))
    stepper.max_frames = max_frames
    assert run(model, stepper) == [(0, 4), (4, 4), (8, 4)]
    assert model.batches == batches


def test_thinned_windows_share_one_batch(model: Moody) -> None:
    assert run(model, Stepper(cast("Model", model)), every=2) == [(0, 4), (4, 4), (8, 4)]
    assert model.batches == [[0, 2, 4, 6, 8, 10]]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError(), "model_error"),
        (RuntimeError("CUDA error: out of memory"), "model_error"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "model_out_of_memory"),
    ],
)
def test_a_bad_window_fails_alone(model: Moody, error: Exception, code: str) -> None:
    model.error, model.bad_frame = error, 4
    assert run(model, Stepper(cast("Model", model))) == [(0, 4), code, (8, 4)]
    assert model.batches == [[0, 4, 8], [0], [4], [8]]


def test_lost_device_is_not_tried_again(model: Moody) -> None:
    model.error, model.bad_frame = RuntimeError("CUDA error: device-side assert triggered"), 4
    stepper = Stepper(cast("Model", model))
    with pytest.raises(ReplicaLost):
        run(model, stepper)
    assert stepper.is_lost
    assert model.batches == [[0, 4, 8]]
