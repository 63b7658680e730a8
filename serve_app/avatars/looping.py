"""How pictures follow each other endlessly without a cut.

Where two moments of a video are alike, it jumps back from the later to the earlier one, and the last pictures
fade into those before the earlier one. Where no two are, the video runs forth and back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FADE_S = 0.3
MIN_LOOP_S = 2.0
MIN_FORTH_S = 1.0
"""Of a loop that runs forth and back."""

ALIKE = 1.5
"""How far points may be apart in two moments that fade into each other, pixels of the portrait on average."""

LONGER = 0.15
"""Pixels of likeness that one more second is worth: short loops are seen to repeat."""

GREYS = 0.2
"""Pixels that a difference of one grey level in the whole picture counts for."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """An endless order of pictures: number k is pictures first[k] and second[k], mixed.

    Attributes:
        first: [L] indices of pictures.
        second: [L] indices of what is mixed in.
        share: [L] of the second, 0 to 1; 0 where nothing is.
        fades: whether it jumps back; it runs forth and back otherwise.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    share: Floats
    fades: bool

    def mixed(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return [L, ...] of [N, ...] values, mixed as the pictures are."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        mixed = (1 - share) * values[self.first] + share * values[self.second]
        return mixed.astype(np.float32)


def close(points: npt.NDArray[np.float32], small: npt.NDArray[np.float32], fps: int, max_frames: int) -> Loop:
    """Choose the loop of a video.

    Args:
        points: [N, P, 2] places of the face's parts in each picture, pixels of the portrait.
        small: [N, h, w] the pictures themselves, small and grey, 0 to 255.
        fps: pictures per second; N must last MIN_LOOP_S or longer.
        max_frames: how long the loop may be.
    """
    apart = distances(points, small)
    fade = max(2, round(FADE_S * fps))
    best: tuple[float, int, int] | None = None
    shortest, longest = round(MIN_LOOP_S * fps), min(max_frames, len(points) - fade - 1)
    for length in range(shortest, longest + 1):
        # The whole fade is alike, not one moment of it alone: then speeds are, too.
        diagonal = np.diagonal(apart, offset=length)
        seams = np.convolve(diagonal, np.full(fade + 1, 1.0 / (fade + 1)), mode="valid")
        at = int(seams.argmin())
        if seams[at] > ALIKE:
            continue
        score = float(seams[at]) + LONGER * (longest - length) / fps
        if best is None or score < best[0]:
            best = score, at + fade, length
    if best is None:
        return _forth_and_back(apart, fps, max_frames)
    _, begin, length = best
    first = np.arange(begin, begin + length)
    share = np.zeros(length)
    share[length - fade :] = np.arange(1, fade + 1) / (fade + 1)
    return Loop(first, np.where(share > 0, first - length, first), share, fades=True)


def distances(points: npt.NDArray[np.float32], small: npt.NDArray[np.float32]) -> Floats:
    """Return [N, N] how unlike the pictures are, in pixels by which their points are apart on average."""
    greys = small.reshape(len(small), -1)
    return np.stack(
        [
            np.hypot(*np.moveaxis(points - mine, -1, 0)).mean(1) + GREYS * np.abs(greys - grey).mean(1)
            for mine, grey in zip(points, greys, strict=True)
        ]
    ).astype(np.float64)


def _forth_and_back(apart: Floats, fps: int, max_frames: int) -> Loop:
    """Turn where the picture is stillest, so that the turns are not seen."""
    last = len(apart) - 1
    speed = np.full(len(apart), np.inf)
    speed[1:last] = np.diagonal(apart, offset=2) / 2
    # A video's ends are turns as good as others; what moves beyond them is not known.
    speed[0], speed[last] = apart[0, 1], apart[last - 1, last]
    best: tuple[float, int, int] | None = None
    shortest, longest = round(MIN_FORTH_S * fps), min(last, max_frames // 2)
    for length in range(shortest, longest + 1):
        turns = speed[: len(speed) - length] + speed[length:]
        at = int(turns.argmin())
        score = float(turns[at]) + LONGER * 2 * (longest - length) / fps
        if best is None or score < best[0]:
            best = score, at, length
    assert best is not None, "long enough for a loop"
    _, begin, length = best
    forth = np.arange(begin, begin + length + 1)
    order = np.concatenate([forth, forth[-2:0:-1]])
    return Loop(order, order, np.zeros(len(order)), fades=False)
