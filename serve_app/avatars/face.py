"""The one face of a photograph: whether it can speak, and where its parts are.

Indices are those of mediapipe's canonical face mesh (468 points, then five for each iris). Left and right
are the viewer's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.avatars.contours import SIZE, Contour, Landmarks
from serve_app.avatars.landmarks import Points
from serve_app.avatars.photo import PhotoRefused

MIN_FACE_PX = 80.0
"""Narrowest face that is taken."""

GOOD_FACE_PX = 160.0
"""Width from which a portrait looks sharp."""

MAX_YAW_DEG = 22.0
MAX_PITCH_DEG = 24.0
MAX_ROLL_DEG = 35.0
"""How far a head may be turned, nod and lean; leaning is straightened."""

LEVEL_PITCH_DEG = 8.0
"""What the mesh measures on a face that looks straight at the camera."""

PARTED_LIPS = 0.06
MAX_PARTED_LIPS = 0.32
"""Gap between the lips over the mouth's width: from where a note is given, and from where it is refused."""

MIN_EYE = 0.12
"""Opening of an eye over its width; an open one has 0.25 to 0.4."""

BYSTANDER = 0.4
"""A face narrower than this share of the largest one belongs to the background."""

TOP, CHIN, LEFT_EDGE, RIGHT_EDGE = 10, 152, 234, 454

