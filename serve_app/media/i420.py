"""Pictures as flat I420, without an encoder."""

from __future__ import annotations

from serve_app.nouns import Patch, UInt8


def overlaid(frame: UInt8, width: int, height: int, patch: Patch) -> UInt8:
    """Return a copy of a picture with a patch laid over it.

    Args:
        frame: [width * height * 3 // 2] uint8, I420.
        width: of the picture.
        height: of the picture.
        patch: within the picture.
    """
    whole = frame.copy()
    at = from_ = 0
    for shift in (0, 1, 1):
        rows, columns = height >> shift, width >> shift
        x, y, w, h = (value >> shift for value in (patch.x, patch.y, patch.w, patch.h))
        plane = whole[at : at + rows * columns].reshape(rows, columns)
        plane[y : y + h, x : x + w] = patch.pixels[from_ : from_ + h * w].reshape(h, w)
        at += rows * columns
        from_ += h * w
    return whole
