"""One face, upright and with a closed mouth: everything else is refused, and told why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.avatars.contours import MAX_POINTS, SIZE
from serve_app.avatars.face import landmarks_of, parted_lips, pose_of, the_face, width_of
from serve_app.avatars.landmarks import Points
from serve_app.avatars.photo import PhotoRefused
from tests.avatar_tools import mesh

pytestmark = pytest.mark.unit

WIDTH, HEIGHT = 512, 600


def turned(yaw: float = 0, pitch: float = 0, roll: float = 0, scale: float = 1.0) -> Points:
    """Return the face turned by angles in degrees, about its middle."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    about_y = [[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]]
    about_x = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    about_z = [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]]
    middle = np.array([WIDTH / 2, HEIGHT / 2, 0])
    spin = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    face = mesh()
    return ((face - face.mean(0)) * scale @ spin.T + middle).astype(np.float32)


def reason(*faces: Points) -> str:
    with pytest.raises(PhotoRefused) as caught:
        the_face(faces, WIDTH, HEIGHT)
    assert "expected" in str(caught.value)
    return caught.value.reason


def test_a_frontal_face_is_taken_without_notes() -> None:
    face, notes = the_face([turned()], WIDTH, HEIGHT)
    assert notes == []
    assert 170 < width_of(face) < 200
    assert parted_lips(face) < 0.03


def test_pose_is_measured_as_it_was_made() -> None:
    rest = pose_of(turned())
    assert max(map(abs, (rest.yaw, rest.pitch, rest.roll))) < 4
    assert pose_of(turned(yaw=15)).yaw - rest.yaw == pytest.approx(15, abs=1.5)
    assert pose_of(turned(pitch=15)).pitch - rest.pitch == pytest.approx(15, abs=1.5)
    assert pose_of(turned(roll=20)).roll - rest.roll == pytest.approx(20, abs=0.5)


def test_no_face_and_several_are_refused() -> None:
    assert reason() == "no_face"
    assert reason(turned(), turned(scale=0.8)) == "several_faces"


def test_a_small_face_in_the_background_does_not_count() -> None:
    face, _ = the_face([turned(scale=0.2), turned()], WIDTH, HEIGHT)
    assert width_of(face) > 150


@pytest.mark.parametrize("yaw", [-50, -28, 28, 50])
def test_faces_in_profile_are_refused(yaw: float) -> None:
    assert reason(turned(yaw=yaw)) == "turned_away"


@pytest.mark.parametrize("pitch", [-34, 34])
def test_faces_that_look_up_or_down_are_refused(pitch: float) -> None:
    assert reason(turned(pitch=pitch)) == "turned_away"


def test_a_leaning_face_is_taken_and_a_lying_one_refused() -> None:
    the_face([turned(roll=20)], WIDTH, HEIGHT)
    assert reason(turned(roll=60)) == "tilted"


def test_small_faces_are_noted_and_tiny_ones_refused() -> None:
    _, notes = the_face([turned(scale=0.6)], WIDTH, HEIGHT)
    assert any("pixels wide" in note for note in notes)
    assert reason(turned(scale=0.35)) == "face_too_small"


def test_a_face_that_the_edge_cuts_is_refused() -> None:
    moved = turned()
    moved[:, 0] -= moved[:468, 0].min() + 40
    assert reason(moved) == "face_cut"


def test_parted_lips_are_noted_and_open_mouths_refused() -> None:
    face = turned()
    across = float(np.hypot(*(face[308] - face[78])[:2]))
    face[14, 1] = face[13, 1] + 0.15 * across
    _, notes = the_face([face], WIDTH, HEIGHT)
    assert any("lips are parted" in note for note in notes)
    face[14, 1] = face[13, 1] + 0.5 * across
    assert reason(face) == "mouth_open"


def test_closed_eyes_are_refused() -> None:
    face = turned()
    face[374] = face[386] + (0, 1, 0)
    assert reason(face) == "eyes_closed"


def test_landmarks_follow_the_face() -> None:
    found = landmarks_of(turned(scale=1.2))
    contours = found.contours()
    assert all((np.diff(points[:, 0]) > 0.01).all() for points in contours.values())
    assert all(len(points) <= MAX_POINTS and points.dtype == np.float32 for points in contours.values())
    assert found.left_eye_upper[:, 0].max() < found.right_eye_upper[:, 0].min()
    assert found.left_brow[:, 1].mean() < found.left_eye_upper[:, 1].mean() < found.nose[:, 1].mean()
    assert found.upper_lip_outer[5, 1] < found.lower_lip_outer[5, 1] < found.jaw[:, 1].max()
    assert found.left_iris[0, 0] < found.left_iris[1, 0] < found.left_iris[2, 0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_landmarks_of_any_points_lie_in_order(seed: int) -> None:
    points = np.random.default_rng(seed).uniform(60, SIZE - 60, (478, 3)).astype(np.float32)
    for contour in landmarks_of(points).contours().values():
        assert (np.diff(contour[:, 0]) > 0.01).all()
        assert ((contour >= 0) & (contour < SIZE)).all()
