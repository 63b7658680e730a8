"""Painting with soft edges: curves and strokes on a picture several times its final size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from serve_app.nouns import UInt8

Color = tuple[int, int, int]
Point = tuple[float, float]
Points = Sequence[Point]
Floats = npt.NDArray[np.float64]

SCALE = 4
"""Painted pixels for each final one, in x and in y: what makes edges smooth."""


def curve(points: Points, *, closed: bool, steps: int = 24) -> Floats:
    """Return [N, 2] points of the Catmull-Rom spline through `points`."""
    knots = np.asarray(points, float)
    ends = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    knots = np.concatenate([ends[0], knots, ends[1]])
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    pieces = []
    for p0, p1, p2, p3 in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        bend = 2 * p0 - 5 * p1 + 4 * p2 - p3
        twist = -p0 + 3 * p1 - 3 * p2 + p3
        pieces.append(0.5 * (2 * p1 + (p2 - p0) * t + bend * t**2 + twist * t**3))
    if not closed:
        pieces.append(knots[-1:])
    return np.concatenate(pieces)


class Canvas:
    """A picture being painted; every length is in final pixels.

    Args:
        size: final width and height.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._side = size * SCALE
        self._image = Image.new("RGB", (self._side, self._side))

    def shape(self, points: Points, *, blur: float = 0.0) -> Image.Image:
        """Return the mask of the smooth closed curve through `points`."""
        mask = self._empty()
        ImageDraw.Draw(mask).polygon(
            [(x * SCALE, y * SCALE) for x, y in curve(points, closed=True)], fill=255
        )
        return self._blurred(mask, blur)

    def oval(self, center: Point, rx: float, ry: float, *, blur: float = 0.0) -> Image.Image:
        """Return the mask of an ellipse."""
        mask = self._empty()
        (x, y) = center
        box = [(x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE]
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        return self._blurred(mask, blur)

    def stroke(self, points: Points, widths: Sequence[float], *, blur: float = 0.0) -> Image.Image:
        """Return the mask of a brush stroke along the curve; its width follows `widths`."""
        line = curve(points, closed=False)
        along = np.linspace(0.0, 1.0, len(line))
        half = np.interp(along, np.linspace(0.0, 1.0, len(widths)), widths) / 2
        heading = np.gradient(line, axis=0)
        heading /= np.maximum(np.hypot(*heading.T)[:, None], 1e-9)
        side = np.stack([-heading[:, 1], heading[:, 0]], axis=1) * half[:, None]
        outline = np.concatenate([line + side, (line - side)[::-1]])
        mask = self._empty()
        ImageDraw.Draw(mask).polygon([(x * SCALE, y * SCALE) for x, y in outline], fill=255)
        return self._blurred(mask, blur)

    def fill(
        self, mask: Image.Image, color: Color, opacity: float = 1.0, *, within: Image.Image | None = None
    ) -> None:
        """Lay `color` over the picture through `mask`, cut to `within`."""
        box = mask.getbbox()
        if box is None:
            return
        mask = mask.crop(box)
        if within is not None:
            mask = ImageChops.multiply(mask, within.crop(box))
        if opacity < 1.0:
            mask = mask.point(lambda value: round(value * opacity))
        self._image.paste(color, box, mask)

    def fade(self, mask: Image.Image, top: Color, bottom: Color, y0: float, y1: float) -> None:
        """Lay a vertical gradient over the picture: `top` above y0, `bottom` below y1."""
        t = np.clip((np.arange(self._side) / SCALE - y0) / (y1 - y0), 0.0, 1.0)[:, None]
        rows = np.asarray(top) * (1 - t) + np.asarray(bottom) * t
        strip = Image.fromarray(np.round(rows).astype(np.uint8)[:, None])
        self._image.paste(strip.resize((self._side, self._side)), (0, 0), mask)

    def glow(self, center: Point, radius: float, inner: Color, outer: Color) -> None:
        """Fill the whole picture with a round gradient."""
        axis = (np.arange(self.size) + 0.5)[:, None]
        far = np.hypot(axis.T - center[0], axis - center[1]) / radius
        t = (1 - np.clip(far, 0.0, 1.0) ** 2) ** 2
        shades = np.asarray(outer) + (np.asarray(inner) - np.asarray(outer)) * t[..., None]
        small = Image.fromarray(np.round(shades).astype(np.uint8))
        self._image.paste(small.resize((self._side, self._side), Image.Resampling.BICUBIC))

    def pixels(self) -> UInt8:
        """Return the finished picture, [size, size, 3] RGB."""
        return np.asarray(self._image.resize((self.size, self.size), Image.Resampling.BOX))

    def _empty(self) -> Image.Image:
        return Image.new("L", (self._side, self._side))

    def _blurred(self, mask: Image.Image, blur: float) -> Image.Image:
        box = mask.getbbox()
        if not blur or box is None:
            return mask
        reach = math.ceil(3 * blur * SCALE)
        box = (box[0] - reach, box[1] - reach, box[2] + reach, box[3] + reach)
        mask.paste(mask.crop(box).filter(ImageFilter.GaussianBlur(blur * SCALE)), box[:2])
        return mask


def either(*masks: Image.Image) -> Image.Image:
    """Return the union of masks."""
    union = masks[0]
    for mask in masks[1:]:
        union = ImageChops.lighter(union, mask)
    return union


def both(first: Image.Image, second: Image.Image) -> Image.Image:
    """Return the intersection of two masks."""
    return ImageChops.multiply(first, second)


def outside(mask: Image.Image) -> Image.Image:
    """Return the complement of a mask."""
    return ImageChops.invert(mask)
