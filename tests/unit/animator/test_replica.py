from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve_app.animator.replica import Animator
from serve_app.config import AnimatorConfig, AppConfig
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
    assert animator.record_autoscaling_stats() == {"sessions": 2.0}
