"""The base loop: a portrait that breathes, blinks and hardly moves its head, endless after L frames.

The head sways, tilts and turns a little (`HeadMotion`); a speaking face is drawn through the same motion and
so sits still on the head. What is behind the person stays where it is. An avatar made of a video has a filmed
loop instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle, Contour, Footage, Landmarks
from serve_app.avatars.footage import decode
from serve_app.models.i420 import Planes, over, planes, rounded, sample
from serve_app.nouns import BaseLoop, UInt8

LOOP_S = 16 / 3
MAX_FRAMES = 176
"""Bounds a loop to 69 MB."""

CHUNK = 8
"""Frames that are rendered together: their grids stay in the cache."""

FAINT = 0.1
"""A difference between portrait and background below this share of their range is no person."""

Floats = npt.NDArray[np.float32]


def num_frames(fps: int) -> int:
    """Return the length L of a base loop."""
    return min(MAX_FRAMES, round(LOOP_S * fps))


@dataclass(frozen=True, slots=True)
class HeadMotion:
    """Where the places of base frame n come from: (x - right, y - down).

    right = dx[y] + turn * depth[y, x], down = dy[y] + bow * depth[y, x] + tilt[y] * (x - SIZE / 2): what is
    nearer to the viewer moves further, so that the head seems to turn.

    Attributes:
        dx: [L, SIZE] pixels to the right, by row.
        dy: [L, SIZE] pixels downwards.
        tilt: [L, SIZE] pixels downwards for each pixel right of the middle.
        turn: [L] pixels to the right of the nearest part.
        bow: [L] pixels downwards of the nearest part.
        depth: [SIZE, SIZE] how near a place is: 1 the middle of the face, 0 its outline.
    """

    dx: Tensor
    dy: Tensor
    tilt: Tensor
    turn: Tensor
    bow: Tensor
    depth: Tensor

    def frames(self, index: Tensor) -> HeadMotion:
        """Return the motion of some frames."""
        parts = (self.dx, self.dy, self.tilt, self.turn, self.bow)
        dx, dy, tilt, turn, bow = (part.index_select(0, index) for part in parts)
        return HeadMotion(dx, dy, tilt, turn, bow, self.depth)

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far places have moved to the right and down, [L, h, w] each; rows [h], columns [w]."""
        depth = self.depth[rows[:, None], columns]
        right = self.dx[:, rows, None] + self.turn[:, None, None] * depth
        down = self.dy[:, rows, None] + self.bow[:, None, None] * depth
        return right, down + self.tilt[:, rows, None] * (columns - SIZE / 2)

    def moved(self, places: Tensor) -> Tensor:
        """Return where places of the portrait at rest, [P, 2] (x, y), are in each frame, [L, P, 2]."""
        there = places[None].expand(len(self.dx), -1, -1)
        # How far a place has moved is known where it has moved to; a second look is exact to 0.01 px.
        for _ in range(2):
            columns, rows = there.round().long().clamp(0, SIZE - 1).unbind(2)  # [L, P]
            depth = self.depth[rows, columns]
            right = self.dx.gather(1, rows) + self.turn[:, None] * depth
            down = self.dy.gather(1, rows) + self.bow[:, None] * depth
            down = down + self.tilt.gather(1, rows) * (there[..., 0] - SIZE / 2)
            there = places[None] + torch.stack([right, down], dim=2)
        return there


@dataclass(frozen=True, slots=True, eq=False)
class Idle:
    """The base loop of an avatar, and where its face is in each frame.

    Attributes:
        loop: the pictures.
        faces: L, one for each picture. Of a still they are where the head's motion takes its landmarks; lids
            that blink are not followed.
    """

    loop: BaseLoop
    faces: tuple[Landmarks, ...]

    def landmarks_at(self, frame: int) -> Landmarks:
        """Return where the face is in a base frame (not reduced modulo L)."""
        return self.faces[frame % len(self.faces)]


