"""Of a video the stretch is used in which one face stays and keeps quiet."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.avatars.landmarks import Points
from serve_app.avatars.photo import PhotoRefused
from serve_app.avatars.stretch import LOOK_FPS, MAX_STRETCH_S, Glance, choose, glance
from tests.avatar_tools import mesh

pytestmark = pytest.mark.unit

SIZE = (512, 600)


def looks(*parts: tuple[float, list[Points]]) -> list[Glance]:
    """Return glances: so many seconds of the faces."""
    faces = [faces for seconds, faces in parts for _ in range(round(seconds * LOOK_FPS))]
    return [glance(number / LOOK_FPS, one, *SIZE) for number, one in enumerate(faces)]


def opened(by_px: float) -> Points:
    face = mesh()
    face[14, 1] += by_px
    return face


def shifted(right: float) -> Points:
    return mesh() + np.array([right, 0, 0], np.float32)


def refusal(glances: list[Glance]) -> PhotoRefused:
    with pytest.raises(PhotoRefused) as caught:
        choose(glances)
    return caught.value


def test_the_whole_of_a_good_video_is_used() -> None:
    stretch = choose(looks((6, [mesh()])))
    assert (stretch.begin_s, stretch.end_s) == (0.0, 6.0)
    assert stretch.notes == ()
    np.testing.assert_allclose(stretch.face, mesh())


def test_a_long_video_is_used_up_to_the_limit() -> None:
    stretch = choose(looks((40, [mesh()])))
    assert stretch.end_s - stretch.begin_s == pytest.approx(MAX_STRETCH_S)


def test_what_lacks_a_face_is_left_out_and_told() -> None:
    stretch = choose(looks((3, [mesh()]), (1, []), (5, [mesh()]), (1, [mesh(), shifted(200)])))
    assert (stretch.begin_s, stretch.end_s) == (4.0, 9.0)
    (note,) = stretch.notes
    assert "2.0 s" in note
    assert "no_face in 5" in note
    assert "several_faces in 5" in note


def test_a_quiet_mouth_is_better_than_a_long_stretch() -> None:
    stretch = choose(looks((6, [opened(25)]), (0.4, []), (4, [mesh()])))
    assert stretch.begin_s == pytest.approx(6.4)


def test_speaking_and_blinking_are_no_reason_to_refuse() -> None:
    assert choose(looks((4, [opened(40)]))).end_s == 4.0


def test_a_walk_is_cut_where_it_leaves_its_place() -> None:
    walk = [(0.2, [shifted(20.0 * step)]) for step in range(7)]
    stretch = choose(looks((3, [mesh()]), *walk, (2.6, [shifted(120)])))
    assert stretch.begin_s == 0.0
    assert 3.0 <= stretch.end_s < 4.0


@pytest.mark.parametrize(
    ("parts", "reason", "told"),
    [
        ([(4, [])], "no_face", "found 0.0 s at a stretch (no_face in 20 of 20 looks)"),
        ([(4, [mesh(), shifted(220)])], "several_faces", "found 2"),
        (
            [(1, [mesh()]), (1, []), (1.2, [mesh()]), (2, [mesh() * np.float32(0.3)])],
            "face_too_small",
            "1.2 s",
        ),
        ([(1.4, [mesh()]), (1.4, []), (1.4, [mesh()])], "no_face", "found 1.4 s"),
    ],
)
def test_a_video_without_two_good_seconds_is_refused_with_the_commonest_reason(
    parts: list[tuple[float, list[Points]]], reason: str, told: str
) -> None:
    refused = refusal(looks(*parts))
    assert refused.reason == reason
    assert told in refused.detail
    assert refused.suggestion


def test_a_face_that_never_stays_is_restless() -> None:
    refused = refusal(looks(*[(0.2, [shifted(80.0 * (-1) ** step)]) for step in range(20)]))
    assert refused.reason == "restless"
