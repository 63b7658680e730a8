"""Where MuseTalk looks: the box of a face, its 256x256 crop, and the square that the mask lies in.

Boxes are (x1, y1, x2, y2): left, top, right, bottom edges in pixels of the frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.models.musetalk.networks import SIDE

MARGIN = 10
"""Pixels by which version 1.5 lowers the lower edge, so that an opened jaw stays within."""

EXPAND = 1.5
"""How much wider than the box the mask's square is."""

NOSE = 29
"""Point of the 68 that is in the middle of a box: the nose's bridge, above the tip."""

TAPS = 8
"""Pixels that one of a Lanczos filter with four lobes comes from."""

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def face_box(points: npt.NDArray[np.floating]) -> Floats:
    """Return the box around a face whose middle is the nose, before version 1.5's margin, [..., 4].

    Args:
        points: [..., 68, 2] (x, y) in dlib's order.
    """
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    lowest = y.max(axis=-1)
    highest = np.maximum(0.0, 2.0 * y[..., NOSE] - lowest)
    return np.stack([x.min(axis=-1), highest, x.max(axis=-1), lowest], axis=-1)


def lowered(box: Floats, height: int) -> Floats:
    """Return boxes [..., 4] with version 1.5's margin, within a frame of `height` rows."""
    low = box.copy()
    low[..., 3] = np.minimum(box[..., 3] + MARGIN, height)
    return low


def mask_square(box: Whole) -> tuple[int, int, int]:
    """Return the square around a whole-numbered box that masks are made in.

    Returns:
        Its left and top edge, which may lie outside of the frame, and its side.
    """
    x1, y1, x2, y2 = (int(edge) for edge in box)
    half = int(max(x2 - x1, y2 - y1) // 2 * EXPAND)
    return (x1 + x2) // 2 - half, (y1 + y2) // 2 - half, 2 * half


def lanczos(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Return the matrices that resize spans of a line of pixels to SIDE of them.

    A Lanczos filter with four lobes over the source's own pixels, its weights normalised, edges repeated:
    what OpenCV calls INTER_LANCZOS4, for spans that need not begin at whole pixels.

    Args:
        first: [N] float32: where the spans begin.
        last: [N] float32: where they end.
        size: pixels of the line.

    Returns:
        [N, SIDE, size].
    """
    step = (last - first) / SIDE
    index = torch.arange(SIDE, device=first.device, dtype=first.dtype)
    middle = first[:, None] + (index + 0.5) * step[:, None] - 0.5  # [N, SIDE]
    before = middle.floor()
    offsets = torch.arange(TAPS, device=first.device) - (TAPS // 2 - 1)
    distance = (middle - before)[..., None] - offsets
    weights = distance.sinc() * (distance / (TAPS // 2)).sinc()
    weights = weights / weights.sum(dim=2, keepdim=True)
    source = (before.long()[..., None] + offsets).clamp(0, size - 1)
    matrices = torch.zeros(*middle.shape, size, device=first.device, dtype=first.dtype)
    return matrices.scatter_add_(2, source, weights)


def faces(frames: Tensor, boxes: Tensor) -> Tensor:
    """Cut faces out of frames and resize them.

    Args:
        frames: [N, C, H, W] float32 from 0 to 1.
        boxes: [N, 4] float32.

    Returns:
        [N, C, SIDE, SIDE], from 0 to 1.
    """
    down = lanczos(boxes[:, 1], boxes[:, 3], frames.shape[2])
    across = lanczos(boxes[:, 0], boxes[:, 2], frames.shape[3])
    return (down[:, None] @ frames @ across[:, None].transpose(2, 3)).clamp(0.0, 1.0)
