"""From what a session shows to access units: the shared loop while idle, its own encoder otherwise.

Both streams start with an IDR picture wherever they are entered, so a decoder never sees the seam.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor

import av

from serve_app.config import EncoderConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import BaseLoop, Picture
from serve_app.rtc.encoder import H264Encoder, I420Frame

RELEASE_AFTER_S = 3.0
"""An own encoder that was not needed for so long is given back: it holds several megabytes."""

LOOP_HEADROOM = 0.75
"""A receiver whose estimate is below this share of the shared loop's bitrate gets its own, smaller stream."""


class PictureStream:
    """The picture of one session, as access units in order.

    Args:
        loop: base loop of the session's avatar.
        encoded: the same loop, encoded once for all sessions.
        config: settings of the session's own encoder.
        executor: where pictures are composed and encoded.
    """

    def __init__(
        self, loop: BaseLoop, encoded: EncodedLoop, config: EncoderConfig, executor: Executor
    ) -> None:
        self._loop = loop
        self._encoded = encoded
        self._config = config
        self._executor = executor
        # A peer that is replaced may leave a job behind in the executor.
        self._lock = threading.Lock()
        self._encoder: H264Encoder | None = None
        self._target_bps: int | None = None
        self._riding = False
        self._last_base = -1
        self._is_live = False
        self._ridden_frames = 0
        self._keyframe_wanted = False
        self._closed = False

    @property
    def target_bitrate_bps(self) -> int:
        """What the receiver is thought to take (REMB), or the start bitrate before it said so."""
        return self._config.start_bitrate_bps if self._target_bps is None else self._target_bps

    @target_bitrate_bps.setter
    def target_bitrate_bps(self, bps: int) -> None:
        self._target_bps = bps

    @property
    def is_riding(self) -> bool:
        """Whether the last picture came from the shared loop."""
        return self._riding

    @property
    def has_encoder(self) -> bool:
        """Whether an own encoder is open."""
        return self._encoder is not None

    def request_keyframe(self) -> None:
        """Make the next picture an IDR (PLI, FIR, a new receiver)."""
        self._keyframe_wanted = True

    def frame(self, picture: Picture) -> av.VideoFrame:
        """Return the composed picture, for codecs that aiortc encodes itself."""
        composed = I420Frame(self._loop.width, self._loop.height)
        self._compose(composed, picture)
        return composed.frame

    async def encode(self, picture: Picture) -> bytes:
        """Return the access unit of the next picture, Annex B.

        Decoding the returned units in order shows the pictures; the first is an IDR.
        """
        if self._may_ride(picture):
            return self._ride(picture.base_frame)
        keyframe = self._keyframe_wanted or not self._is_live
        self._riding = self._keyframe_wanted = False
        self._ridden_frames = 0
        self._is_live = True
        job = asyncio.get_running_loop().run_in_executor(self._executor, self._encode_live, picture, keyframe)
        try:
            return await job
        except BaseException:
            # The next picture must not depend on one that was never sent.
            self._is_live = False
            raise

    def close(self) -> None:
        """Give the own encoder back."""
        self._closed = True
        self._encoder = None

    def _may_ride(self, picture: Picture) -> bool:
        if picture.patch is not None:
            return False
        if self._target_bps is not None and self._target_bps < LOOP_HEADROOM * self._encoded.bitrate_bps:
            return False
        if self._encoded.is_keyframe(picture.base_frame):
            return True
        follows = (self._last_base + 1 - picture.base_frame) % len(self._loop.frames) == 0
        return self._riding and follows and not self._keyframe_wanted

    def _ride(self, base_frame: int) -> bytes:
        self._riding = True
        self._last_base = base_frame
        self._is_live = self._keyframe_wanted = False
        self._ridden_frames += 1
        if self._ridden_frames >= RELEASE_AFTER_S * self._loop.fps:
            self._encoder = None
        return self._encoded.packet(base_frame)

    def _encode_live(self, picture: Picture, keyframe: bool) -> bytes:
        with self._lock:
            encoder = self._encoder
            if encoder is None:
                encoder = H264Encoder(self._loop.width, self._loop.height, self._loop.fps, self._config)
                if not self._closed:
                    self._encoder = encoder
            if encoder.bitrate_bps != self.target_bitrate_bps:
                encoder.bitrate_bps = self.target_bitrate_bps
            self._compose(encoder.picture, picture)
            return encoder.encode_picture(keyframe=keyframe)

    def _compose(self, composed: I420Frame, picture: Picture) -> None:
        composed.fill(self._loop.frames[picture.base_frame % len(self._loop.frames)])
        if picture.patch is not None:
            composed.paste(picture.patch)
