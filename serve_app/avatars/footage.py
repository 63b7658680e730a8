"""The file of a filmed base loop: H.264 in MP4, SIZE x SIZE, of a luma and chroma that base loops have.

That is BT.601 (ITU-R BT.601-7) of limited range, as models/i420.py makes it of a still.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from serve_app.avatars.bundle import FOOTAGE, MAX_BYTES, Footage
from serve_app.avatars.contours import SIZE
from serve_app.errors import AvatarInvalid
from serve_app.nouns import UInt8

QUALITIES = (15, 21, 27)
"""Rate factors of x264, the best first that keeps the file within its limit; 15 is all but lossless."""


def encode(pictures: Iterable[UInt8], fps: int, max_bytes: int = MAX_BYTES[FOOTAGE]) -> bytes:
    """Return the file of a loop.

    Args:
        pictures: T of [SIZE, SIZE, 3] uint8 RGB.
        fps: pictures per second.
        max_bytes: how large the file may be.

    Raises:
        AvatarInvalid: the pictures move so much that the file would be too large.
    """
    frames = [_yuv(picture) for picture in pictures]
    for quality in QUALITIES:
        content = _encoded(frames, fps, quality)
        if len(content) <= max_bytes:
            return content
    raise AvatarInvalid(f"{FOOTAGE}: expected at most {max_bytes} bytes, found {len(content)}")


def decode(footage: Footage, where: str) -> UInt8:
    """Return the pictures of a loop, [T, SIZE * SIZE * 3 // 2] uint8 I420.

    Args:
        footage: of a bundle.
        where: the bundle's place, for errors.

    Raises:
        AvatarInvalid: the file is damaged, or of another kind, size or length.
    """
    where = f"{where}/{FOOTAGE}"
    pictures = np.empty((len(footage.faces), SIZE * SIZE * 3 // 2), np.uint8)
    decoded = 0
    try:
        # Without a named format a file could be a playlist, which opens others.
        with av.open(io.BytesIO(footage.mp4), format="mp4") as container:
            stream = _stream(container, where)
            for frame in container.decode(stream):
                found = f"{frame.width}x{frame.height} {frame.format.name}"
                if found != f"{SIZE}x{SIZE} yuv420p":
                    raise AvatarInvalid(f"{where}: expected {SIZE}x{SIZE} yuv420p, found {found}")
                if decoded == len(pictures):
                    raise AvatarInvalid(f"{where}: expected {len(pictures)} pictures, found more")
                pictures[decoded] = frame.to_ndarray().reshape(-1)
                decoded += 1
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise AvatarInvalid(f"{where}: expected an MP4 file, found: {error}") from error
    if decoded < len(pictures):
        raise AvatarInvalid(f"{where}: expected {len(pictures)} pictures, found {decoded}")
    return pictures


def _stream(container: Any, where: str) -> Any:  # noqa: ANN401 - PyAV's types are not followed
    """Return the file's one stream, made ready; the header is looked at before anything is decoded."""
    streams = container.streams
    if len(streams) != 1 or len(streams.video) != 1:
        raise AvatarInvalid(f"{where}: expected one stream of pictures, found {len(streams)} streams")
    stream = streams.video[0]
    found = f"{stream.codec_context.name} {stream.width}x{stream.height}"
    if found != f"h264 {SIZE}x{SIZE}":
        raise AvatarInvalid(f"{where}: expected h264 {SIZE}x{SIZE}, found {found}")
    stream.codec_context.thread_count = 1
    return stream


def _yuv(picture: UInt8) -> Any:  # noqa: ANN401
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
    )


def _encoded(frames: list[Any], fps: int, quality: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.options = {
            "crf": str(quality), "preset": "medium", "color_range": "tv", "colorspace": "smpte170m",
        }  # fmt: skip
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
