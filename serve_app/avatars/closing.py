"""Shuts a mouth that smiles at the camera: portraits at rest have their lips together.

Each column of the picture is squeezed: the upper lip comes down and the lower lip up until they meet, the
skin up to the nose and down to the chin gives way, and what was between the lips is gone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from serve_app.avatars.contours import Contour, Landmarks, height
from serve_app.nouns import UInt8

UPPER_SHARE = 0.4
"""The share of the gap that the upper lip closes."""

TOUCHING_PX = 1.0
"""Lips less than this apart are left alone."""

DARKNESS = 0.42
"""How much of its light the new line between the lips loses."""

Floats = npt.NDArray[np.float64]


def close_mouth(portrait: UInt8, face: Landmarks) -> tuple[UInt8, Landmarks]:
    """Return a portrait and its landmarks with the lips together.

    Args:
        portrait: [H, W, 3] RGB.
        face: where the lips are; the two inner contours are the edges of the gap.
    """
    columns = np.arange(portrait.shape[1], dtype=np.float64)
    upper, lower = _along(face.upper_lip_inner, columns), _along(face.lower_lip_inner, columns)
    inside = (columns > face.upper_lip_inner[0, 0]) & (columns < face.upper_lip_inner[-1, 0])
    gap = np.maximum(lower - upper, 0.0) * inside
    if gap.max() < TOUCHING_PX:
        return portrait, face
    down, up = UPPER_SHARE * gap, (1 - UPPER_SHARE) * gap
    line = upper + down
    x = float(face.upper_lip_inner[0, 0] + face.upper_lip_inner[-1, 0]) / 2
    nose, chin = height(face.nose, x), float(face.jaw[:, 1].max())
    rows = np.arange(portrait.shape[0], dtype=np.float64)[:, None]
    # The lips move as a whole; from their outer edges on the skin gives way.
    outer_top = _along(face.upper_lip_outer, columns) + down
    outer_bottom = _along(face.lower_lip_outer, columns) - up
    above = 1 - _smooth((outer_top - rows) / np.maximum(outer_top - nose, 4.0))
    below = 1 - _smooth((rows - outer_bottom) / np.maximum(0.9 * (chin - outer_bottom), 4.0))
    from_above = _rows_at(portrait, rows - down * above)
    from_below = _rows_at(portrait, rows + up * below)
    share = np.clip(rows - line + 0.5, 0.0, 1.0)[..., None]
    closed = from_above * (1 - share) + from_below * share
    # Lips that touch shade each other.
    depth = DARKNESS * np.clip(gap / max(0.3 * gap.max(), 1.0), 0.0, 1.0)
    closed *= (1 - depth * np.exp(-(((rows - line) / 1.3) ** 2)))[..., None]
    points = np.linspace(face.upper_lip_inner[0, 0], face.upper_lip_inner[-1, 0], 17)
    inner = np.stack([points, np.interp(points, columns, line)], axis=1).astype(np.float32)
    return (
        np.round(closed).clip(0, 255).astype(np.uint8),
        replace(
            face,
            upper_lip_inner=inner,
            lower_lip_inner=inner.copy(),
            upper_lip_outer=_moved(face.upper_lip_outer, columns, down),
            lower_lip_outer=_moved(face.lower_lip_outer, columns, -up),
        ),
    )


def _along(contour: Contour, columns: Floats) -> Floats:
    """Return a contour's height at every column, without its corners."""
    heights = np.interp(columns, contour[:, 0], contour[:, 1])
    kernel = np.hanning(7)[1:-1] / np.hanning(7).sum()
    return np.convolve(np.pad(heights, 2, mode="edge"), kernel, mode="valid")


def _moved(contour: Contour, columns: Floats, by: Floats) -> Contour:
    """Return a contour moved down by a distance that is given for each column."""
    moved = contour.copy()
    moved[:, 1] += np.interp(contour[:, 0], columns, by)
    return moved


def _rows_at(picture: UInt8, rows: Floats) -> Floats:
    """Sample every column at fractional rows, [H, W, 3]."""
    rows = np.clip(rows, 0, picture.shape[0] - 1.001)
    above = rows.astype(np.int64)
    part = (rows - above)[..., None]
    column = np.arange(picture.shape[1])
    return picture[above, column] * (1 - part) + picture[above + 1, column] * part


def _smooth(t: Floats) -> Floats:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)
