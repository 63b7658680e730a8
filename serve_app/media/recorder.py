"""MP4 files made from the packets that were sent: nothing is encoded twice.

A recording never disturbs the media path: it is written by its own thread behind a bounded queue, and what
goes wrong there is one warning and the flag `failed`, with its reason.
"""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import re
import secrets
import threading
import time
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av

from serve_app.config import RecordingConfig
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ

logger = logging.getLogger("serve_app.recording")

PICTURE_HZ = 90_000
PICTURE_BASE = Fraction(1, PICTURE_HZ)
SOUND_BASE = Fraction(1, SOUND_HZ)

MAX_QUEUED = 1500
"""Packets the disk may be behind: some twenty seconds of sound and picture."""

PARTIAL_SUFFIX = ".part"

NAL_IDR = 5


class Recorder:
    """One MP4 file: H.264 of the given size, and mono Opus.

    Starts with the first IDR picture; sound before it is kept, and the IDR is shown from the start. The file
    appears under its name when it is complete. Without any picture it holds the sound alone.

    Args:
        path: where the file shall be; its folder is made.
        width: pixels.
        height: pixels.
        fps: frames per second; frame indices count in it.

    Attributes:
        path: as given.
        failed: whether there will be no file.
        fault: why, without the file's name; empty unless it failed.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.path = path
        self.failed = False
        self.fault = ""
        self._muxer = _Muxer(path.with_name(path.name + PARTIAL_SUFFIX), width, height, fps)
        self._queue: queue.SimpleQueue[tuple[str, bytes, int] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def video(self, access_unit: bytes, frame_index: int) -> None:
        """Add the access unit (Annex B) of a frame; indices rise and may be skipped."""
        self._put(("video", access_unit, frame_index))

    def sound(self, packet: bytes, packet_index: int) -> None:
        """Add an Opus packet of 20 ms; indices rise and may be skipped."""
        self._put(("sound", packet, packet_index))

    def close(self) -> None:
        """End the recording; the file is completed in the background."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait until the file is complete after `close`; return whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self.failed

    def _put(self, item: tuple[str, bytes, int]) -> None:
        if self.failed or self._is_closed:
            return
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put(item)
        else:
            self._fail(f"the disk is {MAX_QUEUED} packets behind")

    def _run(self) -> None:
        try:
            while not self.failed and (item := self._queue.get()) is not None:
                self._muxer.add(*item)
            if not self.failed:
                self._muxer.finish(self.path)
        except (OSError, ValueError, av.FFmpegError) as error:
            self._fail((error.strerror if isinstance(error, OSError) else None) or type(error).__name__)
        if self.failed:
            self._muxer.discard()

    def _fail(self, reason: str) -> None:
        if not self.failed:
            self.failed, self.fault = True, reason
            logger.warning("recording %s stopped: %s", self.path.name, reason)


