"""The model `tracer`: paints the time and the loudness, so that tests read synchrony off the pixels.

Its base loop is plain grey. A speaking frame lays a patch of two parts on it: cells, black or white, that
spell the frame's index within the utterance, and below them a field as bright as the frame's own sound.
Cells are two macroblocks wide, so that they outlive H.264 at low rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.errors import ModelNotLoaded
from serve_app.models.base import ModelSpec
from serve_app.models.refusal import prepared_of
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Int16, UInt8, Window, speech_index

LEFT_CONTEXT, LOOKAHEAD = 4800, 1280
"""300 ms and 80 ms, carried and not used: a window waits and weighs as much as a real model's."""

LOOP_FRAMES = 30
GREY = 126
"""Y of the base loop; U and V are 128 everywhere."""

SILENT = 48
"""Y of the field in silence."""

LOUDEST = 224
"""Y of the field from an RMS of FULL_RMS on."""

FULL_RMS = 0.35
"""RMS of speech in [-1, 1] that is painted brightest: half a full-scale sine's."""

CELL = 32
COLUMNS, ROWS = 8, 3
INDEX_BITS, CHECK_BITS = 16, 8
"""Of the 24 cells, row by row, the first 16 are the index, highest bit first; 8 are its CRC."""

BLACK, WHITE = 24, 228

X, Y = 128, 128
WIDTH = COLUMNS * CELL
HEIGHT = ROWS * CELL + 128
"""The patch on the base frame: three rows of cells, then the field."""


@dataclass(frozen=True, slots=True)
class TracerReading:
    """What a frame says of itself.

    Attributes:
        frame_index: index within its utterance, modulo 65536.
        loudness: RMS of the frame's own sound, 0 to FULL_RMS, samples in [-1, 1].
    """

    frame_index: int
    loudness: float


def brightness(speech: Int16) -> int:
    """Return the field's Y for a frame's own samples: SILENT + (LOUDEST - SILENT) * sqrt(RMS / FULL_RMS)."""
    rms = float(np.sqrt(np.mean(np.square(speech / 32_768.0)))) if len(speech) else 0.0
    return SILENT + round((LOUDEST - SILENT) * min(1.0, rms / FULL_RMS) ** 0.5)


def read(y_plane: UInt8) -> TracerReading | None:
    """Read a decoded frame.

    Args:
        y_plane: [H, W] uint8 luma of a whole frame, of any size with the base loop's proportions.

    Returns:
        What the frame says, or None for a frame of the base loop or one too damaged to read.
    """
    scale = y_plane.shape[1] / SIZE
    cells = [
        _mean(y_plane, scale, X + column * CELL, Y + row * CELL, CELL, CELL)
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]
    if any(abs(cell - GREY) < (WHITE - BLACK) / 6 for cell in cells):
        return None
    bits = [int(cell > GREY) for cell in cells]
    index = int("".join(map(str, bits[:INDEX_BITS])), 2)
    if bits != _bits(index):
        return None
    field = _mean(y_plane, scale, X, Y + ROWS * CELL, WIDTH, HEIGHT - ROWS * CELL)
    share = min(1.0, max(0.0, (field - SILENT) / (LOUDEST - SILENT)))
    return TracerReading(index, share * share * FULL_RMS)


class Tracer:
    """A model that shows what it was given. It needs no context, no weights and no device.

    Args:
        fps: frames per second.
        device: ignored.
        weights: must be None.

    Raises:
        ModelNotLoaded: weights were given.
    """

    def __init__(self, *, fps: int, device: str = "cpu", weights: str | None = None) -> None:
        if weights is not None:
            raise ModelNotLoaded(f"model 'tracer': expected no weights, found {weights!r}")
        self._spec = ModelSpec("tracer", LEFT_CONTEXT, LOOKAHEAD, fps, SIZE, SIZE)
        self._loops: dict[str, BaseLoop] = {}
        area = SIZE * SIZE
        self._frames = np.full((LOOP_FRAMES, area * 3 // 2), 128, np.uint8)
        self._frames[:, :area] = GREY

    @property
    def spec(self) -> ModelSpec:
        """What callers must know to cut windows."""
        return self._spec

    def prepare(self, bundle: AvatarBundle) -> None:
        """Remember the avatar; all look the same."""
        loop = BaseLoop(bundle.avatar_id, SIZE, SIZE, self._spec.fps, self._frames)
        self._loops[bundle.avatar_id] = loop

    def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return plain grey.

        Raises:
            AvatarInvalid: the avatar was not prepared.
        """
        return prepared_of(self._loops, avatar_id)

    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Paint each frame's index and loudness."""
        return [self._clip(window) for window in windows]

    def _clip(self, window: Window) -> Clip | ClipFailure:
        if window.avatar_id not in self._loops:
            where = f"window at frame {window.first_frame}"
            return ClipFailure("avatar_invalid", f"{where}: avatar {window.avatar_id!r} was not prepared")
        fps = self._spec.fps
        origin = speech_index(window.first_frame, fps) - window.left_context
        patches = np.full((window.num_frames, WIDTH * HEIGHT * 3 // 2), 128, np.uint8)
        for number, patch in enumerate(patches):
            frame = window.first_frame + number
            own = window.speech[speech_index(frame, fps) - origin : speech_index(frame + 1, fps) - origin]
            luma = patch[: WIDTH * HEIGHT].reshape(HEIGHT, WIDTH)
            luma[: ROWS * CELL] = _cells(frame)
            luma[ROWS * CELL :] = brightness(own)
        return Clip.of(window, (X, Y, WIDTH, HEIGHT), patches)


def _bits(index: int) -> list[int]:
    index %= 1 << INDEX_BITS
    word = index << CHECK_BITS | _crc8(index)
    return [word >> shift & 1 for shift in reversed(range(INDEX_BITS + CHECK_BITS))]


def _crc8(index: int) -> int:
    """Return the CRC of 16 bits by x^8 + x^2 + x + 1, xor 0x55 (ITU-T I.432.1, 7.3.2.2)."""
    rest = index << CHECK_BITS
    for shift in reversed(range(INDEX_BITS)):
        if rest >> (shift + CHECK_BITS) & 1:
            rest ^= 0x107 << shift
    return rest ^ 0x55


def _cells(index: int) -> UInt8:
    """Return the painted index, [ROWS * CELL, WIDTH]."""
    levels = np.where(np.array(_bits(index)).reshape(ROWS, COLUMNS) == 1, WHITE, BLACK).astype(np.uint8)
    return levels.repeat(CELL, axis=0).repeat(CELL, axis=1)


def _mean(y_plane: npt.NDArray[np.uint8], scale: float, x: int, y: int, w: int, h: int) -> float:
    """Return the mean of a rectangle's middle half, which blurred edges do not reach."""
    top, bottom = round((y + h / 4) * scale), round((y + h * 3 / 4) * scale)
    left, right = round((x + w / 4) * scale), round((x + w * 3 / 4) * scale)
    return float(y_plane[top:bottom, left:right].mean())
