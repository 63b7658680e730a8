"""The packets of one microphone, in any order, into sound whose timing is true.

A packet that is in order is decoded and handed over at once: 0.03 ms for 20 ms of Opus. One that overtook
others waits for them at most HOLD_S; what is still missing then becomes silence of the same length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import av
import numpy as np

from serve_app.nouns import SOUND_HZ, Int16
from serve_app.rtc.budget import Budget

logger = logging.getLogger("serve_app.rtc")

HOLD_S = 0.04
"""How long a packet waits for those it overtook: two packets of 20 ms, more than networks reorder."""

MAX_HELD = 16
"""Packets that wait at most; a longer burst behind a gap means that the gap stays."""

MAX_LATE = 100
"""A sequence number this far behind is a packet that comes too late; farther, a sender that began anew."""

MAX_AHEAD = 1000
"""A sequence number farther ahead than 20 s of sound is no gap."""

MAX_FILL_S = 2.0
"""Longest silence put in place of lost packets; after a longer one sound just goes on."""

BURST_S = 4.0
"""Sound that may arrive at once, as after a network that stood still."""

MAX_PACE = 1.02
"""Seconds of sound a second for good: what no clock drifts by, and a hostile one would exceed."""


class Microphone:
    """One Opus stream in, mono sound at SOUND_HZ out. Whatever arrives, memory and work stay bounded.

    Args:
        deliver: takes [S] int16 mono at the given rate.
        now_s: the present time, on the clock that `push` and `expire` are called with.
    """

    def __init__(self, deliver: Callable[[Int16, int], None], now_s: float) -> None:
        self._deliver = deliver
        self._budget = Budget(MAX_PACE * SOUND_HZ, BURST_S * SOUND_HZ, now_s)
        self._decoder = _opus_decoder()
        self._source: int | None = None
        self._next: int | None = None
        self._stray: int | None = None
        self._timestamp: int | None = None
        self._held: dict[int, tuple[int, bytes, float]] = {}
        self._has_warned = False

    @property
    def due_s(self) -> float | None:
        """When `expire` has to be called; None while no packet waits."""
        return min((held[2] for held in self._held.values()), default=None)

    def push(self, source: int, sequence: int, timestamp: int, payload: bytes, now_s: float) -> None:
        """Take an RTP packet.

        Args:
            source: its SSRC; another than before starts a new stream.
            sequence: 16 bits.
            timestamp: 32 bits at SOUND_HZ.
            payload: one Opus packet (RFC 6716); padding is empty.
            now_s: the present time.
        """
        if source != self._source:
            self._source = source
            self._restart(sequence)
        ahead = self._distance(sequence)
        if ahead < -MAX_LATE or ahead > MAX_AHEAD:
            # Two in a row prove a sender that began anew (RFC 3550, appendix A.1); one may be astray.
            if sequence != self._stray:
                self._stray = (sequence + 1) & 0xFFFF
                return
            self._restart(sequence)
            ahead = 0
        if ahead < 0 or sequence in self._held:
            return
        self._held[sequence] = (timestamp, payload, now_s + HOLD_S)
        if len(self._held) > MAX_HELD:
            self._skip()
        self._drain(now_s)

    def expire(self, now_s: float) -> None:
        """Give up waiting for packets that `due_s` says are overdue."""
        due_s = self.due_s
        while due_s is not None and due_s <= now_s:
            self._skip()
            self._drain(now_s)
            due_s = self.due_s

    def _restart(self, sequence: int) -> None:
        self._next = sequence
        self._stray = self._timestamp = None
        self._held.clear()

    def _distance(self, sequence: int) -> int:
        assert self._next is not None
        return ((sequence - self._next + 0x8000) & 0xFFFF) - 0x8000

    def _skip(self) -> None:
        self._next = min(self._held, key=self._distance)

    def _drain(self, now_s: float) -> None:
        while self._next in self._held:
            timestamp, payload, _ = self._held.pop(self._next)
            self._next = (self._next + 1) & 0xFFFF
            if payload:  # an empty one would end FFmpeg's decoder for good
                self._play(timestamp, payload, now_s)

    def _play(self, timestamp: int, payload: bytes, now_s: float) -> None:
        if not self._budget.allows(1, now_s):
            self._warn("more sound arrived than time passed; the rest was dropped")
            return
        samples = self._decode(payload)
        if samples is None:
            return
        missing = 0 if self._timestamp is None else (timestamp - self._timestamp) & 0xFFFFFFFF
        if 0 < missing <= MAX_FILL_S * SOUND_HZ and self._budget.allows(missing, now_s):
            self._hand_over(np.zeros(missing, np.int16))
        self._timestamp = (timestamp + len(samples)) & 0xFFFFFFFF
        self._hand_over(samples)

    def _hand_over(self, samples: Int16) -> None:
        self._budget.spend(len(samples))
        self._deliver(samples, SOUND_HZ)

    def _decode(self, payload: bytes) -> Int16 | None:
        try:
            frames = self._decoder.decode(av.Packet(payload))
        except av.FFmpegError:
            self._warn("a packet is not Opus; it is treated as lost")
            self._decoder.flush_buffers()
            return None
        parts = [np.frombuffer(frame.planes[0], np.int16, frame.samples) for frame in frames]
        return np.concatenate(parts) if parts else None

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("a microphone's stream is faulty (said once): %s", text)


def _opus_decoder() -> av.AudioCodecContext:
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format = "s16"
    decoder.layout = "mono"  # libopus itself mixes stereo packets down
    decoder.sample_rate = SOUND_HZ
    return decoder
