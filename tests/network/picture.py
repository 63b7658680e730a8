"""Pictures that say which they are: a row of black and white squares numbers each frame.

A decoder that lacks a part of the stream shows the wrong squares, so a viewer can tell a right picture from
one that merely arrived.
"""

from __future__ import annotations

import numpy as np

from serve_app.nouns import BaseLoop, Patch, Picture, UInt8
from tests.unit.rtc.portrait import base_loop

SIDE = 256
FPS = 30
LOOP_FRAMES = 30
SQUARE = 16
"""Pixels of a square's side: a macroblock, so that it survives strong compression."""

BITS = SIDE // SQUARE
LIVE_BIT = BITS - 1
LIVE_FRAMES = 1 << LIVE_BIT
"""Numbers of live pictures run from 0 to this."""

BLACK, WHITE = 40, 210


def squares(number: int) -> UInt8:
    """Return [SQUARE, SIDE] luma that says `number`."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.where(bits, WHITE, BLACK).astype(np.uint8), SQUARE)
    return np.tile(row, (SQUARE, 1))


def read(luma: UInt8) -> int | None:
    """Return the number that a picture says; None when its squares are not clear.

    Args:
        luma: [SIDE, SIDE] uint8.
    """
    means = luma[:SQUARE].reshape(SQUARE, BITS, SQUARE).mean(axis=(0, 2))
    middle = (BLACK + WHITE) / 2
    if np.abs(means - middle).min() < (WHITE - BLACK) / 4:
        return None
    return int(sum(1 << bit for bit in range(BITS) if means[bit] > middle))


def numbered_loop() -> BaseLoop:
    """Return a swaying portrait whose frames say their numbers."""
    loop = base_loop(LOOP_FRAMES, SIDE)
    frames = loop.frames.copy()
    for number in range(LOOP_FRAMES):
        frames[number, : SQUARE * SIDE] = squares(number).ravel()
    return BaseLoop(loop.avatar_id, SIDE, SIDE, FPS, frames)


def live(index: int) -> Picture:
    """Return frame `index` with a patch that says so; as when an avatar speaks, it is encoded for itself."""
    luma = squares(index % LIVE_FRAMES | LIVE_FRAMES)
    gray = np.full(SQUARE // 2 * SIDE, 128, np.uint8)
    return Picture(index, Patch(0, 0, SIDE, SQUARE, np.concatenate([luma.ravel(), gray])))


class Sequence:
    """Tells whether pictures follow each other as their times say."""

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}

    def fits(self, number: int | None, frames: int) -> bool:
        """Return whether a picture that says `number` belongs to a time.

        Args:
            number: as read from it.
            frames: its time in frames, from any origin.
        """
        if number is None:
            return False
        length = LIVE_FRAMES if number & LIVE_FRAMES else LOOP_FRAMES
        offset = (number - frames) % length
        return self._offsets.setdefault(length, offset) == offset
