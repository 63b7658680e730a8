"""Where a face is cut out of a picture, and how open its eyes and lips are.

Faces are given by 203 points (LivePortrait's own landmarks), by 106 (InsightFace's layout), or by an avatar's
contours. Formulas are those of LivePortrait's inference code. Matrices are 3 x 3, float64, and take pixel
positions (x, y, 1) whose whole numbers are pixel centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from serve_app.avatars.bundle import Contour, Landmarks

Points: TypeAlias = npt.NDArray[np.floating]
"""[N, 2] positions (x, y) in pixels."""

Matrix: TypeAlias = npt.NDArray[np.float64]

SOURCE_SCALE, SOURCE_SHIFT = 2.3, -0.125
"""Of a source's square: how many times the face's extent its side is, and how far down it is moved."""

DRIVING_SCALE, DRIVING_SHIFT = 2.2, -0.1
"""Of a driving video's square."""

LANDMARK_SCALE, LANDMARK_SHIFT = 1.5, -0.1
"""Of the square that the 203-point network looks at."""

NEAR = 1e-6
"""Added to the lengths by which ratios divide."""


@dataclass(frozen=True, slots=True)
class Centres:
    """What tells how a face is turned in the picture, [2] each.

    Attributes:
        left_eye: the eye on the viewer's left.
        right_eye: the eye on the viewer's right.
        lip: the middle of the mouth.
    """

    left_eye: Points
    right_eye: Points
    lip: Points


@dataclass(frozen=True, slots=True)
class Ratios:
    """How open a face is: heights as shares of widths.

    Attributes:
        left_eye: the eye on the viewer's left.
        right_eye: the eye on the viewer's right.
        lip: the mouth.
    """

    left_eye: float
    right_eye: float
    lip: float


@dataclass(frozen=True, slots=True)
class Square:
    """A square around a face, turned with it.

    Attributes:
        centre: [2] pixels.
        side: pixels.
        angle: radians from the picture's x axis to the face's.
    """

    centre: Points
    side: float
    angle: float

    def to_crop(self, size: int) -> Matrix:
        """Return the similarity that maps this square upright onto one of `size` x `size` pixels."""
        scale = size / self.side
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        x, y = float(self.centre[0]), float(self.centre[1])
        half = size / 2
        return np.array(
            [[cos, sin, half - cos * x - sin * y], [-sin, cos, half + sin * x - cos * y], [0.0, 0.0, 1.0]]
        )

    def upright(self) -> Points:
        """Return the corners of the square of the same centre and side that is not turned, [4, 2].

        From the upper left clockwise, as driving videos are cut.
        """
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        return np.asarray(self.centre + corners * (self.side / 2))


def square(points: Points, centres: Centres, scale: float, shift: float) -> Square:
    """Return the square around a face.

    Args:
        points: all of the face's landmarks.
        centres: of the same face.
        scale: the side as a multiple of the longer side of the points' rectangle, which is turned like the
            face.
        shift: how far the square is moved towards the lips, as a share of its side.
    """
    points = points.astype(np.float64)
    down = centres.lip.astype(np.float64) - (centres.left_eye + centres.right_eye) / 2
    length = float(np.linalg.norm(down))
    # A face whose eyes and lips coincide has no direction: it counts as upright.
    down = down / length if length > 1e-3 else np.array([0.0, 1.0])
    right = np.array([down[1], -down[0]])
    angle = math.copysign(math.acos(min(1.0, max(-1.0, float(right[0])))), float(right[1]))
    axes = np.stack([right, down])
    mean = points.mean(axis=0)
    turned = (points - mean) @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = float((high - low).max()) * scale
    centre = mean + (low + high) / 2 @ axes + shift * side * down
    return Square(centre, side, angle)


def centres_of_203(points: Points) -> Centres:
    """Return the centres of a face of 203 points."""
    return Centres(
        points[[0, 6, 12, 18]].mean(axis=0),
        points[[24, 30, 36, 42]].mean(axis=0),
        points[[48, 66]].mean(axis=0),
    )


def centres_of_106(points: Points) -> Centres:
    """Return the centres of a face of 106 points."""
    return Centres(
        points[[33, 35, 40, 39]].mean(axis=0),
        points[[87, 89, 94, 93]].mean(axis=0),
        points[[52, 61]].mean(axis=0),
    )


def ratios_of_203(points: Points) -> Ratios:
    """Return how open a face of 203 points is."""
    return Ratios(
        _ratio(points, (6, 18), (0, 12)),
        _ratio(points, (30, 42), (24, 36)),
        _ratio(points, (90, 102), (48, 66)),
    )


def _ratio(points: Points, high: tuple[int, int], wide: tuple[int, int]) -> float:
    height, width = (float(np.linalg.norm(points[a] - points[b])) for a, b in (high, wide))
    return height / (width + NEAR)


def points_of(face: Landmarks) -> Points:
    """Return an avatar's contours as one list: like the 203 points they reach from the brows to the chin."""
    return np.concatenate(list(face.contours().values()))


def centres_of(face: Landmarks) -> Centres:
    """Return the centres of an avatar's face, by the same points of its contours."""

    def eye(upper: Contour, lower: Contour) -> Points:
        return np.stack([upper[0], upper[-1], _middle(upper), _middle(lower)]).mean(axis=0)

    return Centres(
        eye(face.left_eye_upper, face.left_eye_lower),
        eye(face.right_eye_upper, face.right_eye_lower),
        (face.upper_lip_outer[0] + face.upper_lip_outer[-1]) / 2,
    )


def ratios_of(face: Landmarks) -> Ratios:
    """Return how open an avatar's face is in its portrait."""

    def ratio(upper: Contour, lower: Contour, ends: Contour) -> float:
        height = float(np.linalg.norm(_middle(upper) - _middle(lower)))
        return height / (float(np.linalg.norm(ends[0] - ends[-1])) + NEAR)

    return Ratios(
        ratio(face.left_eye_upper, face.left_eye_lower, face.left_eye_upper),
        ratio(face.right_eye_upper, face.right_eye_lower, face.right_eye_upper),
        ratio(face.upper_lip_inner, face.lower_lip_inner, face.upper_lip_outer),
    )


def _middle(contour: Contour) -> Points:
    """Return a contour's point half-way between its ends."""
    x = (contour[0, 0] + contour[-1, 0]) / 2
    return np.array([x, np.interp(x, contour[:, 0], contour[:, 1])])
