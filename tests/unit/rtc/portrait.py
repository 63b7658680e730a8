"""A painted portrait that sways and speaks: texture, edges and motion as a real face has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.nouns import BaseLoop, Patch, Picture, UInt8

Plane = npt.NDArray[np.float32]
MARGIN = 16


def texture(rng: np.random.Generator, height: int, width: int, octaves: tuple[int, ...]) -> Plane:
    """Return [height, width] smooth noise with detail at each of `octaves` (cells across)."""
    out = np.zeros((height, width), np.float32)
    for cells in octaves:
        grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
        y, x = np.linspace(0, cells, height, endpoint=False), np.linspace(0, cells, width, endpoint=False)
        top, left = y.astype(int), x.astype(int)
        down, right = (y - top)[:, None].astype(np.float32), (x - left)[None].astype(np.float32)
        upper = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
        lower = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
        out += (upper * (1 - down) + lower * down) * octaves[0] / cells
    return out


def paint(size: int) -> tuple[Plane, Plane, Plane]:
    """Return Y, U, V of a portrait with a margin to sway in, all at full size."""
    rng = np.random.default_rng(0)
    side = size + 2 * MARGIN
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    center = side / 2

    def oval(dx: float, dy: float, width: float, height: float) -> Plane:
        return ((x - center - dx * size) / (width * size)) ** 2 + (
            (y - center - dy * size) / (height * size)
        ) ** 2

    luma = 95 + 20 * texture(rng, side, side, (4, 8, 16))
    face, hair = oval(0, 0, 0.26, 0.36), oval(0, -0.06, 0.33, 0.42)
    strands = 55 + 15 * np.sin(x * 0.8 + 4 * texture(rng, side, side, (4,)))
    skin = 165 - 35 * face + 6 * texture(rng, side, side, (16, 32, 64, 128))
    luma = np.where(hair < 1, strands, luma)
    luma = np.where(face < 1, skin, luma)
    for dx in (-0.12, 0.12):
        luma = np.where(oval(dx, -0.1, 0.06, 0.025) < 1, 215, luma)
        luma = np.where(oval(dx, -0.1, 0.02, 0.02) < 1, 35, luma)
        luma = np.where(oval(dx, -0.16, 0.08, 0.014) < 1, 60, luma)
    luma = np.where(oval(0, 0.16, 0.11, 0.02) < 1, 115, luma)
    luma = luma + rng.standard_normal((side, side)).astype(np.float32)
    u = np.where(face < 1, 112, 132).astype(np.float32)
    v = np.where(face < 1, 152, 124).astype(np.float32)
    return luma.astype(np.float32), u, v


def i420(planes: tuple[Plane, Plane, Plane]) -> UInt8:
    """Return a flat I420 picture; U and V are sampled down."""
    luma, u, v = (np.clip(plane, 0, 255).astype(np.uint8) for plane in planes)
    return np.concatenate([luma.ravel(), u[::2, ::2].ravel(), v[::2, ::2].ravel()])


def base_loop(num_frames: int, size: int = 512, fps: int = 30) -> BaseLoop:
    """Return an endless loop of a swaying head."""
    planes = paint(size)
    frames = np.empty((num_frames, size * size * 3 // 2), np.uint8)
    for n in range(num_frames):
        angle = 2 * np.pi * n / num_frames
        dx, dy = 5 * np.sin(angle) + 1.5 * np.sin(3 * angle), 3 * np.sin(2 * angle + 1)
        frames[n] = i420((sway(planes[0], dx, dy), sway(planes[1], dx, dy), sway(planes[2], dx, dy)))
    return BaseLoop("portrait", size, size, fps, frames)


def sway(plane: Plane, dx: float, dy: float) -> Plane:
    """Return the plane without its margin, moved by a fraction of pixels."""
    left, top = int(np.floor(dx)), int(np.floor(dy))
    right, down = np.float32(dx - left), np.float32(dy - top)
    size = plane.shape[0] - 2 * MARGIN

    def window(x: int, y: int) -> Plane:
        return plane[MARGIN + top + y : MARGIN + top + y + size, MARGIN + left + x : MARGIN + left + x + size]

    upper = window(0, 0) * (1 - right) + window(1, 0) * right
    lower = window(0, 1) * (1 - right) + window(1, 1) * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def speaking(loop: BaseLoop, frame: int) -> Picture:
    """Return frame `frame` with a mouth that opens and shuts."""
    size = loop.width
    w, h = size * 3 // 16 * 2, size // 8 * 2
    x, y = (size - w) // 4 * 2, size // 16 * 9
    luma, u, v = (rows.copy() for rows in crop(loop, frame, x, y, w, h))
    opening = 0.7 * abs(np.sin(frame * 0.55)) + 0.3 * abs(np.sin(frame * 0.21))
    row, column = np.mgrid[0:h, 0:w]
    lips = ((column - w / 2) / (0.3 * w)) ** 2 + ((row - h * 0.4) / (h * (0.06 + 0.18 * opening))) ** 2
    inside = ((column - w / 2) / (0.25 * w)) ** 2 + ((row - h * 0.4) / (h * (0.01 + 0.14 * opening))) ** 2
    luma[lips < 1] = 110
    luma[inside < 1] = 30
    v[lips[::2, ::2] < 1] = 165
    return Picture(frame, Patch(x, y, w, h, np.concatenate([luma.ravel(), u.ravel(), v.ravel()])))


def crop(loop: BaseLoop, frame: int, x: int, y: int, w: int, h: int) -> tuple[UInt8, UInt8, UInt8]:
    """Return views of Y, U and V of a rectangle of a base frame."""
    luma, u, v = split(loop.frames[frame % len(loop.frames)], loop.width, loop.height)
    half = np.s_[y // 2 : (y + h) // 2, x // 2 : (x + w) // 2]
    return luma[y : y + h, x : x + w], u[half], v[half]


def split(picture: UInt8, width: int, height: int) -> tuple[UInt8, UInt8, UInt8]:
    """Return views of the planes of a flat I420 picture."""
    luma, chroma = width * height, width * height // 4
    return (
        picture[:luma].reshape(height, width),
        picture[luma : luma + chroma].reshape(height // 2, width // 2),
        picture[luma + chroma :].reshape(height // 2, width // 2),
    )


def compose(loop: BaseLoop, picture: Picture) -> UInt8:
    """Return the flat I420 picture that a viewer should see."""
    shown = loop.frames[picture.base_frame % len(loop.frames)].copy()
    if picture.patch is not None:
        patch = picture.patch
        parts = split(patch.pixels, patch.w, patch.h)
        for plane, part, shift in zip(split(shown, loop.width, loop.height), parts, (0, 1, 1), strict=True):
            x, y = patch.x >> shift, patch.y >> shift
            plane[y : y + part.shape[0], x : x + part.shape[1]] = part
    return shown


def psnr(shown: UInt8, expected: UInt8) -> float:
    """Return the peak signal-to-noise ratio of a picture in dB, over all planes."""
    error = float(np.mean((shown.astype(np.float32) - expected) ** 2))
    return 10 * np.log10(255**2 / max(error, 1e-6))
