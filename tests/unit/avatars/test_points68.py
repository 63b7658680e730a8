"""The 68 points stand in iBUG's order, where a face has them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.avatars.bundle import Landmarks
from serve_app.avatars.face import landmarks_of
from serve_app.avatars.points68 import (
    BRIDGE,
    JAW,
    LEFT_BROW,
    LEFT_EYE,
    NOSE,
    OUTER_LIPS,
    RIGHT_BROW,
    RIGHT_EYE,
    along,
    points68,
)
from serve_app.avatars.store import AvatarStore
from tests.avatar_tools import mesh

pytestmark = pytest.mark.unit

Points68 = npt.NDArray[np.float32]

MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""The number that each point bears in a mirror."""

OF_THE_MESH = {
    0: 127, 4: 172, 8: 152, 12: 397, 16: 356,
    17: 70, 21: 107, 22: 336, 26: 300,
    27: 168, 30: 4, 31: 75, 33: 2, 35: 305,
    36: 33, 37: 160, 38: 158, 39: 133, 40: 153, 41: 144, 42: 362, 43: 385, 44: 387, 45: 263, 46: 373, 47: 380,
    48: 61, 50: 37, 51: 0, 52: 267, 54: 291, 57: 17, 60: 78, 62: 13, 64: 308, 66: 14,
}  # fmt: skip
"""Points of the canonical face mesh that are points of the 68 as well."""


@pytest.fixture(params=AvatarStore(None).ids())
def face(request: pytest.FixtureRequest) -> Landmarks:
    return AvatarStore(None).load(request.param).landmarks


def test_a_photographs_points_are_where_the_mesh_has_them() -> None:
    measured = mesh()[:, :2]
    points = points68(landmarks_of(mesh()))
    across = np.hypot(*(measured[263] - measured[33]))
    for number, index in OF_THE_MESH.items():
        assert np.hypot(*(points[number] - measured[index])) < 0.085 * across, number


def test_points_go_round_as_the_order_says(face: Landmarks) -> None:
    points = points68(face)
    assert points.shape == (68, 2)
    assert points.dtype == np.float32
    for part in (JAW, LEFT_BROW, RIGHT_BROW, NOSE):
        assert (np.diff(points[part, 0]) >= 0).all()
    assert (np.diff(points[BRIDGE, 1]) > 0).all()
    # In pixels, whose y points down, clockwise to the eye is a positive area.
    for part in (LEFT_EYE, RIGHT_EYE, OUTER_LIPS):
        x, y = points[part].astype(np.float64).T
        assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
    for first, last in ((36, 39), (42, 45), (48, 54), (60, 64)):
        assert points[first, 0] < points[last, 0]


def test_parts_of_the_face_are_above_and_beside_each_other(face: Landmarks) -> None:
    points = points68(face)
    middle = {
        part: points[place].mean(0)
        for part, place in (("brows", slice(17, 27)), ("eyes", slice(36, 48)), ("lips", OUTER_LIPS))
    }
    assert middle["brows"][1] < middle["eyes"][1] < points[30, 1] < points[33, 1] < middle["lips"][1]
    assert middle["lips"][1] < points[8, 1] == points[JAW, 1].max()
    # The nose is between the eyes, and its tip nearer to its edge than to them.
    assert points[39, 0] < points[27, 0] < points[42, 0]
    assert points[30, 1] - middle["eyes"][1] > points[33, 1] - points[30, 1] > 0
    # All of the face lies within its edge.
    assert points[0, 0] <= points[17:, 0].min()
    assert points[16, 0] >= points[17:, 0].max()
    # The lips' inner edge is within the outer one.
    assert points[48, 0] <= points[60, 0] < points[64, 0] <= points[54, 0]
    assert points[51, 1] < points[62, 1] <= points[66, 1] + 1e-3 < points[57, 1]


def test_the_edge_of_the_face_is_walked_in_even_steps_from_eye_to_eye(face: Landmarks) -> None:
    jaw = points68(face)[JAW]
    steps = np.hypot(*np.diff(jaw, axis=0).T)
    assert steps.max() < 1.2 * steps.min()
    for end, eye in ((jaw[0], face.left_eye_upper[0]), (jaw[-1], face.right_eye_upper[-1])):
        assert abs(end[1] - eye[1]) < 1.0


def test_a_symmetric_face_has_symmetric_points() -> None:
    face = AvatarStore(None).load("default").landmarks
    points = points68(face)
    mirrored = points[list(MIRRORED)] * [-1, 1] + [512, 0]
    np.testing.assert_allclose(points, mirrored, atol=0.3)


def test_points_move_and_grow_with_the_face(face: Landmarks) -> None:
    grown = dataclasses.replace(
        face, **{name: line * np.float32(0.5) + np.float32(40) for name, line in face.contours().items()}
    )
    np.testing.assert_allclose(points68(grown), points68(face) * 0.5 + 40, atol=1e-3)


def test_shares_of_a_contour_are_shares_of_its_length() -> None:
    corner = np.array([[0, 0], [30, 0], [30, 10]], np.float32)
    found = along(corner, np.array([0.0, 0.5, 0.75, 0.875, 1.0]))
    np.testing.assert_allclose(found, [[0, 0], [20, 0], [30, 0], [30, 5], [30, 10]])
