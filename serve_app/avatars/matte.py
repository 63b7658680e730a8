"""Which pixels are the person: a network's coarse mask, fitted to the picture's own edges."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve_app.nouns import UInt8

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

RADIUS_PX = 6
"""How far an edge may lie from where the network put it; its own pixels are 2 wide."""

SMOOTHNESS = 4e-4
"""Variance of brightness, in units of full scale squared, below which a region counts as flat."""


def refine_matte(rgb: UInt8, coarse: UInt8) -> UInt8:
    """Return a matte whose edges follow those of the picture.

    A guided filter (He, Sun, Tang, "Guided image filtering", ECCV 2010) with the brightness as its guide.

    Args:
        rgb: [H, W, 3] uint8.
        coarse: [H, W] uint8.
    """
    guide = np.asarray(Image.fromarray(rgb).convert("L"), np.float32) / 255
    mask = coarse.astype(np.float32) / 255
    mean_guide, mean_mask = box_mean(guide, RADIUS_PX), box_mean(mask, RADIUS_PX)
    variance = box_mean(guide * guide, RADIUS_PX) - mean_guide**2
    covariance = box_mean(guide * mask, RADIUS_PX) - mean_guide * mean_mask
    slope = covariance / (variance + SMOOTHNESS)
    offset = mean_mask - slope * mean_guide
    fitted = box_mean(slope, RADIUS_PX) * guide + box_mean(offset, RADIUS_PX)
    # What is nearly nothing or nearly all becomes so: a background that is 2 % person would shimmer.
    fitted = np.clip((fitted - 0.06) / 0.88, 0, 1)
    # Far from any edge the network is right, whatever the guide's texture says.
    fitted = np.where(mean_mask > 0.995, 1.0, np.where(mean_mask < 0.005, 0.0, fitted))
    return np.round(fitted * 255).astype(np.uint8)


def box_mean(values: Floats, radius: int) -> Floats:
    """Return the mean of the square of 2 * radius + 1 around each value; edges are repeated outwards."""
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis, dtype=np.float64)
        length = values.shape[axis]
        upper = np.take(total, range(size, size + length), axis=axis)
        lower = np.take(total, range(length), axis=axis)
        values = ((upper - lower) / size).astype(np.float32)
    return values


def fill_holes(rgb: UInt8, known: Floats) -> UInt8:
    """Return the picture with its unknown pixels filled smoothly from the known ones around them.

    The picture is halved until nothing is unknown; each level then fills the holes of the one above it
    (push-pull: Gortler et al., "The lumigraph", SIGGRAPH 1996).

    Args:
        rgb: [H, W, 3] uint8.
        known: [H, W] float32, 0 to 1: how much of each pixel is known.
    """
    return np.round(np.clip(_filled(rgb.astype(np.float32), known.astype(np.float32)), 0, 255)).astype(
        np.uint8
    )


def _filled(color: Floats, weight: Floats) -> Floats:
    height, width = weight.shape
    if min(height, width) <= 1 or float(weight.min()) >= 1.0:
        return color
    tall, wide = height + height % 2, width + width % 2
    weight_of = np.pad(weight, ((0, tall - height), (0, wide - width)))
    weighted = np.pad(color * weight[..., None], ((0, tall - height), (0, wide - width), (0, 0)))
    total = weight_of.reshape(tall // 2, 2, wide // 2, 2).sum((1, 3))
    half = weighted.reshape(tall // 2, 2, wide // 2, 2, 3).sum((1, 3)) / np.maximum(total, 1e-6)[..., None]
    coarse = _filled(half.astype(np.float32), np.minimum(total, 1.0).astype(np.float32))
    bands = [
        np.asarray(Image.fromarray(coarse[..., band]).resize((wide, tall), Image.Resampling.BILINEAR))
        for band in range(3)
    ]
    around = np.stack(bands, axis=-1)[:height, :width]
    mixed = color * weight[..., None] + around * (1 - weight[..., None])
    return mixed.astype(np.float32)
