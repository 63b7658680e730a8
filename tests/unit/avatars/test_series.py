"""A face is followed from picture to picture, over short gaps, without trembling."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.avatars.landmarks import Points
from serve_app.avatars.series import filled, longest_run, nearest, smoothed
from tests.avatar_tools import mesh

pytestmark = pytest.mark.unit

FACE = np.zeros((478, 3), np.float32)


@pytest.mark.parametrize(
    ("seen", "run"),
    [
        ("", (0, 0)),
        ("....", (0, 0)),
        ("ffff", (0, 4)),
        ("..ff.ff...", (2, 7)),
        ("fff..ffff", (0, 9)),
        ("fff...ffff", (6, 10)),
        ("ffff...fff", (0, 4)),
        ("f...f...f", (0, 1)),
    ],
)
def test_the_longest_run_with_short_gaps_is_used(seen: str, run: tuple[int, int]) -> None:
    found = [FACE if one == "f" else None for one in seen]
    assert longest_run(found, max_gap=2) == run


def test_a_lost_face_is_between_those_around_it() -> None:
    found: list[Points | None] = [FACE, None, None, FACE + 3, FACE + 4]
    points = filled(found)
    assert points.shape == (5, 478, 3)
    np.testing.assert_allclose(points[:, 0, 0], [0, 1, 2, 3, 4], atol=1e-6)
    np.testing.assert_array_equal(filled([FACE + 1]), FACE[None] + 1)


def test_trembling_is_smoothed_and_motion_stays() -> None:
    time = np.arange(60, dtype=np.float32)
    motion = 6 * np.sin(time / 12)
    noise = np.random.default_rng(0).normal(0, 0.5, (60, 478, 3)).astype(np.float32)
    calm = smoothed(motion[:, None, None] + noise, 1.8)
    apart = calm - motion[:, None, None]
    assert apart[6:-6].std() < 0.25
    assert np.abs(apart.mean((1, 2))).max() < 0.5, "no lag, at the ends neither"
    steady = np.broadcast_to(time[:, None, None], (60, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(smoothed(steady, 1.8), steady, atol=1e-4)


def test_of_several_faces_the_one_in_the_middle_is_followed() -> None:
    face = mesh()
    aside = face + np.array([220, 40, 0], np.float32)
    assert nearest([aside, face]) is face
    assert nearest([]) is None
