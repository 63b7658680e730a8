"""What is behind a person: the photo's own, a colour, an image, or the green of a screen to be keyed."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from serve_app.avatars.contours import SIZE
from serve_app.avatars.matte import box_mean, fill_holes
from serve_app.avatars.photo import PhotoRefused, read_photo
from serve_app.nouns import UInt8

GREEN = (0, 177, 64)
"""Chroma key green, #00b140, as the page keys it."""

CANVAS = (200, 206, 212)
"""Behind photographs that are transparent."""

CLEARANCE_PX = 4
"""How far from the person the background counts as pure."""

WORDS = ("photo", "green", "#rrggbb")
"""What `parse_background` takes."""

_COLOR = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """What shall be behind a person.

    Attributes:
        picture: [SIZE, SIZE, 3] uint8 RGB; None keeps the photo's own.
    """

    picture: UInt8 | None = None


def parse_background(text: str) -> Background:
    """Return the background that a word or a colour names.

    Raises:
        PhotoRefused: the text is none of WORDS.
    """
    if text in ("", "photo"):
        return Background()
    if text == "green":
        return plain(GREEN)
    if match := _COLOR.fullmatch(text):
        return plain(tuple(bytes.fromhex(match[1])))
    raise PhotoRefused(
        "bad_request",
        f"background: expected {', '.join(WORDS)}, found {text[:32]!r}",
        "Name a background, or leave it out to keep the photo's own.",
    )


def plain(color: tuple[int, ...]) -> Background:
    """Return a background of one colour."""
    return Background(np.tile(np.asarray(color, np.uint8), (SIZE, SIZE, 1)))


def image_background(content: bytes) -> Background:
    """Return a background from a picture file, cut to a square from its middle.

    Raises:
        PhotoRefused: as `read_photo`.
    """
    photo = read_photo(content)
    image = Image.fromarray(on_canvas(photo.rgb, photo.opacity))
    return Background(np.asarray(ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS)))


def on_canvas(rgb: UInt8, opacity: UInt8 | None) -> UInt8:
    """Return a picture with what is transparent in it laid on CANVAS."""
    if opacity is None:
        return rgb
    return mix(rgb, np.broadcast_to(np.asarray(CANVAS, np.uint8), rgb.shape), opacity)


def mix(front: UInt8, back: UInt8, matte: UInt8) -> UInt8:
    """Lay [H, W, 3] `front` over `back` through [H, W] `matte`; exact where it is 0 or 255."""
    share = matte.astype(np.uint32)[..., None]
    return ((front * share + back * (255 - share) + 127) // 255).astype(np.uint8)


def set_behind(portrait: UInt8, matte: UInt8, background: Background) -> tuple[UInt8, UInt8]:
    """Return a portrait with its background, and the background alone.

    Args:
        portrait: [SIZE, SIZE, 3] uint8, as photographed.
        matte: [SIZE, SIZE] uint8, 255 for the person.
        background: what shall be behind.

    Returns:
        Both [SIZE, SIZE, 3] uint8; where the matte is 0 they are the same.
    """
    if background.picture is None:
        # Next to the matte a little of the person is in the background; it would be smeared all over.
        clear = box_mean(matte.astype(np.float32), CLEARANCE_PX) < 0.5
        behind = fill_holes(portrait, clear.astype(np.float32))
        behind[matte == 0] = portrait[matte == 0]
        return portrait, behind
    # At its edge a person is mixed with the old background; the colour comes from further in.
    inner = fill_holes(portrait, (matte > 235).astype(np.float32))
    return mix(
        np.where((matte > 235)[..., None], portrait, inner), background.picture, matte
    ), background.picture


def png_of(pixels: UInt8, side: int) -> bytes:
    """Return a picture as a PNG file `side` pixels wide and high."""
    image = Image.fromarray(pixels)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
