"""Planes of I420 pictures on a device: BT.601, limited range, as in ITU-R BT.601-7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.nouns import UInt8

_TO_YUV = np.array(
    [
        [65.481, 128.553, 24.966],
        [-37.797, -74.203, 112.0],
        [112.0, -93.786, -18.214],
    ]
)
"""Rows Y, U, V for R'G'B' in [0, 1] (ITU-R BT.601-7, table 3, scaled to 8 bits)."""

_OFFSET = np.array([16.0, 128.0, 128.0])


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture on a device, float32 in [0, 255]: `luma` is [1, H, W], `chroma` is [2, H/2, W/2]: U, V."""

    luma: Tensor
    chroma: Tensor

    def crop(self, x: int, y: int, w: int, h: int) -> Planes:
        """Return a rectangle with even edges."""
        half = slice(y // 2, (y + h) // 2), slice(x // 2, (x + w) // 2)
        return Planes(self.luma[:, y : y + h, x : x + w].contiguous(), self.chroma[:, *half].contiguous())


def yuv(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """Return the Y, U, V of an 8-bit colour."""
    y, u, v = _TO_YUV @ np.array([red, green, blue]) / 255.0 + _OFFSET
    return float(y), float(u), float(v)


def planes(picture: UInt8, device: torch.device) -> Planes:
    """Put [H, W, 3] RGB on the device; a chroma sample is the mean of its four pixels."""
    converted = picture.astype(np.float64) @ _TO_YUV.T / 255.0 + _OFFSET
    whole = torch.from_numpy(converted.transpose(2, 0, 1).astype(np.float32)).to(device)
    return Planes(whole[:1], functional.avg_pool2d(whole[1:], 2))


def sample(picture: Tensor, grid: Tensor) -> Tensor:
    """Sample [C, H, W] bilinearly at [T, h, w, 2] places; return [T, C, h, w].

    Places are (x, y) from -1 to 1, edge to edge of the picture, so one grid serves luma and chroma.
    """
    many = picture[None].expand(len(grid), -1, -1, -1)
    return functional.grid_sample(many, grid, padding_mode="border", align_corners=False)


def over(luma: Tensor, chroma: Tensor, cover: Tensor, behind: Planes) -> tuple[Tensor, Tensor]:
    """Lay pictures over one that is behind them.

    Args:
        luma: [T, 1, h, w].
        chroma: [T, 2, h/2, w/2].
        cover: [T, 1, h, w] how much of a pixel they hide, 0 to 1.
        behind: [1, h, w] and [2, h/2, w/2].
    """
    half = functional.avg_pool2d(cover, 2)
    return torch.lerp(behind.luma[None], luma, cover), torch.lerp(behind.chroma[None], chroma, half)


def rounded(values: Tensor, out: Tensor) -> None:
    """Write floats in [0, 255] into a uint8 tensor of the same shape, rounded; `values` is overwritten."""
    out.copy_(values.add_(0.5))


def rgb(frame: UInt8, width: int, height: int) -> UInt8:
    """Return a flat I420 picture as [height, width, 3] RGB; each chroma sample serves four pixels."""
    area = width * height
    luma = frame[:area].reshape(height, width, 1).astype(np.float64)
    chroma = frame[area:].reshape(2, height // 2, width // 2).repeat(2, axis=1).repeat(2, axis=2)
    yuv_planes = np.concatenate([luma, chroma.transpose(1, 2, 0)], axis=2) - _OFFSET
    pixels: UInt8 = np.round(yuv_planes @ np.linalg.inv(_TO_YUV).T * 255.0).clip(0, 255).astype(np.uint8)
    return pixels
