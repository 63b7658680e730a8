"""A photograph becomes an avatar: read, find the face, straighten and crop, cut out, set behind, pack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve_app.avatars.background import Background, on_canvas, set_behind
from serve_app.avatars.bundle import SIZE, AvatarBundle, Footage, Motion, pack
from serve_app.avatars.closing import close_mouth
from serve_app.avatars.created import Created, Progress
from serve_app.avatars.face import CHIN, TOP, landmarks_of, pose_of, the_face
from serve_app.avatars.landmarks import Landmarker, Points
from serve_app.avatars.matte import refine_matte
from serve_app.avatars.photo import Photo, PhotoRefused, read_photo
from serve_app.avatars.store import Card
from serve_app.errors import AvatarInvalid
from serve_app.nouns import UInt8

FACE_SHARE = 0.46
"""Height of the face, hairline to chin, over that of the portrait."""

MAX_FACE_SHARE = 0.62
"""The same where the photo has no more room around the head."""

HEAD_ROOM = 0.24
"""Above the hairline, over the portrait's height."""

STEPS = ("reading the photo", "finding the face", "cropping", "cutting out the person", "packing")


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A square cut from a photo.

    Attributes:
        rgb: [SIZE, SIZE, 3] uint8.
        opacity: [SIZE, SIZE] uint8; None where the photo is opaque.
    """

    rgb: UInt8
    opacity: UInt8 | None


def prepare_avatar(
    content: bytes,
    *,
    avatar_id: str,
    name: str,
    source: str = "",
    background: Background | None = None,
    tools: Path | None = None,
    progress: Progress = lambda number, text: None,
) -> Created:
    """Make an avatar of a photograph.

    Args:
        content: of the file.
        avatar_id: what it shall be called.
        name: for people.
        source: where the photo comes from and under which terms.
        background: what shall be behind the person; None keeps the photo's own.
        tools: the environment that finds faces; None for the default one.
        progress: told of each step.

    Raises:
        PhotoRefused: the photo cannot become an avatar; the text says why.
        ToolsMissing: the tool environment is missing or does not work.
    """
    progress(0, STEPS[0])
    photo = read_photo(content)
    rgb = on_canvas(photo.rgb, photo.opacity)
    height, width = rgb.shape[:2]
    progress(1, STEPS[1])
    with Landmarker(tools) as landmarker:
        face, notes = the_face(landmarker.faces(rgb), width, height)
        progress(2, STEPS[2])
        crop = crop_around(face, Photo(rgb, photo.opacity))
        # The points of the straightened portrait are the best there are.
        near, _ = the_face(landmarker.faces(crop.rgb), SIZE, SIZE)
        progress(3, STEPS[3])
        matte = refine_matte(crop.rgb, landmarker.matte(crop.rgb))
    if crop.opacity is not None:
        matte = np.minimum(matte, crop.opacity)
    progress(4, STEPS[4])
    card = Card(avatar_id, name, source)
    return finish(card, crop.rgb, near, matte, background or Background(), notes=notes)


def finish(
    card: Card,
    rgb: UInt8,
    face: Points,
    matte: UInt8,
    background: Background,
    *,
    notes: Sequence[str] = (),
    footage: Footage | None = None,
) -> Created:
    """Close the mouth of a straightened portrait, set what is behind, and pack the bundle.

    Args:
        card: what it is called.
        rgb: [SIZE, SIZE, 3] the portrait.
        face: its points in the portrait.
        matte: [SIZE, SIZE] the person.
        background: what shall be behind.
        notes: for people.
        footage: of an avatar made of a video.

    Raises:
        PhotoRefused: no bundle can have such a face.
    """
    shut, contours = close_mouth(rgb, landmarks_of(face))
    portrait, behind = set_behind(shut, matte, background)
    bundle = AvatarBundle(
        avatar_id=card.avatar_id,
        name=card.name,
        source=card.source,
        portrait=portrait,
        matte=matte,
        background=behind,
        landmarks=contours,
        motion=Motion(),
        footage=footage,
    )
    try:
        files = pack(bundle)
    except AvatarInvalid as error:
        raise PhotoRefused(
            "unusable_face",
            "expected a face that looks ahead with closed lips and open eyes, found another: "
            + str(error)[:300],
            "Send another photo of the person.",
        ) from error
    return Created(bundle, files, tuple(notes))


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where a portrait lies in a photo: its pixel p is the photo's at matrix @ p + shift.

    Attributes:
        matrix: [2, 2].
        shift: [2], pixels of the photo.
        scale: the photo's pixels for each of the portrait.
    """

    matrix: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    scale: float

    def cut(self, pixels: UInt8) -> UInt8:
        """Return the portrait, [SIZE, SIZE(, 3)]; beyond the edge of the photo, that is repeated."""
        return _warp(pixels, self.matrix, self.shift, self.scale)


