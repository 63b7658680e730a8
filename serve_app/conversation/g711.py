"""G.711: eight bits a sample at 8 kHz, as telephones speak (ITU-T G.711, 11/88)."""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from serve_app.nouns import Int16

G711_HZ = 8_000

Law: TypeAlias = Literal["mu", "a"]


def decode(data: bytes, law: Law) -> Int16:
    """Return the samples of a G.711 stream as [S] int16, one for each byte."""
    return _levels(law)[np.frombuffer(data, np.uint8)]


def encode(samples: Int16, law: Law) -> bytes:
    """Return [S] int16 as G.711, one byte for each sample, each the code of the nearest level."""
    return _codes(law)[samples.astype(np.int32) + 32_768].tobytes()


@cache
def _levels(law: Law) -> Int16:
    """Return what each of the 256 codes stands for."""
    codes = np.arange(256, dtype=np.int32)
    inverted = codes ^ (0xFF if law == "mu" else 0x55)
    segment, step = (inverted >> 4) & 7, inverted & 15
    if law == "mu":
        size = (((step << 3) + 0x84) << segment) - 0x84
        is_negative = inverted & 0x80 != 0
    else:
        size = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
        is_negative = inverted & 0x80 == 0
    return np.where(is_negative, -size, size).astype(np.int16)


@cache
def _codes(law: Law) -> npt.NDArray[np.uint8]:
    """Return the code of each int16 value, from -32768 up."""
    levels = _levels(law).astype(np.int32)
    # Of mu-law's two zeros the positive one, 0xFF, is silence; it comes last and is kept.
    code_of = {int(level): code for code, level in enumerate(levels)}
    known = np.array(sorted(code_of), np.int32)
    between = (known[1:] + known[:-1]) / 2
    nearest = known[np.searchsorted(between, np.arange(-32_768, 32_768))]
    lookup = np.zeros(65_536, np.uint8)
    lookup[known + 32_768] = [code_of[int(level)] for level in known]
    return lookup[nearest + 32_768]
