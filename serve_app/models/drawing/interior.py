"""What is behind the lips: teeth, tongue and the dark, painted once for an avatar in its own colours.

The pictures are in units (half the mouth's width; about 25 mm of a face): x from the mouth's middle, y down
from the line between the closed lips. Sizes of teeth follow Wheeler's "Dental Anatomy", foreshortened
around the arch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.models.drawing.fields import smooth
from serve_app.models.drawing.measures import Floats, Measures
from serve_app.models.i420 import yuv

HALF_WIDTH, TOP, BOTTOM = 1.12, -0.6, 0.8
"""What the pictures show, in units."""

TEXELS = 80
"""Texels for a unit."""

UPPER_EDGE = 0.11
"""Height of the upper teeth's edge."""

LOWER_EDGE = 0.07
"""Height of the lower teeth's edge while the jaw is shut."""

TIP_TOP = -0.12
"""Height of the tongue tip's upper edge in its picture."""

_UPPER_WIDTHS = (0.31, 0.24, 0.2, 0.15, 0.1, 0.06)
_LOWER_WIDTHS = (0.19, 0.2, 0.18, 0.16, 0.13, 0.1, 0.06)
_UPPER_RISE = (0.0, 0.018, 0.002, 0.03, 0.05, 0.07)
"""How much higher than the middle teeth's each tooth's edge is."""


@dataclass(frozen=True, slots=True, eq=False)
class Interior:
    """Pictures of an avatar's mouth.

    Attributes:
        pictures: [3, 4, H, W] float32: upper teeth; lower teeth before the tongue; the tongue's tip. Their
            channels are Y, U and V times the cover, and the cover in [0, 1].
        dark: [3] Y, U, V of the mouth's depth.
        soft: [3] Y, U, V just behind the lips.
    """

    pictures: Tensor
    dark: Tensor
    soft: Tensor


def paint(bundle: AvatarBundle, face: Measures, device: torch.device) -> Interior:
    """Paint the inside of a mouth in the colours of its lips and in the light of its skin."""
    lip, skin = _colour(bundle, face, 0.5 * face.lower_lip), _skin(bundle, face)
    light = float(np.clip(skin.max() / 222.0, 0.45, 1.05))
    # Teeth are white in the light that falls on the skin.
    tooth = light * (0.9 * np.array([255.0, 246.0, 231.0]) + 25.5 * skin / skin.max())
    tongue = 0.55 * light * np.array([206.0, 104.0, 104.0]) + 0.45 * (0.35 * lip + 0.65 * lip[0])
    tongue = tongue * np.array([0.98, 0.66, 0.66])
    gum = 0.5 * lip + 0.5 * light * np.array([196.0, 104.0, 104.0])
    height, width = round((BOTTOM - TOP) * TEXELS), round(2 * HALF_WIDTH * TEXELS)
    x, y = np.meshgrid(
        (np.arange(width) + 0.5) / TEXELS - HALF_WIDTH, (np.arange(height) + 0.5) / TEXELS + TOP
    )
    pictures = [
        _upper_teeth(x, y, tooth, gum),
        _lower_teeth(x, y, tooth, gum, tongue),
        _tongue_tip(x, y, tongue),
    ]
    lit = 0.35 + 0.65 * light
    return Interior(
        torch.from_numpy(np.stack(pictures).astype(np.float32)).to(device),
        torch.tensor(yuv(*(lit * np.array([30.0, 9.0, 12.0]))), device=device),
        torch.tensor(yuv(*(lit * np.array([84.0, 28.0, 30.0]))), device=device),
    )


def _upper_teeth(x: Floats, y: Floats, tooth: Floats, gum: Floats) -> Floats:
    number, inside, wide = _tooth(x, _UPPER_WIDTHS)
    rise = np.asarray([*_UPPER_RISE, 0.09])[number]
    # Corners of the edge are rounded, more so towards the side.
    edge = UPPER_EDGE - rise - (0.028 + 0.006 * number) * np.abs(2 * inside - 1) ** 3.2
    neck = UPPER_EDGE - 0.46 + 0.05 * np.abs(2 * inside - 1) ** 2 + 0.03 * number
    cover = _soft(edge - y) * _within(x, _UPPER_WIDTHS)
    row = _Row(x, inside, wide, cover, _soft(y - neck, 0.02), (y - neck) / (edge - neck))
    return _teeth(row, tooth, gum)


def _lower_teeth(x: Floats, y: Floats, tooth: Floats, gum: Floats, tongue: Floats) -> Floats:
    number, inside, wide = _tooth(x, _LOWER_WIDTHS)
    edge = LOWER_EDGE + 0.012 * number**1.3 + 0.02 * np.abs(2 * inside - 1) ** 3
    neck = edge + 0.34
    cover = _soft(y - edge) * _within(x, _LOWER_WIDTHS)
    row = _Row(x, inside, wide, cover, _soft(neck - y, 0.02), 1.0 - (y - edge) / 0.34)
    front = _teeth(row, 0.93 * tooth, gum)
    # The tongue lies behind the teeth: a low dome with a groove, darker towards the throat and the sides.
    dome = (
        LOWER_EDGE - 0.24 * np.clip(1 - (x / 0.86) ** 2, 0.0, 1.0) ** 0.6 + 0.025 * np.exp(-((x / 0.09) ** 2))
    )
    body = _soft(y - dome, 0.035) * (np.abs(x) < 0.86) * _soft(LOWER_EDGE + 0.3 - y, 0.05)
    shine = 0.62 + 0.34 * smooth((y - dome) / 0.16) - 0.3 * np.abs(x) ** 2
    shine -= 0.07 * np.exp(-((x / 0.06) ** 2))
    behind = _painted(tongue[:, None, None] * shine, body)
    return front + behind * (1 - front[3])