CONTOURS = {
    "upper_lip_outer": (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    "upper_lip_inner": (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    "lower_lip_inner": (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
    "lower_lip_outer": (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
    "nose": (64, 98, 97, 2, 326, 327, 294),
    "jaw": (
        234, 93, 132, 58, 172, 136, 150, 149, 176, 148,
        152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454,
    ),
    "left_eye_upper": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "left_eye_lower": (33, 7, 163, 144, 145, 153, 154, 155, 133),
    "right_eye_upper": (362, 398, 384, 385, 386, 387, 388, 466, 263),
    "right_eye_lower": (362, 382, 381, 380, 374, 373, 390, 249, 263),
    "left_iris": (471, 468, 469),
    "right_iris": (476, 473, 474),
}  # fmt: skip
"""The mesh's points of each contour of Landmarks, from left to right."""

BROWS = {
    "left_brow": ((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)),
    "right_brow": ((336, 296, 334, 293, 300), (285, 295, 282, 283, 276)),
}
"""Upper and lower edges; a brow's contour runs between them."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How a head is held, degrees; all 0 when it looks straight at the camera.

    Attributes:
        yaw: turned to its side.
        pitch: nodding.
        roll: leaning, positive where the right edge is lower.
    """

    yaw: float
    pitch: float
    roll: float


def pose_of(face: Points) -> Pose:
    """Return how a head is held."""
    across, down = face[RIGHT_EDGE] - face[LEFT_EDGE], face[CHIN] - face[TOP]
    return Pose(
        yaw=_degrees(across[2], math.hypot(across[0], across[1])),
        pitch=_degrees(down[2], math.hypot(down[0], down[1])) - LEVEL_PITCH_DEG,
        roll=_degrees(across[1], across[0]),
    )


def width_of(face: Points) -> float:
    """Return a face's width in pixels, however it leans."""
    return float(np.hypot(*(face[RIGHT_EDGE] - face[LEFT_EDGE])[:2]))


def parted_lips(face: Points) -> float:
    """Return the gap between the lips over the mouth's width."""
    gap = float(np.hypot(*(face[14] - face[13])[:2]))
    return gap / max(1.0, float(np.hypot(*(face[308] - face[78])[:2])))


def open_eyes(face: Points) -> float:
    """Return the opening over the width of the eye that is less open."""
    return min(
        float(np.hypot(*(face[bottom] - face[top])[:2]))
        / max(1.0, float(np.hypot(*(face[right] - face[left])[:2])))
        for top, bottom, left, right in ((159, 145, 33, 133), (386, 374, 362, 263))
    )


def the_face(faces: Sequence[Points], width: int, height: int) -> tuple[Points, list[str]]:
    """Return the only face of a photograph, and notes on what could be better.

    Args:
        faces: as Landmarker finds them.
        width: of the photograph, pixels.
        height: of the photograph.

    Raises:
        PhotoRefused: there is none, or more than one, or it is too small, cut, turned away, or not at rest.
    """
    face = a_face(faces, width, height)
    _check_mouth(face)
    _check_eyes(face)
    return face, _notes(face)


def a_face(faces: Sequence[Points], width: int, height: int) -> Points:
    """Return the only face of a picture, which may speak or blink.

    Args:
        faces: as Landmarker finds them.
        width: of the picture, pixels.
        height: of the picture.

    Raises:
        PhotoRefused: there is none, or more than one, or it is too small, cut, or turned away.
    """
    if not faces:
        raise PhotoRefused(
            "no_face",
            "expected one face, found none",
            "Send a photo of one person who looks at the camera, well lit and not covered.",
        )
    largest = max(map(_extent, faces))
    near = [face for face in faces if _extent(face) >= BYSTANDER * largest]
    if len(near) > 1:
        raise PhotoRefused(
            "several_faces",
            f"expected one face, found {len(near)}",
            "Crop the photo to the person who shall speak.",
        )
    face = near[0]
    _check_pose(pose_of(face))
    _check_size(face, width, height)
    return face


def landmarks_of(face: Points) -> Landmarks:
    """Return the contours of a face in a portrait.

    Args:
        face: its points, in portrait pixels.
    """
    flat = face[:, :2]
    contours = {name: _rightwards(flat[list(indices)]) for name, indices in CONTOURS.items()}
    for name, (upper, lower) in BROWS.items():
        contours[name] = _rightwards((flat[list(upper)] + flat[list(lower)]) / 2)
    return Landmarks(**contours)


def _extent(face: Points) -> float:
    return float(max(np.ptp(face[:468, 0]), np.ptp(face[:468, 1])))


def _check_pose(pose: Pose) -> None:
    if abs(pose.yaw) > MAX_YAW_DEG:
        raise PhotoRefused(
            "turned_away",
            f"expected a face turned at most {MAX_YAW_DEG:.0f}° to its side, found {abs(pose.yaw):.0f}°",
            "Send a photo in which the person looks straight at the camera.",
        )
    if abs(pose.pitch) > MAX_PITCH_DEG:
        way = "down" if pose.pitch < 0 else "up"
        raise PhotoRefused(
            "turned_away",
            f"expected a face that looks ahead, found one that looks {abs(pose.pitch):.0f}° {way}",
            "Send a photo taken from the height of the eyes.",
        )
    if abs(pose.roll) > MAX_ROLL_DEG:
        raise PhotoRefused(
            "tilted",
            f"expected a face that leans at most {MAX_ROLL_DEG:.0f}°, found {abs(pose.roll):.0f}°",
            "Turn the photo upright.",
        )


def _check_size(face: Points, width: int, height: int) -> None:
    found = width_of(face)
    if found < MIN_FACE_PX:
        raise PhotoRefused(
            "face_too_small",
            f"expected a face {MIN_FACE_PX:.0f} pixels wide or more, found {found:.0f}",
            "Send a closer or larger photo.",
        )
    oval, edge = face[:468, :2], 0.04 * found
    if oval.min() < -edge or oval[:, 0].max() > width + edge or oval[:, 1].max() > height + edge:
        raise PhotoRefused(
            "face_cut",
            "expected the whole face in the photo, found one that its edge cuts",
            "Send a photo with some room around the head.",
        )


def _check_mouth(face: Points) -> None:
    if parted_lips(face) > MAX_PARTED_LIPS:
        raise PhotoRefused(
            "mouth_open",
            "expected a closed mouth, found an open one",
            "Send a photo with the mouth closed: the lips are moved from there.",
        )


def _check_eyes(face: Points) -> None:
    if open_eyes(face) < MIN_EYE:
        raise PhotoRefused(
            "eyes_closed",
            "expected open eyes, found a closed one",
            "Send a photo with both eyes open: they are made to blink.",
        )


def _notes(face: Points) -> list[str]:
    notes = []
    if (found := width_of(face)) < GOOD_FACE_PX:
        notes.append(f"the face is {found:.0f} pixels wide; from {GOOD_FACE_PX:.0f} on it looks sharp")
    if parted_lips(face) > PARTED_LIPS:
        notes.append("the lips are parted; a photo with the mouth closed speaks better")
    return notes


def _rightwards(points: npt.NDArray[np.floating[Any]]) -> Contour:
    """Return points whose x rise, moved as little as that takes, from the middle outwards."""
    x = points[:, 0].astype(np.float64)
    middle, step = len(x) // 2, 0.05
    for index in range(middle + 1, len(x)):
        x[index] = max(x[index], x[index - 1] + step)
    for index in range(middle - 1, -1, -1):
        x[index] = min(x[index], x[index + 1] - step)
    moved = np.stack([np.clip(x, 0, SIZE - 1), np.clip(points[:, 1], 0, SIZE - 1)], axis=1)
    return moved.astype(np.float32)


def _degrees(opposite: float, adjacent: float) -> float:
    return math.degrees(math.atan2(float(opposite), float(adjacent)))
