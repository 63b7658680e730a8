"""Clips that cost less than a model's own: every second frame, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from serve_app.media.i420 import overlaid
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Patch, UInt8, Window, speech_index

SMALLEST = 2
"""Pixels of a side that I420 can hold."""


def thinned(window: Window, fps: int, every: int) -> list[Window]:
    """Return windows of one frame each, for every `every`th frame of a window from its first on.

    The same speech gives the same frames however it is cut into windows (models.base.Model.animate).

    Args:
        window: to be thinned.
        fps: frames per second.
        every: 1 or more.
    """
    start = speech_index(window.first_frame, fps)
    own = speech_index(window.first_frame + window.num_frames, fps) - start
    lookahead = len(window.speech) - window.left_context - own
    parts: list[Window] = []
    for number in range(0, window.num_frames, every):
        frame = window.first_frame + number
        begin = speech_index(frame, fps) - start
        end = speech_index(frame + 1, fps) - start + window.left_context + lookahead
        parts.append(
            replace(
                window,
                first_frame=frame,
                num_frames=1,
                base_frame=window.base_frame + number,
                speech=window.speech[begin:end],
            )
        )
    return parts


def restored(
    window: Window, parts: Sequence[Clip | ClipFailure], every: int, loop: BaseLoop
) -> Clip | ClipFailure:
    """Return the clip of a thinned window: each picture stays until the next.

    Args:
        window: as it was.
        parts: what was made of `thinned(window, fps, every)`, in order.
        every: as there.
        loop: the avatar's base loop; where patches of one window lie at different places, it fills between.

    Returns:
        The clip, or the first failure.
    """
    clips: list[Clip] = []
    for part in parts:
        if isinstance(part, ClipFailure):
            return part
        clips.append(part)
    x, y = min(clip.x for clip in clips), min(clip.y for clip in clips)
    w = max(clip.x + clip.w for clip in clips) - x
    h = max(clip.y + clip.h for clip in clips) - y
    pictures = [_widened(clip, (x, y, w, h), loop) for clip in clips]
    patches = np.repeat(np.stack(pictures), every, axis=0)[: window.num_frames]
    return Clip.of(window, (x, y, w, h), patches)


def resting(window: Window, loop: BaseLoop) -> Clip:
    """Return a clip that shows the base loop alone: a patch of few pixels, which are the loop's own."""
    frames = (window.base_frame + np.arange(window.num_frames)) % len(loop.frames)
    place = (0, 0, SMALLEST, SMALLEST)
    return Clip.of(window, place, np.stack([_cut(loop.frames[frame], loop, place) for frame in frames]))


def _widened(clip: Clip, place: tuple[int, int, int, int], loop: BaseLoop) -> UInt8:
    if (clip.x, clip.y, clip.w, clip.h) == place:
        return clip.patches[0]
    base = loop.frames[clip.base_frame % len(loop.frames)]
    patch = Patch(clip.x, clip.y, clip.w, clip.h, clip.patches[0])
    return _cut(overlaid(base, loop.width, loop.height, patch), loop, place)


def _cut(frame: UInt8, loop: BaseLoop, place: tuple[int, int, int, int]) -> UInt8:
    """Return a rectangle of a picture, [w * h * 3 // 2] uint8, I420."""
    planes: list[UInt8] = []
    at = 0
    for shift in (0, 1, 1):
        rows, columns = loop.height >> shift, loop.width >> shift
        x, y, w, h = (value >> shift for value in place)
        plane = frame[at : at + rows * columns].reshape(rows, columns)
        planes.append(plane[y : y + h, x : x + w].reshape(-1))
        at += rows * columns
    return np.concatenate(planes)
