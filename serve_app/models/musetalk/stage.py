"""What MuseTalk needs of an avatar: the base loop, and for each of its frames the face and where it goes.

L counts frames of the base loop; h x w is the rectangle that speaking frames change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.avatars.points68 import points68
from serve_app.errors import AvatarInvalid
from serve_app.models import idle
from serve_app.models.drawing.place import Rectangle, covering
from serve_app.models.musetalk import blending, crop, masks
from serve_app.models.musetalk.networks import Networks
from serve_app.nouns import BaseLoop, UInt8

CHUNK = 8
"""Frames that are looked at together."""

MIN_FACE = 48
"""Pixels that a face must have across: a smaller one is but a smear to networks that see 256."""

STEADY = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9
"""Weights of neighbouring frames in a box: found landmarks tremble, and a painted face trembles with its
box."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """An avatar, prepared.

    Attributes:
        loop: its idle motion.
        place: what speaking frames change, of every frame of the loop.
        tensors: "latents" [L, 8, 32, 32] as `Networks.encode` returns them, "boxes" [L, 4] float32,
            "base" and "cover" [L, w * h * 3 / 2] uint8: the loop's own pixels, and how much of each a
            painted face hides.
    """

    loop: BaseLoop
    place: Rectangle
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Mask:
    """A mask in the square around a box, and that square in shares of the box: left, top, right, bottom."""

    pixels: UInt8
    square: npt.NDArray[np.float64]
    used: npt.NDArray[np.float64]


@torch.inference_mode()
def prepare(bundle: AvatarBundle, fps: int, networks: Networks) -> Stage:
    """Prepare an avatar where the networks are.

    Raises:
        AvatarInvalid: its face is too small, or the networks cannot look at it.
    """
    device = networks.device
    _check(bundle)
    found = idle.base_loop(bundle, fps, device)
    points = np.stack([points68(face) for face in found.faces])
    boxes = _steady(crop.lowered(crop.face_box(points), SIZE))
    # A still's face keeps its shape; one that was filmed is drawn anew for each frame.
    sources = [points68(bundle.landmarks)] if bundle.footage is None else list(points)
    drawn = [_mask(source) for source in sources]
    place = _place(drawn, boxes)
    on_device = torch.from_numpy(boxes.astype(np.float32)).to(device)
    frames = torch.from_numpy(found.loop.frames).to(device)
    latents = _latents(networks, frames, on_device)
    if not bool(latents.isfinite().all()):
        raise AvatarInvalid(f"avatar {bundle.avatar_id!r}: expected latents of its face, found no numbers")
    tensors = {
        "latents": latents,
        "boxes": on_device,
        "base": _crops(frames, place),
        "cover": _covers(drawn, boxes, place, device),
    }
    return Stage(found.loop, place, tensors)


def _check(bundle: AvatarBundle) -> None:
    faces = [bundle.landmarks] if bundle.footage is None else bundle.footage.faces
    edges = crop.face_box(np.stack([points68(face) for face in faces]))
    across = float(np.minimum(edges[:, 2] - edges[:, 0], edges[:, 3] - edges[:, 1]).min())
    if across < MIN_FACE:
        raise AvatarInvalid(
            f"avatar {bundle.avatar_id!r}: expected a face of {MIN_FACE} px or more, found {across:.0f}"
        )


def _steady(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return boxes [L, 4] of an endless loop as means over their neighbours."""
    reach = len(STEADY) // 2
    shifted = (np.roll(boxes, at - reach, axis=0) * weight for at, weight in enumerate(STEADY))
    return np.sum(list(shifted), axis=0)


def _mask(points: npt.NDArray[np.floating]) -> _Mask:
    box = np.round(crop.lowered(crop.face_box(points), SIZE)).astype(np.int64)
    left, top, side = square = crop.mask_square(box)
    pixels = masks.soft_mask(masks.region(masks.classes_of(points, square)), box, square)
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    used = np.array([columns[0] + left, rows[0] + top, columns[-1] + 1 + left, rows[-1] + 1 + top])
    return _Mask(
        pixels, _shares(np.array([left, top, left + side, top + side]), box), _shares(used, box).clip(0, 1)
    )


