"""Videos that strangers send: decoded within limits, turned upright, as plain RGB.

What a file claims is read from its header first, and what it turns out to be is counted while it is decoded.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from serve_app.avatars.photo import PhotoRefused
from serve_app.nouns import UInt8

MAX_VIDEO_BYTES = 100 * 1_000_000
MAX_VIDEO_S = 60.0
MIN_VIDEO_S = 2.0

MAX_VIDEO_PIXELS = 4096 * 2304
"""Most pixels of a picture; a longer side than 4096 is refused as well."""

MAX_VIDEO_SIDE = 4096
MIN_VIDEO_SIDE = 128

MAX_RATE_FPS = 240
"""Bounds how many pictures a minute can have."""

WORKING_HEIGHT, WORKING_WIDTH = 1080, 2048
"""Shorter and longer side of pictures at most: more shows nothing in a portrait of 512 pixels."""

HD_HEIGHT = 720
"""From here on, colours that are not labelled are those of BT.709 (ITU-R BT.709-6), below of BT.601."""

CUT_S = 0.5
"""How much shorter than its header says a whole video may be."""

UNLABELLED = 2
"""AVCOL_SPC_UNSPECIFIED (ITU-T H.273, table 4)."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture of a video.

    Attributes:
        time_s: since the video's first picture.
        rgb: [H, W, 3] uint8, upright.
    """

    time_s: float
    rgb: UInt8


def looks_like_video(content: bytes) -> bool:
    """Return whether a file is of a kind that `Video` opens, by its first bytes."""
    return _format(content) is not None


class Video:
    """A video that was sent. It can be read several times.

    Args:
        content: MP4, QuickTime, WebM, Matroska or AVI.

    Attributes:
        fps: pictures per second, as the header has them; 25 where it does not say.
        claimed_s: length, as the header has it; None where it does not say.

    Raises:
        PhotoRefused: it is too large, too long, of another kind, without pictures, or damaged.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) > MAX_VIDEO_BYTES:
            raise PhotoRefused(
                "too_large",
                f"expected a video of at most {MAX_VIDEO_BYTES // 1_000_000} MB, "
                f"found {len(content) / 1_000_000:.1f} MB",
                "Send a shorter or smaller one: ten seconds at 1080p are enough.",
            )
        kind = _format(content)
        if kind is None:
            raise PhotoRefused(
                "not_a_video",
                "expected a video as MP4, MOV, WebM, MKV or AVI, found something else",
                "Send an MP4 file.",
            )
        self._content, self._format = content, kind
        with self._open() as (container, stream):
            self.fps = _rate(stream)
            self.claimed_s = _claims(container, stream)

    def sampled(self, fps: float, begin_s: float = 0.0, end_s: float = math.inf) -> Iterator[Picture]:
        """Yield the picture on show at each tick of a clock, from `begin_s` to before `end_s`.

        Raises:
            PhotoRefused: it is damaged or cut, or is not what its header says.
        """
        tick, before, last_s = 0, None, 0.0
        # Times are rounded in files: a picture may be late for its tick by half a picture.
        half = 0.5 / max(fps, self.fps)
        for frame, time_s in self._decoded():
            last_s = time_s
            while (due_s := begin_s + tick / fps) < min(end_s, time_s + half):
                yield Picture(due_s, _rgb(frame if before is None or due_s > time_s - half else before))
                tick += 1
            if time_s >= end_s:
                return
            before = frame
        self._check_whole(last_s)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Open the file and its first stream of pictures."""
        try:
            # Without a named format a file could be a playlist, which opens others.
            with av.open(io.BytesIO(self._content), format=self._format) as container:
                if not container.streams.video:
                    raise PhotoRefused(
                        "no_pictures",
                        "expected a video with pictures, found a file without any",
                        "Send a video of a person who looks at the camera.",
                    )
                stream = container.streams.video[0]
                _check_sides(stream.width, stream.height)
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = 2
                yield container, stream
        except (av.FFmpegError, ValueError, IndexError) as error:
            raise _damaged(error) from error

    def _decoded(self) -> Iterator[tuple[Any, float]]:
        """Yield the pictures and their times since the first."""
        first_s: float | None = None
        sides: tuple[int, int] | None = None
        decoded, latest_s = 0, -1.0
        with self._open() as (container, stream):
            for frame in container.decode(stream):
                decoded += 1
                sides = sides or (frame.width, frame.height)
                _check_sides(frame.width, frame.height)
                if (frame.width, frame.height) != sides:
                    raise ValueError("the pictures change their size")
                time_s = frame.time if frame.time is not None else decoded / self.fps
                first_s = time_s if first_s is None else first_s
                time_s -= first_s
                if time_s > MAX_VIDEO_S or decoded > MAX_VIDEO_S * MAX_RATE_FPS:
                    raise _too_long(f"more than {MAX_VIDEO_S:.0f} s")
                if time_s > latest_s:
                    latest_s = time_s
                    yield frame, time_s
        if decoded == 0:
            raise PhotoRefused("damaged", "expected a video's pictures, found none", _AGAIN)

    def _check_whole(self, last_s: float) -> None:
        if self.claimed_s is not None and last_s < self.claimed_s - CUT_S - 1.0 / self.fps:
            raise PhotoRefused(
                "damaged",
                f"expected a video of {self.claimed_s:.1f} s, found one that ends after {last_s:.1f} s",
                _AGAIN,
            )


def _rate(stream: Any) -> float:  # noqa: ANN401 - PyAV's types are not followed
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate <= MAX_RATE_FPS else 25.0


def _claims(container: Any, stream: Any) -> float | None:  # noqa: ANN401
    """Return how long the header says the video is, if that is allowed."""
    claimed_s = None
    if stream.duration is not None and stream.time_base is not None:
        claimed_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        claimed_s = container.duration / av.time_base
    if claimed_s is not None and claimed_s > MAX_VIDEO_S:
        raise _too_long(f"{claimed_s:.1f} s")
    return claimed_s


def too_short(found_s: float) -> PhotoRefused:
    """Return the refusal of a video of `found_s` seconds."""
    return PhotoRefused(
        "too_short",
        f"expected a video of {MIN_VIDEO_S:.0f} s or more, found {found_s:.1f} s",
        "Film for five to ten seconds.",
    )


_AGAIN = "Open the video, save it again and send that."


def _format(content: bytes) -> str | None:
    """Return the demuxer of a file; None for what is no video that is taken."""
    if content[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and content[8:11] not in (b"hei", b"avi", b"mif"):
        return "mp4"
    if content.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if content.startswith(b"RIFF") and content[8:12] == b"AVI ":
        return "avi"
    return None


def _check_sides(width: int, height: int) -> None:
    if width * height > MAX_VIDEO_PIXELS or max(width, height) > MAX_VIDEO_SIDE:
        raise PhotoRefused(
            "too_many_pixels",
            f"expected pictures of at most {MAX_VIDEO_SIDE} x {MAX_VIDEO_PIXELS // MAX_VIDEO_SIDE} pixels, "
            f"found {width}x{height}",
            "Send a smaller video: 1080p is enough.",
        )
    if min(width, height) < MIN_VIDEO_SIDE:
        raise PhotoRefused(
            "too_small",
            f"expected {MIN_VIDEO_SIDE} pixels or more on each side, found {width}x{height}",
            "Send a larger video; a face 300 pixels across is good.",
        )


def _rgb(frame: Any) -> UInt8:  # noqa: ANN401
    """Return a decoded picture, upright and not above the working size, in RGB of full range."""
    sides = frame.width, frame.height
    shrink = min(1.0, WORKING_HEIGHT / min(sides), WORKING_WIDTH / max(sides))
    unlabelled = frame.colorspace == UNLABELLED
    source = Colorspace.ITU709 if min(sides) >= HD_HEIGHT else Colorspace.ITU601
    try:
        picture = frame.reformat(
            width=max(1, round(frame.width * shrink)),
            height=max(1, round(frame.height * shrink)),
            format="rgb24",
            src_colorspace=source if unlabelled else None,
            dst_color_range=ColorRange.JPEG,
            interpolation="AREA" if shrink < 1.0 else "BILINEAR",
        )
    except (av.FFmpegError, ValueError) as error:
        raise _damaged(error) from error
    # A phone held upright writes how far to turn its pictures, anticlockwise.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), turns))


def _too_long(found: str) -> PhotoRefused:
    return PhotoRefused(
        "too_long",
        f"expected a video of at most {MAX_VIDEO_S:.0f} s, found {found}",
        "Send the part in which the person sits still: ten seconds are enough.",
    )


def _damaged(error: Exception) -> PhotoRefused:
    return PhotoRefused(
        "damaged",
        f"expected a whole video, found one that cannot be decoded ({type(error).__name__})",
        _AGAIN,
    )
