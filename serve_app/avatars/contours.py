"""Where the parts of a face are: the contours of its lips, eyes, brows, nose and jaw, and what a face allows.

Contours come from strangers' bundles: whatever is wrong with them is an AvatarInvalid that names it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from serve_app.errors import AvatarInvalid

SIZE = 512
"""Width and height of a portrait in pixels."""

Contour: TypeAlias = npt.NDArray[np.float32]
"""[N, 2] points (x, y) in portrait pixels."""

MIN_POINTS, MAX_POINTS = 3, 64
"""How many points a contour may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Where the parts of the face are.

    All are contours that run rightwards as the viewer sees the picture: each x is greater than the one
    before. "left" and "right" are the viewer's. The first and last points of the four lip contours are the
    mouth's corners; where the mouth is shut, the two inner contours are the same line.

    Attributes:
        upper_lip_outer: where the upper lip meets the skin above it.
        upper_lip_inner: the upper lip's lower edge.
        lower_lip_inner: the lower lip's upper edge.
        lower_lip_outer: where the lower lip meets the skin below it.
        nose: the nose's lower edge: left wing, tip's underside, right wing.
        jaw: the face's edge from the left ear around the chin to the right ear.
        left_eye_upper: edge of the upper lid, corner to corner.
        left_eye_lower: edge of the lower lid, corner to corner.
        right_eye_upper: edge of the upper lid, corner to corner.
        right_eye_lower: edge of the lower lid, corner to corner.
        left_iris: left edge, middle and right edge of the iris.
        right_iris: left edge, middle and right edge of the iris.
        left_brow: the brow's middle line.
        right_brow: the brow's middle line.
    """

    upper_lip_outer: Contour
    upper_lip_inner: Contour
    lower_lip_inner: Contour
    lower_lip_outer: Contour
    nose: Contour
    jaw: Contour
    left_eye_upper: Contour
    left_eye_lower: Contour
    right_eye_upper: Contour
    right_eye_lower: Contour
    left_iris: Contour
    right_iris: Contour
    left_brow: Contour
    right_brow: Contour

    def contours(self) -> dict[str, Contour]:
        """Return all contours by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def pack_face(face: Landmarks) -> bytes:
    """Return the safetensors file of a face: each contour by its name, [N, 2] float32."""
    return save_tensors({name: np.ascontiguousarray(points) for name, points in face.contours().items()})


def unpack_face(content: bytes, where: str) -> Landmarks:
    """Read a face from a safetensors file; whether it can be one is for `check_face` to say.

    Raises:
        AvatarInvalid: it is none, or lacks a contour.
    """
    return Landmarks(**_tensors(content, where))


def pack_faces(faces: Sequence[Landmarks]) -> bytes:
    """Return the safetensors file of T faces: each contour by its name, [T, N, 2] float32.

    Raises:
        AvatarInvalid: a contour has another number of points in one of them.
    """
    try:
        stacked = {
            field.name: np.stack([getattr(face, field.name) for face in faces]) for field in fields(Landmarks)
        }
    except ValueError as error:
        raise AvatarInvalid(f"expected contours of as many points in every face, found: {error}") from error
    return save_tensors(stacked)


def unpack_faces(content: bytes, number: int, where: str) -> tuple[Landmarks, ...]:
    """Read faces from a safetensors file. Eyes and mouths may be open or closed in them.

    Raises:
        AvatarInvalid: it is none, or lacks a contour, or has not `number` faces within the portrait.
    """
    contours = _tensors(content, where)
    for name, points in contours.items():
        if points.ndim != 3 or len(points) != number:
            raise AvatarInvalid(f"{where}: {name}: expected [{number}, N, 2], found {points.shape}")
        _check_contour(points, f"{where}: {name}")
    return tuple(Landmarks(**{name: points[at] for name, points in contours.items()}) for at in range(number))


def _tensors(content: bytes, where: str) -> dict[str, Any]:
    try:
        contours = load_tensors(content)
    # The parser's own error, and numpy's for types it does not have.
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AvatarInvalid(f"{where}: expected a safetensors file, found: {error}") from error
    names = [field.name for field in fields(Landmarks)]
    missing = [name for name in names if name not in contours]
    if missing:
        raise AvatarInvalid(f"{where}: expected {', '.join(names)}, found no {', '.join(missing)}")
    return {name: contours[name] for name in names}


