"""The ways out of a session: one for each peer and viewer, encoded; one for a room, raw."""

from __future__ import annotations

from concurrent.futures import Executor

import av
import numpy as np

from serve_app.config import EncoderConfig
from serve_app.media.i420 import overlaid
from serve_app.media.idle import EncodedLoop
from serve_app.media.recorder import Recorder
from serve_app.nouns import PACKET_SAMPLES, BaseLoop, Int16, UInt8
from serve_app.rtc.picture import PictureStream
from serve_app.session.broadcast import Broadcast


class Lane:
    """One receiver's `rtc.tracks.MediaSource`: the common sound, and pictures encoded for its network.

    Args:
        broadcast: what the session shows.
        loop: base loop of the avatar.
        encoded: the same loop, encoded once for all sessions.
        config: of the encoder.
        executor: where pictures are encoded.

    Attributes:
        recorder: gets every packet that is sent; None while nothing is recorded.
    """

    def __init__(
        self,
        broadcast: Broadcast,
        loop: BaseLoop,
        encoded: EncodedLoop,
        config: EncoderConfig,
        executor: Executor,
    ) -> None:
        self.recorder: Recorder | None = None
        self._broadcast = broadcast
        self._pictures = PictureStream(loop, encoded, config, executor)

    def sound_packet(self, index: int) -> bytes:
        """Return the Opus packet of 20 ms number `index` of the session clock."""
        packet = self._broadcast.packet(index)
        if self.recorder is not None:
            self.recorder.sound(packet, index)
        return packet

    async def picture_packet(self, index: int) -> bytes | None:
        """Return the H.264 access unit of frame `index` of the session clock."""
        unit = await self._pictures.encode(self._broadcast.picture(index))
        if self.recorder is not None:
            self.recorder.video(unit, index)
        return unit

    def picture_frame(self, index: int) -> av.VideoFrame:
        """Return frame `index` unencoded, for codecs that aiortc encodes."""
        return self._pictures.frame(self._broadcast.picture(index))

    def request_keyframe(self) -> None:
        """Make the next picture decodable on its own."""
        self._pictures.request_keyframe()

    def set_target_bitrate(self, bps: int) -> None:
        """Obey the receiver's estimate."""
        self._pictures.target_bitrate_bps = bps

    def close(self) -> None:
        """Give the encoder back."""
        self._pictures.close()


class RoomLane:
    """A room's `rooms.base.RoomSource`: unencoded sound and pictures; the room's SDK encodes.

    Args:
        broadcast: what the session shows.
        loop: base loop of the avatar.
        fps: frames per second.
        start_s: when packet 0 and frame 0 are due on the session clock.
    """

    def __init__(self, broadcast: Broadcast, loop: BaseLoop, fps: int, start_s: float) -> None:
        self.width = loop.width
        self.height = loop.height
        self.fps = fps
        self.start_s = start_s
        self._broadcast = broadcast
        self._loop = loop

    def sound(self, index: int) -> Int16:
        """Return [960] int16 mono at SOUND_HZ: 20 ms, zeros in silence."""
        samples = self._broadcast.sound(index)
        return np.zeros(PACKET_SAMPLES, np.int16) if samples is None else samples

    def picture(self, index: int) -> UInt8:
        """Return frame `index`, flat I420."""
        picture = self._broadcast.picture(index)
        base = self._loop.frames[picture.base_frame % len(self._loop.frames)]
        return (
            base.copy() if picture.patch is None else overlaid(base, self.width, self.height, picture.patch)
        )