def _tongue_tip(x: Floats, y: Floats, tongue: Floats) -> Floats:
    top = TIP_TOP + 0.36 * np.abs(x / 0.56) ** 2.6
    cover = _soft(y - top, 0.03) * (np.abs(x) < 0.6) * _soft(TIP_TOP + 0.42 - y, 0.12)
    down = (y - top) / 0.3
    shine = 0.86 + 0.2 * np.exp(-(((down - 0.4) / 0.3) ** 2)) - 0.22 * smooth((down - 0.6) / 0.6)
    shine -= 0.25 * np.abs(x / 0.56) ** 3
    shine -= 0.06 * np.exp(-((x / 0.05) ** 2))
    return _painted(tongue[:, None, None] * shine, cover)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A row of teeth, [H, W] each.

    Attributes:
        x: units right of the mouth's middle.
        inside: where in its tooth a place is, 0 to 1 outwards.
        wide: width of that tooth.
        cover: 1 where teeth or gums are.
        is_tooth: 1 where it is teeth.
        along: 0 at the gums, 1 at the teeth's edge.
    """

    x: Floats
    inside: Floats
    wide: Floats
    cover: Floats
    is_tooth: Floats
    along: Floats


def _teeth(row: _Row, tooth: Floats, gum: Floats) -> Floats:
    """Shade a row of teeth and its gums."""
    inside, along, is_tooth = row.inside, row.along, row.is_tooth
    side = 1.0 - 0.62 * np.clip(np.abs(row.x), 0.0, 1.2) ** 2.2
    rounded = 1.0 - 0.1 * np.abs(2 * inside - 1) ** 2.5
    gap = np.minimum(inside, 1 - inside) * row.wide
    between = 1.0 - 0.16 * np.exp(-((gap / 0.013) ** 2))
    body = 0.94 + 0.06 * np.clip(along, 0.0, 1.0)
    # Edges of incisors are a little translucent.
    body -= 0.05 * np.exp(-(((along - 1.0) / 0.1) ** 2))
    white = tooth[:, None, None] * (side * rounded * between * body)
    pink = gum[:, None, None] * (side * (0.9 - 0.12 * np.abs(2 * inside - 1)))
    return _painted(white * is_tooth + pink * (1 - is_tooth), row.cover)


def _tooth(x: Floats, widths: tuple[float, ...]) -> tuple[np.ndarray, Floats, Floats]:
    """Return which tooth is at x, counted from the middle, where in it (0 to 1), and how wide it is."""
    ends = np.concatenate([[0.0], np.cumsum(widths), [10.0]])
    number = np.clip(np.searchsorted(ends, np.abs(x), side="right") - 1, 0, len(widths))
    wide = np.diff(ends)[number]
    return number, np.clip((np.abs(x) - ends[number]) / wide, 0.0, 1.0), wide


def _within(x: Floats, widths: tuple[float, ...]) -> Floats:
    """Return 1 where the row of teeth is, fading into the dark corners."""
    return 1 - smooth((np.abs(x) - 0.82 * sum(widths)) / (0.2 * sum(widths)))


def _soft(distance: Floats, width: float = 0.018) -> Floats:
    """Return 1 inside of an edge and 0 outside; `distance` is positive inside."""
    return smooth(distance / (2 * width) + 0.5)


def _painted(colour: Floats, cover: Floats) -> Floats:
    """Return [4, H, W]: YUV of an RGB picture times its cover, and the cover."""
    to_yuv = np.stack([yuv(*part) for part in 255 * np.eye(3)], axis=1)  # columns: pure colours
    zero = np.asarray(yuv(0, 0, 0))
    matrix = to_yuv - zero[:, None]
    picture = np.tensordot(matrix, np.clip(colour, 0, 255) / 255, axes=1) + zero[:, None, None]
    return np.concatenate([picture * cover, cover[None]])


def _colour(bundle: AvatarBundle, face: Measures, below: float) -> Floats:
    """Return the mean colour of a small place under the line between the lips."""
    x, y, reach = round(face.x), round(face.y + below), max(1, round(0.25 * face.unit))
    rows = slice(max(0, y - 1), min(SIZE, y + 2))
    return bundle.portrait[rows, x - reach : x + reach + 1].reshape(-1, 3).mean(axis=0)


def _skin(bundle: AvatarBundle, face: Measures) -> Floats:
    """Return the colour of lit skin: the brighter part of the cheeks and the chin's skin."""
    y, reach = round((face.nose + face.y) / 2), round(0.5 * face.unit)
    parts = [
        bundle.portrait[y - reach : y + 1, round(face.x + side * 1.5 * face.unit) - reach :][:, : 2 * reach]
        for side in (-1, 1)
    ]
    cheeks = np.concatenate([part.reshape(-1, 3) for part in parts]).astype(np.float64)
    return np.percentile(cheeks, 75, axis=0)