def check_face(face: Landmarks, where: str) -> None:
    """Refuse landmarks that no upright face has: drawing divides by these distances."""
    where = f"{where}: landmarks"
    for name, points in face.contours().items():
        if points.ndim != 2:
            raise AvatarInvalid(
                f"{where}.{name}: expected [N, 2] float32, found {points.shape} {points.dtype}"
            )
        _check_contour(points, f"{where}.{name}")
    _check_mouth(face, where)
    for name, upper, lower in (
        ("left_eye", face.left_eye_upper, face.left_eye_lower),
        ("right_eye", face.right_eye_upper, face.right_eye_lower),
    ):
        x = (upper[0, 0] + upper[-1, 0]) / 2
        if height(lower, x) - height(upper, x) < 2:
            raise AvatarInvalid(f"{where}: expected an open eye, found {name} closed at x {x:.1f}")


def _check_contour(points: npt.NDArray[np.float32], where: str) -> None:
    """Refuse what is no contour, or no row of contours."""
    if points.dtype != np.float32 or points.ndim < 2 or points.shape[-1] != 2:
        raise AvatarInvalid(f"{where}: expected [N, 2] float32, found {points.shape} {points.dtype}")
    number = points.shape[-2]
    if not MIN_POINTS <= number <= MAX_POINTS:
        raise AvatarInvalid(f"{where}: expected {MIN_POINTS} to {MAX_POINTS} points, found {number}")
    for expected, kept in (
        # NaN is neither inside nor in order.
        ("points within the portrait", ((points >= 0) & (points < SIZE)).all((-1, -2))),
        ("points from left to right", (np.diff(points[..., 0]) > 0.01).all(-1)),
        ("4 px or more across", points[..., -1, 0] - points[..., 0, 0] >= 4),
    ):
        if not kept.all():
            found = points[~kept][0] if points.ndim > 2 else points
            raise AvatarInvalid(f"{where}: expected {expected}, found {found.tolist()}")


def _check_mouth(face: Landmarks, where: str) -> None:
    middle = (face.upper_lip_inner[0, 0] + face.upper_lip_inner[-1, 0]) / 2
    names = ("nose", "upper_lip_outer", "upper_lip_inner", "lower_lip_outer", "jaw")
    down = [(name, height(getattr(face, name), middle)) for name in names]
    for (above, y), (below, lower_y) in itertools.pairwise(down):
        if lower_y - y < 2.0:
            raise AvatarInvalid(
                f"{where}: expected {below} 2 px or more below {above}, found {y:.1f} and {lower_y:.1f}"
            )
    top, bottom = float(face.nose[:, 1].min()), float(face.jaw[:, 1].max())
    lips = (face.upper_lip_outer, face.upper_lip_inner, face.lower_lip_inner, face.lower_lip_outer)
    for lip in lips:
        if lip[:, 1].min() < top or lip[:, 1].max() > bottom:
            raise AvatarInvalid(f"{where}: expected lips between nose and chin, found {lip.tolist()}")
    for part in (face.left_brow, face.right_brow, face.left_iris, face.right_iris):
        if part[:, 1].max() > down[0][1] - 2.0:
            raise AvatarInvalid(
                f"{where}: expected eyes and brows above the nose's edge, found {part.tolist()}"
            )
    gap = height(face.lower_lip_inner, middle) - height(face.upper_lip_inner, middle)
    if not -1.0 <= gap <= 0.5 * (down[3][1] - down[1][1]):
        raise AvatarInvalid(f"{where}: expected a closed mouth, found lips {gap:.1f} px apart")
    left, right = max(lip[0, 0] for lip in lips), min(lip[-1, 0] for lip in lips)
    if right - left < 12 or face.jaw[0, 0] > left - 2 or face.jaw[-1, 0] < right + 2:
        raise AvatarInvalid(
            f"{where}: expected a mouth of 12 px or more within the jaw, found {left} to {right}"
        )


def height(contour: Contour, x: float) -> float:
    """Return the y of a contour at column `x`; beyond its ends, that of its end."""
    return float(np.interp(x, contour[:, 0], contour[:, 1]))