def _shares(edges: npt.NDArray[np.int64], box: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return (edges - np.tile(box[:2], 2)) / np.tile(box[2:] - box[:2], 2)


def _within(boxes: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what is at shares [..., 4] of boxes [..., 4], in pixels."""
    corner, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([corner + shares[..., :2] * size, corner + shares[..., 2:] * size], axis=-1)


def _place(drawn: Sequence[_Mask], boxes: npt.NDArray[np.float64]) -> Rectangle:
    edges = _within(boxes, np.stack([mask.used for mask in drawn]))
    return covering(
        float(edges[:, 0].min()) - 1,
        float(edges[:, 1].min()) - 1,
        float(edges[:, 2].max()) + 1,
        float(edges[:, 3].max()) + 1,
    )


def _latents(networks: Networks, frames: Tensor, boxes: Tensor) -> Tensor:
    parts = []
    for some, where in zip(torch.split(frames, CHUNK), torch.split(boxes, CHUNK), strict=True):
        pictures = blending.to_rgb(some, SIZE, SIZE)
        parts.append(networks.encode(crop.faces(pictures, where)))
    return torch.cat(parts)


def _crops(frames: Tensor, place: Rectangle) -> Tensor:
    """Cut the same rectangle out of all I420 frames, [L, w * h * 3 / 2]."""
    half = SIZE // 2
    luma = frames[:, : SIZE * SIZE].view(-1, SIZE, SIZE)[:, place.rows, place.columns]
    chroma = frames[:, SIZE * SIZE :].view(-1, 2, half, half)
    rows = slice(place.y // 2, (place.y + place.h) // 2)
    columns = slice(place.x // 2, (place.x + place.w) // 2)
    return torch.cat([luma.flatten(1), chroma[:, :, rows, columns].flatten(1)], dim=1)


def _covers(
    drawn: Sequence[_Mask], boxes: npt.NDArray[np.float64], place: Rectangle, device: torch.device
) -> Tensor:
    """Return how much of each pixel of the rectangle is repainted, [L, w * h * 3 / 2] uint8."""
    covers = []
    for number in range(0, len(boxes), CHUNK):
        some = boxes[number : number + CHUNK]
        pasted = []
        for at, box in enumerate(some, number):
            mask = drawn[min(at, len(drawn) - 1)]
            pixels = torch.from_numpy(mask.pixels).to(device, torch.float32)
            square = torch.from_numpy(_within(box, mask.square).astype(np.float32)).to(device)
            pasted.append(blending.pasted(pixels[None, None], square[None], place))
        cover = torch.cat(pasted) * _inside(torch.from_numpy(some.astype(np.float32)).to(device), place)
        chroma = functional.avg_pool2d(cover, 2).expand(-1, 2, -1, -1)
        flat = torch.cat([cover.flatten(1), chroma.flatten(1)], dim=1)
        covers.append(flat.add_(0.5).to(torch.uint8))
    return torch.cat(covers)


def _inside(boxes: Tensor, place: Rectangle) -> Tensor:
    """Return how much of each pixel lies within boxes [N, 4], [N, 1, h, w] from 0 to 1.

    A face is not painted beyond its box, whatever a mask's soft edge asks for.
    """
    x = torch.arange(place.w, device=boxes.device) + place.x
    y = torch.arange(place.h, device=boxes.device) + place.y
    left, top, right, bottom = (edge[:, None] for edge in boxes.unbind(1))
    across = (torch.minimum(x + 1, right) - torch.maximum(x, left)).clamp(0.0, 1.0)
    down = (torch.minimum(y + 1, bottom) - torch.maximum(y, top)).clamp(0.0, 1.0)
    return (down[:, :, None] * across[:, None])[:, None]
