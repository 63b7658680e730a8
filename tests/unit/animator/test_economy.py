from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve_app.animator.economy import resting, restored, thinned
from serve_app.avatars.store import AvatarStore
from serve_app.media.i420 import overlaid
from serve_app.models.tracer import Tracer
from serve_app.nouns import Clip, ClipFailure, Patch, UInt8, Window
from tests.unit.models.speech import voiced, windows

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=[25, 30])
def tracer(request: pytest.FixtureRequest) -> Tracer:
    model = Tracer(fps=request.param, device="cpu")
    model.prepare(AvatarStore(None).load("default"))
    return model


def some_windows(tracer: Tracer) -> list[Window]:
    return list(windows(tracer.spec, voiced("ah", 2.0), (5, 1, 4, 7)))


def whole(tracer: Tracer, clip: Clip | ClipFailure) -> list[UInt8]:
    assert isinstance(clip, Clip)
    loop = tracer.base_loop("default")
    return [
        overlaid(
            loop.frames[(clip.base_frame + number) % len(loop.frames)],
            loop.width,
            loop.height,
            Patch(clip.x, clip.y, clip.w, clip.h, patch),
        )
        for number, patch in enumerate(clip.patches)
    ]


def test_every_second_frame_is_the_model_s_own_and_stays_for_two(tracer: Tracer) -> None:
    for window in some_windows(tracer):
        (full,) = tracer.animate([window])
        parts = tracer.animate(thinned(window, tracer.spec.fps, 2))
        assert len(parts) == -(-window.num_frames // 2)
        thin = restored(window, parts, 2, tracer.base_loop("default"))
        expected, found = whole(tracer, full), whole(tracer, thin)
        assert len(found) == len(expected)
        for number, picture in enumerate(found):
            assert np.array_equal(picture, expected[number - number % 2])


def test_patches_at_different_places_are_filled_up_with_the_base_loop(tracer: Tracer) -> None:
    (window,) = some_windows(tracer)[:1]
    loop = tracer.base_loop("default")
    ramp = np.arange(loop.frames.size, dtype=np.uint32).reshape(loop.frames.shape).astype(np.uint8)
    loop = replace(loop, frames=ramp)
    parts: list[Clip | ClipFailure] = []
    for number, part in enumerate(thinned(window, tracer.spec.fps, 2)):
        (clip,) = tracer.animate([part])
        assert isinstance(clip, Clip)
        parts.append(replace(clip, x=clip.x + 4 * number, y=clip.y - 2 * number))
    thin = restored(window, parts, 2, loop)
    assert isinstance(thin, Clip)
    base = loop.frames[window.base_frame % len(loop.frames)]
    (first, *_) = parts
    assert isinstance(first, Clip)
    alone = overlaid(base, 512, 512, Patch(first.x, first.y, first.w, first.h, first.patches[0]))
    assert np.array_equal(
        overlaid(base, 512, 512, Patch(thin.x, thin.y, thin.w, thin.h, thin.patches[0])), alone
    )


def test_failed_part_fails_its_window(tracer: Tracer) -> None:
    (window,) = some_windows(tracer)[:1]
    parts = tracer.animate(thinned(window, tracer.spec.fps, 2))
    failure = ClipFailure("frame_not_finite", "NaN")
    assert restored(window, [parts[0], failure, *parts[2:]], 2, tracer.base_loop("default")) is failure


def test_resting_clip_shows_the_base_loop_alone(tracer: Tracer) -> None:
    loop = tracer.base_loop("default")
    ramp = np.arange(loop.frames.size, dtype=np.uint32).reshape(loop.frames.shape).astype(np.uint8)
    loop = replace(loop, frames=ramp)
    window = replace(some_windows(tracer)[0], base_frame=len(loop.frames) - 2)
    clip = resting(window, loop)
    for number, patch in enumerate(clip.patches):
        base = loop.frames[(window.base_frame + number) % len(loop.frames)]
        assert np.array_equal(overlaid(base, 512, 512, Patch(clip.x, clip.y, clip.w, clip.h, patch)), base)
    assert len(clip.patches) == window.num_frames
