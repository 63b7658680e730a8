"""A base loop encoded once and sent to every session that is idle."""

from __future__ import annotations

from typing import Protocol

from serve_app.nouns import BaseLoop, UInt8


class EncodePicture(Protocol):
    """Encodes the next picture of one stream; the first, and each with `keyframe`, decodes on its own."""

    def __call__(self, i420: UInt8, *, keyframe: bool) -> bytes:
        """Return the access unit of `i420` ([width * height * 3 // 2] uint8)."""
        ...


class EncodedLoop:
    """The access units of a base loop: closed groups of pictures of nearly equal length.

    A stream that enters at a keyframe and takes each successor, round and round, can be decoded.

    Args:
        loop: what to encode.
        encode: encodes one picture after the other; it must delay none.
        gop_s: wanted distance of keyframes, in seconds.
    """

    def __init__(self, loop: BaseLoop, encode: EncodePicture, gop_s: float) -> None:
        num_frames = len(loop.frames)
        groups = max(1, min(num_frames, round(num_frames / (gop_s * loop.fps))))
        self._keyframes = frozenset(group * num_frames // groups for group in range(groups))
        self._packets = tuple(
            encode(frame, keyframe=index in self._keyframes) for index, frame in enumerate(loop.frames)
        )
        self._size_bytes = sum(len(packet) for packet in self._packets)
        self._duration_s = num_frames / loop.fps

    @property
    def size_bytes(self) -> int:
        """Bytes of all access units."""
        return self._size_bytes

    @property
    def bitrate_bps(self) -> float:
        """Mean bitrate of the loop."""
        return self._size_bytes * 8 / self._duration_s

    def packet(self, base_frame: int) -> bytes:
        """Return the access unit of a base frame (not reduced modulo L)."""
        return self._packets[base_frame % len(self._packets)]

    def is_keyframe(self, base_frame: int) -> bool:
        """Return whether a stream may enter at this base frame (not reduced modulo L)."""
        return base_frame % len(self._packets) in self._keyframes
