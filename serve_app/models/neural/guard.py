"""Frames that are not numbers: the window they belong to falls back to the base loop, no other does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve_app.nouns import ClipFailure, Window

NOT_FINITE = "frame_not_finite"
"""Code of a ClipFailure whose frames came out as NaN or infinite."""


def finite_frames(pictures: Tensor) -> Tensor:
    """Return which pictures hold numbers only, without waiting for the device.

    A NaN or an infinity stays one in a sum; one reduction in float32 finds it without another copy of
    the pictures.

    Args:
        pictures: [B, ...] floating point, before they become bytes.

    Returns:
        [B] bool on the same device.
    """
    return pictures.flatten(1).sum(1, dtype=torch.float32).isfinite()


def broken_windows(windows: Sequence[Window], finite: Sequence[bool]) -> list[ClipFailure | None]:
    """Return the failure of each window that has a broken frame, None for each that has none.

    Args:
        windows: in the order of their frames.
        finite: one for each frame of each window, as from `finite_frames`.
    """
    failures: list[ClipFailure | None] = []
    at = 0
    for window in windows:
        mine = finite[at : at + window.num_frames]
        at += window.num_frames
        broken = [window.first_frame + number for number, is_finite in enumerate(mine) if not is_finite]
        failures.append(
            ClipFailure(NOT_FINITE, f"expected numbers in every pixel, found none in frames {broken[:8]}")
            if broken
            else None
        )
    return failures
