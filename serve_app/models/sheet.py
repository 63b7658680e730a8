"""A contact sheet, avatars by mouth shapes, to be looked at: `python -m serve_app.models.sheet OUT.png`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.avatars.store import AvatarStore
from serve_app.media.i420 import overlaid
from serve_app.models import idle
from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.drawing.measures import measure
from serve_app.models.drawing.painter import Painter
from serve_app.models.drawing.place import Rectangle
from serve_app.models.i420 import rgb
from serve_app.nouns import Patch, UInt8

SHAPES: Mapping[str, Mapping[str, float]] = {
    "rest": {},
    "m b p": {
        "jawOpen": 0.12,
        "mouthClose": 0.12,
        "mouthPress": 0.65,
        "mouthRollUpper": 0.26,
        "mouthRollLower": 0.3,
    },
    "f v": {"jawOpen": 0.1, "mouthUpperUp": 0.35, "mouthRollLower": 0.8},
    "th": {
        "jawOpen": 0.2,
        "mouthStretch": 0.15,
        "mouthLowerDown": 0.25,
        "mouthUpperUp": 0.08,
        "tongueOut": 0.8,
    },
    "s": {
        "jawOpen": 0.07,
        "mouthStretch": 0.5,
        "mouthSmile": 0.1,
        "mouthUpperUp": 0.25,
        "mouthLowerDown": 0.38,
    },
    "sh": {
        "jawOpen": 0.12,
        "mouthFunnel": 0.65,
        "mouthPucker": 0.12,
        "mouthUpperUp": 0.22,
        "mouthLowerDown": 0.3,
    },
    "oo": {"jawOpen": 0.2, "mouthFunnel": 0.2, "mouthPucker": 0.78},
    "oh": {"jawOpen": 0.42, "mouthFunnel": 0.6, "mouthPucker": 0.32},
    "ee": {
        "jawOpen": 0.22,
        "mouthStretch": 0.65,
        "mouthSmile": 0.28,
        "mouthUpperUp": 0.12,
        "mouthLowerDown": 0.25,
    },
    "eh": {
        "jawOpen": 0.52,
        "mouthStretch": 0.35,
        "mouthSmile": 0.12,
        "mouthUpperUp": 0.15,
        "mouthLowerDown": 0.2,
    },
    "aa": {"jawOpen": 0.88, "mouthLowerDown": 0.25},
}
"""Mouth shapes by the sounds they stand for, as `serve_app.training` teaches them."""

FPS = 30
BASE_FRAME = 40
"""The base loop's frame under the shapes; its eyes are open."""

CELL = 224
"""Width and height of a cell of the sheet, pixels."""


class Studio:
    """An avatar to be drawn by hand-made coefficients.

    Args:
        bundle: whose.
        device: where to draw.
    """

    def __init__(self, bundle: AvatarBundle, device: str = "cpu") -> None:
        where = torch.device(device)
        self.bundle = bundle
        motion = idle.head_motion(bundle, idle.num_frames(FPS), where)
        person = idle.person(bundle, FPS, where)
        self.frames: UInt8 = idle.render(person, motion)
        self._painter = Painter(bundle, person, motion, self.frames, where)
        self._device = where

    @property
    def patch(self) -> Rectangle:
        """Where speech changes the picture."""
        return self._painter.patch

    @torch.inference_mode()
    def patches(self, coefficients: Tensor, base_frame: int = BASE_FRAME) -> UInt8:
        """Return patches for [T, len(NAMES)] coefficients, all on one base frame, flat I420."""
        base = torch.full((len(coefficients),), base_frame, device=self._device)
        drawn: UInt8 = self._painter.draw(coefficients.to(self._device), base).cpu().numpy()
        return drawn

    def pictures(self, coefficients: Tensor, base_frame: int = BASE_FRAME) -> UInt8:
        """Return whole pictures, [T, SIZE, SIZE, 3] RGB."""
        frame, place = self.frames[base_frame], self.patch
        return np.stack(
            [
                rgb(overlaid(frame, SIZE, SIZE, Patch(place.x, place.y, place.w, place.h, patch)), SIZE, SIZE)
                for patch in self.patches(coefficients, base_frame)
            ]
        )


def coefficients_of(shapes: Sequence[Mapping[str, float]]) -> Tensor:
    """Return [T, len(NAMES)] coefficients, 0 where a shape names none."""
    values = torch.zeros(len(shapes), len(NAMES))
    for row, shape in zip(values, shapes, strict=True):
        for name, value in shape.items():
            row[INDEX[name]] = value
    return values


def contact_sheet(bundles: Sequence[AvatarBundle]) -> Image.Image:
    """Return a picture with a row for each avatar and a column for each mouth shape."""
    head = 34
    names = list(SHAPES)
    sheet = Image.new("RGB", (CELL * len(names), head + CELL * len(bundles)), (255, 255, 255))
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=20)
    for column, name in enumerate(names):
        write.text((CELL * column + CELL / 2, head / 2), name, fill=(40, 40, 40), font=font, anchor="mm")
    for row, bundle in enumerate(bundles):
        pictures = Studio(bundle).pictures(coefficients_of(list(SHAPES.values())))
        for column, picture in enumerate(pictures):
            cell = Image.fromarray(picture).crop(_close_up(bundle))
            cell = cell.resize((CELL - 4, CELL - 4), Image.Resampling.LANCZOS)
            sheet.paste(cell, (CELL * column + 2, head + CELL * row + 2))
    return sheet


def _close_up(bundle: AvatarBundle) -> tuple[float, float, float, float]:
    """Return a square from the nose to below the chin."""
    face = measure(bundle)
    half = 1.3 * (face.chin - face.nose) / 2 + 8
    middle = (face.nose + face.chin) / 2 + 4
    return (face.x - half, middle - half, face.x + half, middle + half)


def main() -> None:
    """Write the sheet of some avatars, or of all built-in ones."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of avatars and mouth shapes.")
    parser.add_argument("out", type=Path, help="the picture to write")
    parser.add_argument("avatars", nargs="*", help="avatar ids; without any, all that are built in")
    parser.add_argument("--store", type=Path, help="folder of avatars besides the built-in ones")
    arguments = parser.parse_args()
    store = AvatarStore(arguments.store)
    contact_sheet([store.load(name) for name in arguments.avatars or store.ids()]).save(
        arguments.out, optimize=True
    )


if __name__ == "__main__":
    main()
