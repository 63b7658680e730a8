"""Sound and picture of a session as WebRTC tracks, paced by one media clock.

Packet p of the sound is due at `start_s + p * 0.020`, frame n of the picture at `start_s + n / fps`; the
timestamps of both count from `start_s`, so a receiver can align them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Protocol, TypeVar

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from serve_app.clock import Clock
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ
from serve_app.rtc.encoder import SILENCE

logger = logging.getLogger("serve_app.rtc")

PICTURE_HZ = 90_000
"""RTP clock of H.264 and VP8 (RFC 6184, RFC 7741)."""

MAX_SOUND_LAG_S = 1.0
"""Sound that is later than this is skipped; anything less is sent at once."""

EPSILON_S = 1e-6
"""Keeps an index that is due exactly now from being rounded down."""

T = TypeVar("T")


class MediaSource(Protocol):
    """What a session shows and plays, by index on its own clock."""

    def sound_packet(self, index: int) -> bytes:
        """Return the Opus packet of 20 ms number `index`; called in rising order, must be cheap."""
        ...

    async def picture_packet(self, index: int) -> bytes | None:
        """Return the H.264 access unit (Annex B) of frame `index`, or None to send nothing for it."""
        ...

    def picture_frame(self, index: int) -> av.VideoFrame:
        """Return frame `index` unencoded, for receivers that take no H.264."""
        ...

    def request_keyframe(self) -> None:
        """Make the next picture decodable on its own (PLI, FIR)."""
        ...

    def set_target_bitrate(self, bps: int) -> None:
        """Obey the receiver's estimate (REMB), in bits per second."""
        ...


class MediaTrack(MediaStreamTrack):  # type: ignore[misc, unused-ignore]
    """A track whose encoded data can be had without wrapping it in an av.Packet.

    Attributes:
        start_s: the moment on the clock that timestamp 0 stands for.
        clock_rate_hz: RTP clock of the timestamps.
    """

    clock_rate_hz: int

    def __init__(self, source: MediaSource, clock: Clock, start_s: float) -> None:
        super().__init__()
        self.source = source
        self.clock = clock
        self.start_s = start_s
        self._has_failed = False

    async def next_packet(self) -> tuple[bytes, int]:
        """Wait until data is due; return it and its timestamp, counted from `start_s` in `clock_rate_hz`.

        Raises:
            MediaStreamError: the track was stopped.
        """
        raise NotImplementedError

    async def recv(self) -> av.Packet | av.VideoFrame:
        """Wait until data is due and return it as aiortc wants it.

        Raises:
            MediaStreamError: the track was stopped.
        """
        data, pts = await self.next_packet()
        packet = av.Packet(data)
        packet.pts = pts
        packet.time_base = Fraction(1, self.clock_rate_hz)
        return packet

    async def _wait(self, due_s: float) -> None:
        await self.clock.sleep_until(due_s)
        if self.readyState != "live":
            raise MediaStreamError

    async def _attempt(self, produce: Callable[[int], Awaitable[T]], index: int, instead: T) -> T:
        try:
            return await produce(index)
        except Exception:  # aiortc ends a sender for good when its track raises
            if not self._has_failed:
                self._has_failed = True
                logger.exception("%s track: the source failed; later failures are not logged", self.kind)
            return instead


class SoundTrack(MediaTrack):
    """Opus packets of 20 ms. None is left out unless the track is more than a second behind."""

    kind = "audio"
    clock_rate_hz = SOUND_HZ

    def __init__(self, source: MediaSource, clock: Clock, start_s: float) -> None:
        super().__init__(source, clock, start_s)
        self._next: int | None = None

    async def next_packet(self) -> tuple[bytes, int]:
        """Return the next Opus packet and its timestamp at SOUND_HZ."""
        newest = int((self.clock.now_s() - self.start_s) / PACKET_S + EPSILON_S)
        index = self._next
        if index is None or newest - index > MAX_SOUND_LAG_S / PACKET_S:
            index = max(0, newest)
        self._next = index + 1
        await self._wait(self.start_s + index * PACKET_S)
        return await self._attempt(self._packet, index, SILENCE), index * PACKET_SAMPLES

    async def _packet(self, index: int) -> bytes:
        return self.source.sound_packet(index)


class PictureTrack(MediaTrack):
    """Frames at a fixed rate. A late track goes on with the newest frame that is due; none pile up.

    Args:
        source: where frames come from.
        clock: the media clock.
        start_s: when frame 0 is due.
        fps: frames per second.
        encoded: whether to ask the source for H.264, or for frames that aiortc encodes.
    """

    kind = "video"
    clock_rate_hz = PICTURE_HZ

    def __init__(self, source: MediaSource, clock: Clock, start_s: float, fps: int, encoded: bool) -> None:
        super().__init__(source, clock, start_s)
        self.fps = fps
        self.encoded = encoded
        self._last = -1

    async def next_packet(self) -> tuple[bytes, int]:
        """Return the next H.264 access unit and its timestamp at PICTURE_HZ."""
        if self._last < 0:
            # A session may have shown pictures to an earlier receiver; this one needs a start.
            self.source.request_keyframe()
        while True:
            index = await self._next_index()
            unit = await self._attempt(self.source.picture_packet, index, None)
            if unit is not None:
                return unit, self._pts(index)

    async def recv(self) -> av.Packet | av.VideoFrame:
        """Return the next access unit, or the next frame when the track is not `encoded`."""
        if self.encoded:
            return await super().recv()
        while True:
            index = await self._next_index()
            frame = await self._attempt(self._frame, index, None)
            if frame is not None:
                frame.pts = self._pts(index)
                frame.time_base = Fraction(1, PICTURE_HZ)
                return frame

    async def _next_index(self) -> int:
        newest = int((self.clock.now_s() - self.start_s) * self.fps + EPSILON_S)
        self._last = max(self._last + 1, newest)
        await self._wait(self.start_s + self._last / self.fps)
        return self._last

    async def _frame(self, index: int) -> av.VideoFrame | None:
        return self.source.picture_frame(index)

    def _pts(self, index: int) -> int:
        return index * PICTURE_HZ // self.fps
