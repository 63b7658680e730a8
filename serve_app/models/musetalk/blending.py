"""Lays painted faces into frames.

The networks' faces are RGB; frames and what leaves the replica are flat I420, of which a blend is taken plane
by plane: conversion is linear, so that it does not matter which comes first.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.models.drawing.place import Rectangle
from serve_app.models.i420 import yuv


@functools.cache
def _matrix(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return [3, 3] and [3]: YUV from 0 to 255 is matrix @ RGB from 0 to 1 + offset."""
    black = torch.tensor(yuv(0.0, 0.0, 0.0), dtype=torch.float64)
    primaries = torch.tensor([yuv(255.0, 0.0, 0.0), yuv(0.0, 255.0, 0.0), yuv(0.0, 0.0, 255.0)])
    matrix = (primaries.double() - black).T
    return matrix.float().to(device), black.float().to(device)


def to_rgb(frames: Tensor, width: int, height: int) -> Tensor:
    """Return flat I420 frames, [N, width * height * 3 / 2] uint8, as [N, 3, height, width] from 0 to 1."""
    area = width * height
    luma = frames[:, :area].view(-1, 1, height, width).float()
    chroma = frames[:, area:].view(-1, 2, height // 2, width // 2).float()
    whole = torch.cat([luma, functional.interpolate(chroma, scale_factor=2.0, mode="bilinear")], dim=1)
    matrix, offset = _matrix(frames.device)
    inverse = torch.linalg.inv(matrix)
    return torch.einsum("ij,njhw->nihw", inverse, whole - offset[:, None, None]).clamp(0.0, 1.0)


def to_i420(pictures: Tensor) -> Tensor:
    """Return [N, 3, h, w] RGB from 0 to 1 as flat I420, [N, w * h * 3 / 2] float32 from 0 to 255."""
    matrix, offset = _matrix(pictures.device)
    whole = torch.einsum("ij,njhw->nihw", matrix, pictures.float()) + offset[:, None, None]
    chroma = functional.avg_pool2d(whole[:, 1:], 2)
    return torch.cat([whole[:, 0].flatten(1), chroma.flatten(1)], dim=1)


def blended(base: Tensor, painted: Tensor, cover: Tensor) -> Tensor:
    """Lay what is painted over a base.

    Args:
        base: uint8 of any shape.
        painted: floating point of that shape, from 0 to 255.
        cover: uint8 of that shape: 0 keeps the base, 255 hides it.

    Returns:
        uint8 of that shape, rounded.
    """
    base = base.float()
    return torch.lerp(base, painted.float(), cover.float() / 255.0).add_(0.5).to(torch.uint8)


def pasted(faces: Tensor, boxes: Tensor, place: Rectangle) -> Tensor:
    """Resize faces to their boxes, bilinearly, as a rectangle of the frame sees them.

    Args:
        faces: [N, C, SIDE, SIDE].
        boxes: [N, 4] float32 left, top, right, bottom edges in pixels of the frame.
        place: the rectangle.

    Returns:
        [N, C, place.h, place.w]; outside of its box a face's edge is repeated.
    """
    x = torch.arange(place.w, device=boxes.device) + (place.x + 0.5)
    y = torch.arange(place.h, device=boxes.device) + (place.y + 0.5)
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    across = (x - left) * (2.0 / (right - left)) - 1.0  # [N, w]
    down = (y - top) * (2.0 / (bottom - top)) - 1.0  # [N, h]
    grid = torch.stack(
        [across[:, None].expand(-1, place.h, -1), down[:, :, None].expand(-1, -1, place.w)], dim=3
    )
    return functional.grid_sample(faces, grid, padding_mode="border", align_corners=False)
