from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from serve_app.animator.capacity import LOOK_BACK_S
from serve_app.animator.degrade import Degradation
from serve_app.animator.replica import Animator
from serve_app.config import AnimatorConfig, AppConfig
from serve_app.errors import AdmissionRefused, ModelOutOfMemory, ReplicaLost
from serve_app.nouns import AVATAR_PREPARING, SPEECH_HZ, Clip, ClipFailure, Window, WindowBatch

pytestmark = pytest.mark.unit

CONFIG = AppConfig(model="tracer", animators={"tracer": AnimatorConfig(device="cpu")})


@pytest.fixture(scope="module")
def animator() -> Animator:
    return Animator("tracer", CONFIG)


def window(animator: Animator, session: str, frames: int, avatar: str = "default", first: int = 0) -> Window:
    spec = animator._model.spec
    size = spec.left_context + spec.lookahead + -(-frames * SPEECH_HZ // spec.fps)
    return Window(
        session, 0, 0, avatar, first, frames, 0, np.full(size, 3000, np.int16), spec.left_context, False
    )


def test_batches_of_all_callers_share_one_step_and_answers_keep_their_order(animator: Animator) -> None:
    batches = [
        WindowBatch((window(animator, "a", 3), window(animator, "b", 6))),
        WindowBatch((window(animator, "c", 2, first=7),)),
    ]
    answers = animator._step(batches)
    shapes = [
        [(r.session_id, r.first_frame, len(r.patches)) for r in answer.results if isinstance(r, Clip)]
        for answer in answers
    ]
    assert shapes == [[("a", 0, 3), ("b", 0, 6)], [("c", 7, 2)]]
    assert [answer.batch_windows for answer in answers] == [3, 3]


def test_unknown_avatar_fails_its_own_window_only(animator: Animator) -> None:
    batch = WindowBatch((window(animator, "a", 1, "nobody"), window(animator, "b", 1)))
    codes: list[str] = []
    while not codes or codes[-1] == AVATAR_PREPARING:
        (answer,) = animator._step([batch])
        bad, good = answer.results
        assert isinstance(good, Clip)
        assert isinstance(bad, ClipFailure)
        codes.append(bad.code)
    assert codes[-1] == "avatar_invalid"


def test_an_avatar_is_prepared_beside_the_steps(animator: Animator, monkeypatch: pytest.MonkeyPatch) -> None:
    store = animator._store
    bundle = replace(store.load("default"), avatar_id="other")
    monkeypatch.setattr(store, "load", lambda _: bundle)
    batch = WindowBatch((window(animator, "a", 1, "other"),))
    while not isinstance(animator._step([batch])[0].results[0], Clip):
        pass
    assert animator._avatars["other"].done()


def test_a_step_that_raises_is_tried_window_by_window(
    animator: Animator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = animator._model.animate

    def fragile(windows: list[Window]) -> list[Clip | ClipFailure]:
        if any(w.session_id == "bad" for w in windows):
            raise ZeroDivisionError
        return whole(windows)

    monkeypatch.setattr(animator._model, "animate", fragile)
    (answer,) = animator._step([WindowBatch((window(animator, "bad", 1), window(animator, "good", 1)))])
    assert isinstance(answer.results[0], ClipFailure)
    assert "ZeroDivisionError" in answer.results[0].detail
    assert isinstance(answer.results[1], Clip)


def test_autoscaling_counts_sessions_not_windows(animator: Animator) -> None:
    animator._seen.clear()
    for _ in range(3):
        animator._step([WindowBatch((window(animator, "a", 1), window(animator, "b", 1)))])
    assert animator.record_autoscaling_stats() == {"sessions": 2.0, "capacity": 8.0}


MEASURED = AppConfig(
    model="tracer",
    animators={"tracer": AnimatorConfig(device="cpu", sessions_per_replica=None, degrade="auto")},
)


@pytest.fixture
def measured() -> Animator:
    return Animator("tracer", MEASURED)


async def test_capacity_is_measured_and_told_to_the_autoscaler(measured: Animator) -> None:
    capacity = await measured.capacity()
    assert capacity.frames_per_s is not None
    assert capacity.sessions == int(0.8 * capacity.frames_per_s / 30)
    assert measured.record_autoscaling_stats() == {"sessions": 0.0, "capacity": float(capacity.sessions)}
    await measured.admit()


async def test_full_replica_admits_nobody_and_counts_who_came(measured: Animator) -> None:
    rate = (await measured.capacity()).frames_per_s
    assert rate is not None
    measured._load.note(time.monotonic(), int(rate * LOOK_BACK_S))
    with pytest.raises(AdmissionRefused, match=r"'tracer' has no room.* 100% of the frames"):
        await measured.admit()
    assert measured.record_autoscaling_stats()["sessions"] == 1.0


async def test_replica_without_memory_lives_on_and_admits_nobody(
    measured: Animator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured._model.animate

    def crowded(windows: list[Window]) -> list[Clip | ClipFailure]:
        if any(w.num_frames > 2 for w in windows):
            raise ModelOutOfMemory("a batch of 1 does not fit")
        return whole(windows)

    monkeypatch.setattr(measured._model, "animate", crowded)
    batch = WindowBatch((window(measured, "a", 2), window(measured, "b", 3)))
    good, bad = measured._step([batch])[0].results
    assert isinstance(good, Clip)
    assert isinstance(bad, ClipFailure)
    assert bad.code == "model_out_of_memory"
    with pytest.raises(AdmissionRefused, match="memory does not suffice"):
        await measured.admit()
    measured.check_health()


def test_lost_device_is_told_to_callers_and_to_serve(
    measured: Animator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: list[Window]) -> list[Clip | ClipFailure]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    measured.check_health()
    monkeypatch.setattr(measured._model, "animate", gone)
    with pytest.raises(ReplicaLost):
        measured._step([WindowBatch((window(measured, "a", 2),))])
    with pytest.raises(ReplicaLost):
        measured.check_health()


def test_model_that_falls_behind_makes_fewer_frames_then_leaves_the_last_sessions_out(
    measured: Animator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = measured._model.animate

    def slow(windows: list[Window]) -> list[Clip | ClipFailure]:
        sizes.append(sum(w.num_frames for w in windows))
        return whole(windows)

    monkeypatch.setattr(measured._model, "animate", slow)
    batch = WindowBatch(tuple(window(measured, name, 6) for name in "abcd"))
    degradation = measured._degradation
    assert degradation is not None
    for number in range(6):
        degradation.note(time.monotonic(), 0.9, 4)
        if number == 2:
            measured._step([batch])
    (answer,) = measured._step([batch])
    assert sizes == [12, 9]
    patches = [result.patches for result in answer.results if isinstance(result, Clip)]
    assert [p.shape[0] for p in patches] == [6, 6, 6, 6]
    assert all(np.array_equal(p[0], p[1]) and not np.array_equal(p[1], p[2]) for p in patches[:3])
    loop = measured._model.base_loop("default")
    resting = answer.results[3]
    assert isinstance(resting, Clip)
    assert (resting.w, resting.h) == (2, 2)
    assert resting.patches[0][0] == loop.frames[0][0]


def test_live_settings_are_taken_and_given_back(measured: Animator, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(type(measured).animate, "set_max_batch_size", sizes.append, raising=False)
    measured.reconfigure({"max_batch_calls": 4, "max_bucket": 5, "degrade": "never"})
    assert sizes == [4]
    assert (measured._stepper.max_frames, measured._degradation) == (5, None)
    measured.reconfigure({})
    assert sizes == [4, 16]
    assert measured._stepper.max_frames is None
    assert isinstance(measured._degradation, Degradation)
