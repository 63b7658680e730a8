"""MuseTalk's own 25 frames a second against those of a session.

A session's frame lies where its middle lies: at (k + 1/2) * 25 / fps - 1/2 native frames. At 25 fps that is
k itself. A faster session's frames are mixed of their two native neighbours; a slower one shows the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.nouns import SPEECH_HZ, speech_index

NATIVE_FPS = 25

FRAME_SAMPLES = SPEECH_HZ // NATIVE_FPS
"""Samples of a native frame."""


@dataclass(frozen=True, slots=True)
class NativeFrames:
    """The native frames that a session's frames are mixed of.

    Attributes:
        first: index of the first native frame, counted from the utterance's start.
        count: how many follow each other.
        before: [T] int64: of each session's frame, the earlier neighbour, counted from `first`.
        share: [T] float32: how much of the later neighbour, `before` + 1, it has; 0 where there is none.
    """

    first: int
    count: int
    before: npt.NDArray[np.int64]
    share: npt.NDArray[np.float32]


def native_frames(first_frame: int, num_frames: int, fps: int) -> NativeFrames:
    """Return what the session's frames from `first_frame` on are mixed of; the same however they are cut."""
    middles = (2 * np.arange(first_frame, first_frame + num_frames) + 1) * NATIVE_FPS
    if fps <= NATIVE_FPS:
        before = middles // (2 * fps)
        share = np.zeros(num_frames, np.float32)
    else:
        # No native frame has its middle before the first one's.
        twice = np.maximum(middles - fps, 0)
        before = twice // (2 * fps)
        share = (twice % (2 * fps) / (2 * fps)).astype(np.float32)
    first = int(before[0])
    last = int(before[-1]) + int(share[-1] > 0)
    return NativeFrames(first, last + 1 - first, before.astype(np.int64) - first, share)


def session_frame(native: npt.NDArray[np.int64], fps: int) -> npt.NDArray[np.int64]:
    """Return the session's frames whose middles are nearest to those of native ones."""
    return (2 * native + 1) * fps // (2 * NATIVE_FPS)


def samples_before(fps: int) -> int:
    """Return how far the first native frame of a window may begin before the window's first frame."""
    return max(
        0,
        *(
            speech_index(frame, fps) - native_frames(frame, 1, fps).first * FRAME_SAMPLES
            for frame in range(fps)
        ),
    )


def samples_after(fps: int) -> int:
    """Return how far the last native frame of a window may end after the window's last frame."""
    gaps = []
    for frame in range(fps):
        native = native_frames(frame, 1, fps)
        gaps.append((native.first + native.count) * FRAME_SAMPLES - speech_index(frame + 1, fps))
    return max(0, *gaps)
