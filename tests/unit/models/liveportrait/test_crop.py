"""Squares around faces, and how open an avatar's face is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serve_app.avatars.bundle import AvatarBundle
from serve_app.models.liveportrait import crop

pytestmark = pytest.mark.unit


def turned(points: crop.Points, degrees: float) -> crop.Points:
    """Turn points about (256, 256), clockwise as seen."""
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray((points - 256.0) @ matrix.T + 256.0)


@pytest.mark.parametrize("degrees", [0.0, 25.0, -40.0, 100.0])
def test_square_turns_with_the_face(bundle: AvatarBundle, degrees: float) -> None:
    face = bundle.landmarks
    points, centres = crop.points_of(face), crop.centres_of(face)
    straight = crop.square(points, centres, 2.3, -0.125)
    leaning = crop.square(
        turned(points, degrees),
        crop.Centres(
            *(
                turned(centre[None], degrees)[0]
                for centre in (
                    centres.left_eye,
                    centres.right_eye,
                    centres.lip,
                )
            )
        ),
        2.3,
        -0.125,
    )
    assert leaning.side == pytest.approx(straight.side)
    assert leaning.centre == pytest.approx(turned(straight.centre[None], degrees)[0])
    assert math.degrees(leaning.angle - straight.angle) == pytest.approx(degrees, abs=1e-6)
    # Both crops show the face in the same place.
    for matrix, mine in ((straight.to_crop(512), points), (leaning.to_crop(512), turned(points, degrees))):
        shown = mine @ matrix[:2, :2].T + matrix[:2, 2]
        expected = points @ straight.to_crop(512)[:2, :2].T + straight.to_crop(512)[:2, 2]
        assert shown == pytest.approx(expected, abs=1e-6)


def test_face_without_direction_counts_as_upright() -> None:
    points = np.array([[10.0, 10.0], [30.0, 50.0]])
    middle = np.array([20.0, 30.0])
    square = crop.square(points, crop.Centres(middle, middle, middle), 2.0, 0.0)
    assert (square.angle, square.side) == (0.0, 80.0)
    assert square.centre == pytest.approx(middle)


def test_avatar_looks_out_of_its_crop(bundle: AvatarBundle) -> None:
    face = bundle.landmarks
    square = crop.square(crop.points_of(face), crop.centres_of(face), crop.SOURCE_SCALE, crop.SOURCE_SHIFT)
    matrix = square.to_crop(512)
    left, right, lip = (
        matrix[:2, :2] @ centre + matrix[:2, 2]
        for centre in (
            crop.centres_of(face).left_eye,
            crop.centres_of(face).right_eye,
            crop.centres_of(face).lip,
        )
    )
    assert left[0] < 256 < right[0]
    assert left[1] < lip[1]
    assert abs((left[0] + right[0]) / 2 - lip[0]) < 1e-6
    assert abs(lip[0] - 256) < 20


def test_ratios_of_an_avatar(bundle: AvatarBundle) -> None:
    ratios = crop.ratios_of(bundle.landmarks)
    assert 0.1 < ratios.left_eye < 0.7
    assert 0.1 < ratios.right_eye < 0.7
    assert 0.0 <= ratios.lip < 0.1
