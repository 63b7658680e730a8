"""Native frames under a session's: the same however they are cut, and within what the model asks for."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.models.musetalk.timing import (
    FRAME_SAMPLES,
    NATIVE_FPS,
    native_frames,
    samples_after,
    samples_before,
    session_frame,
)
from serve_app.nouns import speech_index

pytestmark = pytest.mark.unit

RATES = [10, 12, 24, 25, 30, 50, 60]


def test_native_rate_is_frame_for_frame() -> None:
    native = native_frames(7, 12, NATIVE_FPS)
    assert (native.first, native.count) == (7, 12)
    np.testing.assert_array_equal(native.before, np.arange(12))
    assert not native.share.any()
    assert (samples_before(25), samples_after(25)) == (0, 0)


@pytest.mark.parametrize("fps", RATES)
def test_frames_lie_where_their_middles_do(fps: int) -> None:
    native = native_frames(0, 3 * fps, fps)
    place = (native.first + native.before + native.share + 0.5) / NATIVE_FPS
    middle = (np.arange(3 * fps) + 0.5) / fps
    # Slower sessions show the nearest frame; before the first frame's middle there is none to mix with.
    allowed = 0.5 / NATIVE_FPS if fps < NATIVE_FPS else 1e-6
    start = 1 if fps > NATIVE_FPS else 0
    assert np.abs(place - middle)[start:].max() <= allowed + 1e-9
    assert abs(place[0] - middle[0]) <= 0.5 / NATIVE_FPS


@pytest.mark.parametrize("fps", RATES)
def test_cuts_do_not_change_what_frames_are_mixed_of(fps: int) -> None:
    whole = native_frames(0, 100, fps)
    for first, count in ((0, 1), (1, 3), (37, 12), (99, 1)):
        part = native_frames(first, count, fps)
        mine = slice(first, first + count)
        np.testing.assert_array_equal(part.first + part.before, whole.first + whole.before[mine])
        np.testing.assert_array_equal(part.share, whole.share[mine])
        assert int((part.before + (part.share > 0)).max()) == part.count - 1


@pytest.mark.parametrize("fps", RATES)
def test_context_covers_native_frames(fps: int) -> None:
    before, after = samples_before(fps), samples_after(fps)
    reached_before = reached_after = 0
    for frame in range(1, 3 * fps):
        native = native_frames(frame, 1, fps)
        gap_before = speech_index(frame, fps) - native.first * FRAME_SAMPLES
        gap_after = (native.first + native.count) * FRAME_SAMPLES - speech_index(frame + 1, fps)
        assert gap_before <= before
        assert gap_after <= after
        reached_before, reached_after = max(reached_before, gap_before), max(reached_after, gap_after)
    assert max(0, reached_before) == before
    assert max(0, reached_after) == after


@pytest.mark.parametrize("fps", RATES)
def test_session_frame_is_the_nearest(fps: int) -> None:
    native = np.arange(60)
    nearest = session_frame(native, fps)
    gap = np.abs((nearest + 0.5) / fps - (native + 0.5) / NATIVE_FPS)
    assert gap.max() <= 0.5 / fps + 1e-9