def place_around(face: Points, width: int, height: int) -> Placement:
    """Return a placement in which the eyes are level and the head has room.

    Args:
        face: its points in the photo.
        width: of the photo, pixels.
        height: of the photo.
    """
    roll = math.radians(pose_of(face).roll)
    spin = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    flat = face[:468, :2].astype(np.float64)
    middle = flat.mean(0)
    level = (flat - middle) @ spin.T
    top, chin = level[TOP, 1], level[CHIN, 1]
    side = _side(chin - top, min(width, height))
    left = (level[:, 0].min() + level[:, 0].max()) / 2 - side / 2
    upper = top - HEAD_ROOM * side
    if abs(roll) < math.radians(2.0):
        left = _within(left, side, -middle[0], width - middle[0])
        upper = _within(upper, side, -middle[1], height - middle[1])
    scale = side / SIZE
    # From a pixel of the portrait to one of the photo: scaled, moved, then leaning as the head does.
    return Placement(spin.T * scale, spin.T @ np.array([left, upper]) + middle, scale)


def crop_around(face: Points, photo: Photo) -> Crop:
    """Straighten a photo so that the eyes are level, and cut the portrait from it."""
    height, width = photo.rgb.shape[:2]
    placement = place_around(face, width, height)
    opacity = None if photo.opacity is None else placement.cut(photo.opacity)
    return Crop(placement.cut(photo.rgb), opacity)


def _side(face_height: float, room: float) -> float:
    """Return the crop's side: what the face wants, or what the photo has."""
    wanted, least = face_height / FACE_SHARE, face_height / MAX_FACE_SHARE
    return max(least, min(wanted, room))


def _within(start: float, length: float, low: float, high: float) -> float:
    """Move a stretch into [low, high] if it fits there."""
    if length > high - low:
        return start
    return min(max(start, low), high - length)


def _warp(
    pixels: UInt8, matrix: npt.NDArray[np.float64], shift: npt.NDArray[np.float64], scale: float
) -> UInt8:
    """Return [SIZE, SIZE(, 3)]: pixel p of it is the source's at matrix @ p + shift."""
    image = Image.fromarray(pixels)
    shrink = max(1, math.floor(scale))
    if shrink > 1:
        image = image.reduce(shrink)
        matrix, shift = matrix / shrink, shift / shrink
    corners = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]]) @ matrix.T + shift
    low, high = np.floor(corners.min(0)).astype(int) - 2, np.ceil(corners.max(0)).astype(int) + 2
    # What is needed, of which the photo has a part; a pixel at least, whose repetition is the rest.
    first = np.clip(low, 0, np.array(image.size) - 1)
    last = np.clip(high, first + 1, image.size)
    before, after = first - low, high - last
    pad = [(before[1], after[1]), (before[0], after[0])] + [(0, 0)] * (pixels.ndim - 2)
    part = np.asarray(image.crop((*first, *last)))
    whole = Image.fromarray(np.pad(part, pad, mode="edge"))
    (a, b), (d, e) = matrix
    x, y = shift - low
    warped = whole.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, (a, b, x, d, e, y), Image.Resampling.BICUBIC
    )
    return np.asarray(warped)