class _Muxer:
    """The file itself; everything here runs in the recorder's thread."""

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self._path = path
        self._size = (width, height)
        self._fps = fps
        self._file: Any = None
        self._container: Any = None
        self._video: Any = None
        self._sound: Any = None
        self._early_sound: list[tuple[bytes, int]] = []
        self._origin = Fraction(0)
        self._last_frame: int | None = None

    def add(self, kind: str, data: bytes, index: int) -> None:
        if kind == "sound":
            if self._container is None:
                self._early_sound.append((data, index))
            else:
                self._mux_sound(data, index)
        elif self._container is not None:
            self._mux_video(data, index)
        elif _has_idr(data):
            self._open(data, index)

    def finish(self, path: Path) -> None:
        if self._container is None and self._early_sound:
            self._open(None, 0)
        if self._container is not None:
            self._container.close()
            self._file.close()
            self._path.replace(path)

    def discard(self) -> None:
        """Leave nothing behind, as far as a disk that failed before allows it."""
        for step in (self._container, self._file):
            if step is not None:
                with contextlib.suppress(OSError, ValueError, av.FFmpegError):
                    step.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _open(self, idr: bytes | None, frame_index: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # FFmpeg would open and write with the GIL held; Python's file lets go of it while the disk works.
        self._file = self._path.open("wb")
        container = av.open(self._file, "w", format="mp4")
        starts = [index * PACKET_SAMPLES * SOUND_BASE for _, index in self._early_sound[:1]]
        if idr is not None:
            starts.append(Fraction(frame_index, self._fps))
            # The parser of raw H.264 finds the parameter sets in front of the IDR.
            with av.open(io.BytesIO(idr), format="h264") as template:
                self._video = container.add_stream_from_template(template.streams.video[0])
            self._video.time_base = PICTURE_BASE
        with av.open(io.BytesIO(_opus_template())) as template:
            self._sound = container.add_stream_from_template(template.streams.audio[0])
        self._sound.time_base = SOUND_BASE
        self._origin = min(starts)
        self._container = container
        if idr is not None:
            self._mux_video(idr, frame_index)
        for data, index in self._early_sound:
            self._mux_sound(data, index)
        self._early_sound.clear()

    def _mux_video(self, unit: bytes, index: int) -> None:
        # The first picture stands in for the time before it, so both streams start at 0.
        seconds = Fraction(0) if self._last_frame is None else Fraction(index, self._fps) - self._origin
        self._last_frame = index
        is_idr = _has_idr(unit)
        self._mux(unit, self._video, round(seconds * PICTURE_HZ), PICTURE_HZ // self._fps, is_idr=is_idr)

    def _mux_sound(self, packet: bytes, index: int) -> None:
        samples = index * PACKET_SAMPLES - round(self._origin * SOUND_HZ)
        if samples >= 0:
            self._mux(packet, self._sound, samples, PACKET_SAMPLES, is_idr=True)

    def _mux(self, data: bytes, stream: Any, pts: int, duration: int, *, is_idr: bool) -> None:  # noqa: ANN401
        packet = av.Packet(data)
        packet.stream = stream
        packet.time_base = PICTURE_BASE if stream is self._video else SOUND_BASE
        packet.pts = packet.dts = pts
        packet.duration = duration
        packet.is_keyframe = is_idr
        self._container.mux(packet)


class RecordingFolder:
    """Where recordings lie: unguessable names, and nothing outside the folder.

    Args:
        config: the folder, and how long files stay.
    """

    def __init__(self, config: RecordingConfig) -> None:
        self._directory = config.directory
        self._max_age_s = config.max_age_s

    def new_file(self) -> tuple[str, Path]:
        """Return an unguessable name and the path that belongs to it; makes no file."""
        name = f"{secrets.token_urlsafe(16)}.mp4"
        return name, self._directory / name

    def path_of(self, name: str) -> Path | None:
        """Return the complete recording of that name, or None; names that are no recording's have none."""
        if re.fullmatch(r"[A-Za-z0-9_-]{22}\.mp4", name) is None:
            return None
        path = self._directory / name
        return path if path.is_file() and not path.is_symlink() else None

    def delete_expired(self, now_s: float | None = None) -> int:
        """Delete recordings, finished or not, that were last written `max_age_s` ago.

        Args:
            now_s: seconds since the epoch, as the file system counts; None for the present.

        Returns:
            How many were deleted.
        """
        deleted = 0
        now_s = time.time() if now_s is None else now_s
        for path in [*self._directory.glob("*.mp4"), *self._directory.glob(f"*.mp4{PARTIAL_SUFFIX}")]:
            try:
                if path.stat().st_mtime <= now_s - self._max_age_s:
                    path.unlink()
                    deleted += 1
            except OSError as error:  # another process may have been faster
                logger.debug("a recording could not be deleted: %s", type(error).__name__)
        return deleted


def _has_idr(unit: bytes) -> bool:
    """Return whether an access unit (Annex B) holds an IDR slice (NAL unit type 5, ITU-T H.264 table 7-1)."""
    start = unit.find(b"\x00\x00\x01")
    while start >= 0 and start + 3 < len(unit):
        kind = unit[start + 3] & 0x1F
        if kind in {1, NAL_IDR}:
            return kind == NAL_IDR
        start = unit.find(b"\x00\x00\x01", start + 3)
    return False


@lru_cache(maxsize=1)
def _opus_template() -> bytes:
    """Return a few milliseconds of Ogg Opus: PyAV takes a stream's parameters from another stream only."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SOUND_HZ)
        stream.layout = "mono"
        stream.format = "s16"
        frame = av.AudioFrame(format="s16", layout="mono", samples=PACKET_SAMPLES)
        frame.sample_rate = SOUND_HZ
        frame.pts = 0
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()
