"""Which pixels of a face are repainted: the official mask, from classes or from landmarks.

MuseTalk makes its mask of a face parser's classes (Yu et al., "BiSeNet", arXiv:1808.00897, trained on
CelebAMask-HQ). That parser's weights are not free to use for every purpose, so live avatars draw the class of
skin from their landmarks: the jaw's edge, closed over the brows. What follows is the same for both.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from serve_app.nouns import UInt8

PARSED = 512
"""Side of the square of classes."""

CHEEKS = 90
"""Columns left and right of the middle from which on, themselves included, the mask is thinned."""

SKIN, NOSE, NECK = 1, 10, 14
MOUTH = (11, 12, 13)
"""Classes of CelebAMask-HQ: inside, upper and lower lip."""

UPPER_KEPT = 0.5
"""Share of the square's height above which nothing is repainted."""

REALTIME, OFFLINE = 0.1, 0.05
"""Widths of the blur as a share of the square: of the official real-time and offline programs."""

Mode = Literal["jaw", "neck", "raw"]

Bools = npt.NDArray[np.bool_]


def _jaw_kernel() -> Bools:
    """A cone whose tip points up, on a broad foot, [33, 33]."""
    kernel = np.zeros((33, 33), bool)
    for row in range(10, 33):
        half = min(row, 20) - 10
        kernel[row, 16 - half : 16 + half + 1] = True
    return kernel


def _cheek_kernel() -> Bools:
    """An ellipse 35 wide and 3 high, as OpenCV draws one."""
    kernel = np.zeros((3, 35), bool)
    kernel[:, 17] = True
    kernel[1] = True
    return kernel


JAW_KERNEL, CHEEK_KERNEL = _jaw_kernel(), _cheek_kernel()


def dilated(region: Bools, kernel: Bools) -> Bools:
    """Return where the kernel, its middle laid on a pixel, touches the region; what is outside is empty."""
    height, width = region.shape
    above, before = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(region, ((above, above), (before, before)))
    # counts[y, x]: pixels of the region in row y before column x.
    counts = np.pad(padded.cumsum(axis=1, dtype=np.int32), ((0, 0), (1, 0)))
    found = np.zeros_like(region)
    for down, row in enumerate(kernel):
        if row.any():
            # Every row of these kernels is one run.
            first, last = int(row.argmax()), len(row) - int(row[::-1].argmax())
            rows = counts[down : down + height]
            found |= rows[:, last : last + width] > rows[:, first : first + width]
    return found


def eroded(region: Bools, kernel: Bools) -> Bools:
    """Return where the kernel lies within the region; what is outside of the picture counts as region."""
    return ~dilated(~region, kernel[::-1, ::-1])


def region(classes: UInt8, mode: Mode = "jaw") -> UInt8:
    """Return what is repainted of a parsed face.

    Args:
        classes: [PARSED, PARSED] of CelebAMask-HQ.
        mode: "jaw": skin, grown downwards and thinned at the cheeks, without the nose; "neck" and "raw":
            classes as they are, with and without the neck.

    Returns:
        [PARSED, PARSED] uint8, 0 or 255.
    """
    if mode == "jaw":
        grown = dilated(classes == SKIN, JAW_KERNEL)
        thin = eroded(eroded(grown, CHEEK_KERNEL), CHEEK_KERNEL)
        between = slice(PARSED // 2 - CHEEKS + 1, PARSED // 2 + CHEEKS)
        thin[:, between] = grown[:, between]
        kept = thin & (classes != NOSE) | np.isin(classes, MOUTH)
    else:
        kept = np.isin(classes, (SKIN, *MOUTH, *((NECK,) if mode == "neck" else ())))
    return kept.astype(np.uint8) * np.uint8(255)


def classes_of(points: npt.NDArray[np.floating], square: tuple[int, int, int]) -> UInt8:
    """Draw the class of skin from landmarks, [PARSED, PARSED].

    The nose stays a part of it: the networks paint its lower half, too.

    Args:
        points: [68, 2] in dlib's order, in pixels of the frame.
        square: left and top edge and side, as `crop.mask_square` returns it.
    """
    left, top, side = square
    edge = np.concatenate([points[:17], points[17:27][::-1]]).astype(np.float64)
    edge = (edge - (left, top)) * (PARSED / side)
    drawn = Image.new("L", (PARSED, PARSED))
    ImageDraw.Draw(drawn).polygon([(x, y) for x, y in edge.tolist()], fill=SKIN)
    return np.asarray(drawn)


def soft_mask(
    kept: UInt8, box: npt.NDArray[np.int64], square: tuple[int, int, int], blur: float = REALTIME
) -> UInt8:
    """Bring a region into the frame's pixels, within the box and the lower half, with soft edges.

    Args:
        kept: [PARSED, PARSED] as `region` returns it.
        box: of the face, whole pixels, margin included.
        square: that the region was parsed in.
        blur: REALTIME or OFFLINE.

    Returns:
        [side, side] uint8.
    """
    left, top, side = square
    resized = np.asarray(Image.fromarray(kept).resize((side, side)))
    x1, y1, x2, y2 = (int(edge) for edge in box - np.array([left, top, left, top]))
    inside = np.zeros_like(resized)
    inside[y1:y2, x1:x2] = resized[y1:y2, x1:x2]
    inside[: int(side * UPPER_KEPT)] = 0
    return blurred(inside, int(blur * side // 2 * 2) + 1)


def blurred(picture: UInt8, width: int) -> UInt8:
    """Blur with a Gaussian of an odd width, in the whole numbers of OpenCV's GaussianBlur (for 11 and more).

    The weights are 256ths; what does not fit is carried to the next one and at last to the middle. Edges are
    mirrored.
    """
    if width < 3:
        return picture
    weights = _gaussian(width)
    half = width // 2
    height, length = picture.shape
    padded = np.pad(picture.astype(np.int64), half, mode="reflect")
    across = np.zeros((len(padded), length), np.int64)
    for at, weight in enumerate(weights):
        across += weight * padded[:, at : at + length]
    both = np.zeros((height, length), np.int64)
    for at, weight in enumerate(weights):
        both += weight * across[at : at + height]
    rounded: UInt8 = ((both + (1 << 15)) >> 16).astype(np.uint8)
    return rounded


def _gaussian(width: int) -> list[int]:
    spread = 0.15 * width + 0.35
    at = np.arange(width) - (width - 1) / 2
    exact = np.exp(-(at**2) / (2 * spread**2))
    exact /= exact.sum()
    half, carried = [], 0.0
    for weight in exact[: width // 2]:
        wanted = float(weight) * 256 + carried
        half.append(round(wanted))
        carried = wanted - half[-1]
    return [*half, 256 - 2 * sum(half), *half[::-1]]
