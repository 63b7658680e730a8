"""Cuts a portrait for the networks, and lays what they make over it as I420."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.models.drawing.place import Rectangle, covering
from serve_app.models.i420 import Planes, over, planes, rounded, yuv
from serve_app.models.liveportrait.crop import Matrix, Square
from serve_app.nouns import UInt8

CROP = 512
"""Side of the crop that is reduced to the networks' input, as the published code does."""

FADE = 0.14
"""Where the crop's edge fades out: this share of half its side. The generator's edges are not its best."""

ROOM_PX = 12
"""How far around the person pictures are laid over the portrait: a head may move so far."""

SEEN = 1 / 512
"""Cover below which no 8-bit colour can change."""


def cut(bundle: AvatarBundle, square: Square, side: int, device: torch.device) -> Tensor:
    """Return the face as the networks want it, [1, 3, side, side] RGB in [0, 1]; black beyond its edges."""
    picture = torch.from_numpy(bundle.portrait.transpose(2, 0, 1).copy()).to(device, torch.float32)[None]
    back: Matrix = np.linalg.inv(square.to_crop(CROP)).astype(np.float64)
    places = _places(back, Rectangle(0, 0, CROP, CROP), SIZE, device)
    crop = functional.grid_sample(picture, places, align_corners=False)
    return functional.interpolate(crop, size=(side, side), mode="area") / 255.0


@dataclass(frozen=True)
class Pasting:
    """Where the pictures of one avatar go.

    Attributes:
        place: the rectangle of the portrait that they change.
        tensors: what `paste` needs on the device, by name.
    """

    place: Rectangle
    tensors: Mapping[str, Tensor]


def pasting(bundle: AvatarBundle, square: Square, side: int, device: torch.device) -> Pasting:
    """Return where pictures of `side` x `side` pixels go on an avatar's portrait."""
    whole = Rectangle(0, 0, SIZE, SIZE)
    to_crop = square.to_crop(side)
    cover = _inside(_places(to_crop, whole, side, device)) * _around_person(bundle, device)
    seen = (cover[0, 0] >= SEEN).nonzero().cpu().numpy()
    if len(seen) == 0:
        seen = np.array([[0, 0], [SIZE - 1, SIZE - 1]])
    (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0)
    place = covering(float(left), float(top), float(right) + 1, float(bottom) + 1)
    behind = planes(bundle.portrait, device).crop(place.x, place.y, place.w, place.h)
    return Pasting(
        place,
        {
            "places": _places(to_crop, place, side, device),
            "cover": cover[:, :, place.rows, place.columns].contiguous(),
            "luma": behind.luma,
            "chroma": behind.chroma,
        },
    )


def paste(pictures: Tensor, avatar: Mapping[str, Tensor]) -> Tensor:
    """Lay pictures over the portrait.

    Args:
        pictures: [B, 3, S, S] RGB in [0, 1].
        avatar: the tensors of its `Pasting`.

    Returns:
        [B, h * w * 3 // 2] uint8, I420 of the changed rectangle.
    """
    places = avatar["places"].expand(len(pictures), -1, -1, -1)
    # Between its four pixels: the places are an affine function of the pixel, so their mean is.
    half = functional.avg_pool2d(avatar["places"].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    half = half.expand(len(pictures), -1, -1, -1)
    colours = functional.conv2d(pictures.float(), *_to_yuv(pictures.device))
    luma, chroma = (
        functional.grid_sample(part, grid, padding_mode="border", align_corners=False)
        for part, grid in ((colours[:, :1], places), (colours[:, 1:], half))
    )
    cover = avatar["cover"].expand(len(pictures), -1, -1, -1)
    luma, chroma = over(luma, chroma, cover, Planes(avatar["luma"], avatar["chroma"]))
    area = luma.shape[2] * luma.shape[3]
    out = torch.empty(len(pictures), area * 3 // 2, dtype=torch.uint8, device=pictures.device)
    rounded(luma.flatten(1), out[:, :area])
    rounded(chroma.flatten(1), out[:, area:])
    return out


def still(bundle: AvatarBundle) -> UInt8:
    """Return the portrait as I420, [SIZE * SIZE * 3 // 2]."""
    whole = planes(bundle.portrait, torch.device("cpu"))
    flat = torch.cat([whole.luma.flatten(), whole.chroma.flatten()])
    pixels: UInt8 = (flat + 0.5).to(torch.uint8).numpy()
    return pixels


def inlaid(portrait: UInt8, patches: UInt8, place: Rectangle) -> UInt8:
    """Return whole frames, [L, SIZE * SIZE * 3 // 2]: a portrait with patches on it."""
    frames: UInt8 = np.repeat(portrait[None], len(patches), axis=0)
    area = SIZE * SIZE
    own = place.w * place.h
    frames[:, :area].reshape(-1, SIZE, SIZE)[:, place.rows, place.columns] = patches[:, :own].reshape(
        -1, place.h, place.w
    )
    half = Rectangle(place.x // 2, place.y // 2, place.w // 2, place.h // 2)
    frames[:, area:].reshape(-1, 2, SIZE // 2, SIZE // 2)[:, :, half.rows, half.columns] = patches[
        :, own:
    ].reshape(-1, 2, half.h, half.w)
    return frames


def _places(matrix: Matrix, rectangle: Rectangle, side: int, device: torch.device) -> Tensor:
    """Return where the pixels of a rectangle lie on a picture of `side` pixels, [1, h, w, 2] for grid_sample.

    `matrix` takes their positions to that picture's.
    """
    x = np.arange(rectangle.x, rectangle.x + rectangle.w, dtype=np.float64)
    y = np.arange(rectangle.y, rectangle.y + rectangle.h, dtype=np.float64)[:, None]
    places = np.stack([row[0] * x + row[1] * y + row[2] for row in matrix[:2]], axis=2)
    return torch.from_numpy(((2 * places + 1) / side - 1).astype(np.float32))[None].to(device)


def _inside(places: Tensor) -> Tensor:
    """Return how far within a picture places are, [1, 1, h, w]: 0 at its edge and beyond, 1 further in."""
    depth = ((1 - places.abs()) / FADE).clamp(0.0, 1.0)
    depth = depth * depth * (3 - 2 * depth)
    return depth.prod(dim=3)[:, None]


def _around_person(bundle: AvatarBundle, device: torch.device) -> Tensor:
    """Return the person's matte with room around it, softly ended, [1, 1, SIZE, SIZE]."""
    matte = torch.from_numpy(bundle.matte.astype(np.float32) / 255.0)[None, None].to(device)
    wide = functional.max_pool2d(matte, 2 * ROOM_PX + 1, stride=1, padding=ROOM_PX)
    padded = functional.pad(wide, (ROOM_PX // 2,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * (ROOM_PX // 2) + 1, stride=1)


def _to_yuv(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return BT.601 for RGB in [0, 1] as the weight and bias of a convolution."""
    black = np.array(yuv(0, 0, 0))
    columns = [np.array(yuv(*colour)) - black for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    weight = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))[:, :, None, None]
    return weight.to(device), torch.from_numpy(black.astype(np.float32)).to(device)