def base_loop(bundle: AvatarBundle, fps: int, device: torch.device) -> Idle:
    """Return the base loop of an avatar: what was filmed, or else its portrait in motion.

    Args:
        bundle: the avatar.
        fps: frames per second that are wanted.
        device: where to render.

    Raises:
        AvatarInvalid: what was filmed cannot be decoded.
    """
    if bundle.footage is not None:
        return _filmed(bundle.avatar_id, bundle.footage, fps)
    motion = head_motion(bundle, num_frames(fps), device)
    frames = render(person(bundle, fps, device), motion)
    return Idle(BaseLoop(bundle.avatar_id, SIZE, SIZE, fps, frames), _faces(bundle.landmarks, motion))


def _filmed(avatar_id: str, footage: Footage, fps: int) -> Idle:
    """Return the filmed base loop at another rate, as long in seconds.

    A frame shows the picture that is next to it in time, so that pictures stay sharp and faces exact.
    """
    filmed = len(footage.faces)
    length = max(1, round(filmed * fps / footage.fps))
    shown = [(2 * number + 1) * filmed // (2 * length) for number in range(length)]
    frames = decode(footage, f"avatar {avatar_id!r}")[shown]
    return Idle(BaseLoop(avatar_id, SIZE, SIZE, fps, frames), tuple(footage.faces[at] for at in shown))


def _faces(landmarks: Landmarks, motion: HeadMotion) -> tuple[Landmarks, ...]:
    """Return landmarks as they move, for each frame."""
    contours = landmarks.contours()
    places = torch.from_numpy(np.concatenate(list(contours.values()))).to(motion.dx.device)
    moved = motion.moved(places).cpu().numpy()
    ends = np.cumsum([len(contour) for contour in contours.values()])[:-1]
    return tuple(Landmarks(**dict(zip(contours, np.split(points, ends), strict=True))) for points in moved)


def head_motion(bundle: AvatarBundle, length: int, device: torch.device) -> HeadMotion:
    """Return a motion that repeats after `length` frames."""
    phase = 2 * np.pi * np.arange(length) / length
    head, breath = bundle.motion.head_px, bundle.motion.breath_px
    sway = head * (0.38 * np.sin(phase + 0.4) + 0.12 * np.sin(2 * phase + 1.3))
    nod = head * (0.22 * np.sin(phase + 2.6) + 0.14 * np.sin(3 * phase + 0.2))
    chin_y = float(bundle.landmarks.jaw[:, 1].max())
    pivot = chin_y + 60.0
    tilt = head * 0.34 / pivot * np.sin(phase + 2.1)
    rise = breath * 0.5 * (1 - np.cos(phase))
    row = np.arange(SIZE, dtype=np.float64)
    chin = chin_y + 12.0
    head_part = 1 - _smooth((row - chin) / max(SIZE - chin, 1.0) * 1.4)
    body_part = _smooth((row - chin) / max(SIZE - chin, 1.0))
    return HeadMotion(
        dx=_tensor((sway[:, None] - tilt[:, None] * (row - pivot)) * head_part, device),
        dy=_tensor(nod[:, None] * head_part - rise[:, None] * body_part, device),
        tilt=_tensor(tilt[:, None] * head_part, device),
        turn=_tensor(0.45 * head * np.sin(phase + 0.4), device),
        bow=_tensor(0.3 * head * np.sin(phase + 2.6), device),
        depth=_tensor(_depth(bundle), device),
    )


def _depth(bundle: AvatarBundle) -> npt.NDArray[np.float64]:
    """Return how near the places of a face are, [SIZE, SIZE]: a dome over it."""
    face = bundle.landmarks
    left, right = float(face.jaw[0, 0]), float(face.jaw[-1, 0])
    chin, eyes = float(face.jaw[:, 1].max()), float(face.left_iris[:, 1].mean())
    middle, half = (left + right) / 2, max((right - left) / 2, 8.0)
    # The face goes about as far up from the eyes as down from them, less the jaw.
    center, tall = eyes + 0.3 * (chin - eyes), max(0.95 * (chin - eyes), 8.0)
    axis = np.arange(SIZE, dtype=np.float64)
    far = ((axis - middle) / half)[None] ** 2 + ((axis - center) / tall)[:, None] ** 2
    return np.asarray(np.clip(1.0 - far, 0.0, 1.0) ** 1.3)


@dataclass(frozen=True, slots=True)
class Person:
    """A person cut out of their portrait, with eyes closed by degrees.

    Attributes:
        faces: the person at each level of closing, level 0 with open eyes.
        level: [L] int64: the level of each frame of the base loop.
        cover: [1, SIZE, SIZE] how much of a pixel is the person, 0 to 1.
        background: what is behind; it never moves.
    """

    faces: tuple[Planes, ...]
    level: Tensor
    cover: Tensor
    background: Planes


def person(bundle: AvatarBundle, fps: int, device: torch.device) -> Person:
    """Cut out the person of an avatar."""
    closures = _closures(bundle, num_frames(fps), fps)
    levels = sorted({0.0, *closures})
    own, cover = _cut_out(bundle)
    return Person(
        faces=tuple(_with_lids(bundle, own, level, device) for level in levels),
        level=torch.tensor([levels.index(closure) for closure in closures], device=device),
        cover=torch.from_numpy(cover.transpose(2, 0, 1).copy()).to(device),
        background=planes(bundle.background, device),
    )


def _cut_out(bundle: AvatarBundle) -> tuple[Floats, Floats]:
    """Return the person's own colours [SIZE, SIZE, 3] and their cover [SIZE, SIZE, 1].

    Laid over the background they give the portrait. Where the matte is too thin for that, as mattes are at
    straps and strands, it is thickened.
    """
    portrait, behind = bundle.portrait.astype(np.float32), bundle.background.astype(np.float32)
    room = np.where(portrait < behind, np.maximum(behind, 1.0), np.maximum(255.0 - behind, 1.0))
    needed = (np.abs(portrait - behind) / room).max(axis=2, keepdims=True)
    # Less than this is noise of pictures, not a person.
    needed[needed < FAINT] = 0.0
    for axis in (0, 1):
        needed = np.maximum(needed, np.maximum(np.roll(needed, 1, axis), np.roll(needed, -1, axis)))
    cover = np.maximum(bundle.matte.astype(np.float32)[..., None] / 255.0, np.minimum(needed, 1.0))
    own = (portrait - (1 - cover) * behind) / np.maximum(cover, 1e-3)
    return np.clip(np.where(cover > 0.0, own, behind), 0.0, 255.0).astype(np.float32), cover


@torch.inference_mode()
def render(body: Person, motion: HeadMotion) -> UInt8:
    """Return the base loop, [L, SIZE * SIZE * 3 // 2] I420."""
    length = len(motion.dx)
    frames = torch.empty(length, SIZE * SIZE * 3 // 2, dtype=torch.uint8, device=motion.dx.device)
    for level, face in enumerate(body.faces):
        shown = (body.level == level).nonzero()[:, 0]
        for index in torch.split(shown, CHUNK):
            grid = _moved(motion.frames(index))
            frames[index] = _sampled(face, body, grid)
    pixels: UInt8 = frames.cpu().numpy()
    return pixels


def _moved(motion: HeadMotion) -> Tensor:
    """Return the sampling grid of whole frames, [T, SIZE, SIZE, 2]."""
    axis = torch.arange(SIZE, device=motion.dx.device)
    right, down = motion.at(axis, axis)
    grid = torch.stack([axis - right, axis[:, None] - down], dim=3)
    return grid.add_(0.5).mul_(2 / SIZE).sub_(1.0)


def _sampled(face: Planes, body: Person, grid: Tensor) -> Tensor:
    cover = sample(body.cover, grid)
    luma, chroma = over(
        sample(face.luma, grid), sample(face.chroma, half_grid(grid, SIZE, SIZE)), cover, body.background
    )
    out = torch.empty(len(grid), SIZE * SIZE * 3 // 2, dtype=torch.uint8, device=grid.device)
    rounded(luma.flatten(1), out[:, : SIZE * SIZE])
    rounded(chroma.flatten(1), out[:, SIZE * SIZE :])
    return out


def half_grid(grid: Tensor, width: int, height: int) -> Tensor:
    """Return the chroma samples' places, [T, h/2, w/2, 2]: between four places of a [T, h, w, 2] grid.

    Args:
        grid: luma's places on a picture, from -1 to 1.
        width: the picture's width in luma pixels.
        height: its height.
    """
    between = torch.tensor([1.0 / width, 1.0 / height], device=grid.device)
    return grid[:, ::2, ::2] + between


def _closures(bundle: AvatarBundle, length: int, fps: int) -> list[float]:
    """Return how far the eyes are closed in each frame, 0 to 1; lids fall faster than they rise."""
    blinks = max(1, round(length / fps / bundle.motion.blink_every_s))
    starts = [(number + 0.18 + 0.13 * (number % 2)) / blinks * length / fps for number in range(blinks)]
    closures = [0.0] * length
    for frame in range(length):
        for start_s in starts:
            t = (frame / fps - start_s) / bundle.motion.blink_s
            if 0 < t < 1:
                closed = float(_smooth(np.array(t / 0.38 if t < 0.38 else (1 - t) / 0.62)))
                # Few levels, since each is a portrait to warp; a lid moves further than that in a frame.
                closures[frame] = round(closed * 10) / 10
    return closures


def _with_lids(bundle: AvatarBundle, own: Floats, closure: float, device: torch.device) -> Planes:
    """Return the person with eyes closed so far: the upper lid's skin is drawn down over the eye."""
    face = bundle.landmarks
    picture = own
    if closure > 0:
        for upper, lower in (
            (face.left_eye_upper, face.left_eye_lower),
            (face.right_eye_upper, face.right_eye_lower),
        ):
            picture = _lid(picture, upper, lower, closure)
    return planes(np.round(picture).astype(np.uint8), device)


def _lid(picture: Floats, upper_lid: Contour, lower_lid: Contour, closure: float) -> Floats:
    x = np.arange(SIZE, dtype=np.float64)
    left, right = float(upper_lid[0, 0]), float(upper_lid[-1, 0])
    inside = (x > left) & (x < right)
    upper, lower = _along(upper_lid, x), _along(lower_lid, x)
    drop = closure * np.maximum(0.0, lower - upper + 0.5) * inside  # [SIZE]
    edge = upper + drop
    y = np.arange(SIZE, dtype=np.float64)[:, None]
    lid_height = 1.1 * float((lower - upper)[inside].max())
    # Skin down to the crease follows the lid as a whole; above it, it stretches.
    fall = 1 - _smooth((edge - y - 4.0) / (lid_height + drop))
    moved = _rows_at(picture, y - drop * fall)
    shown = np.clip(edge - y + 0.5, 0.0, 1.0) * (drop > 0)
    blended: Floats = (picture + (moved - picture) * shown[..., None]).astype(np.float32)
    return blended


def _along(contour: Contour, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a contour's height at every column, without its corners."""
    heights = np.interp(x, contour[:, 0], contour[:, 1])
    return np.convolve(np.pad(heights, 2, mode="edge"), [0.1, 0.2, 0.4, 0.2, 0.1], mode="valid")


def _rows_at(picture: Floats, y: npt.NDArray[np.float64]) -> Floats:
    """Sample every column at fractional rows `y`, [SIZE, SIZE]."""
    y = np.clip(y, 0, SIZE - 1.001)
    above = y.astype(np.int64)
    part = (y - above).astype(np.float32)[..., None]
    column = np.arange(SIZE)
    return picture[above, column] * (1 - part) + picture[above + 1, column] * part


def _smooth(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _tensor(values: npt.NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
