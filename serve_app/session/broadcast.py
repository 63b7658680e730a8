"""What a session shows and plays now: the same for everybody who watches, whoever asks first.

Peers, viewers and rooms each run at their own pace on the one session clock. The playout is asked once for
each index; those who come a little later get what was answered then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from serve_app.clock import Clock
from serve_app.media.playout import Playout
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ, Int16, Picture
from serve_app.rtc.encoder import SILENCE, OpusEncoder

FIRST_PACKETS = 5
"""Sound packets of a new peer before an utterance may begin: a receiver not quite ready loses the first."""

KEPT = 64
"""Packets and pictures at hand for those who are behind the first: more than a second."""

WATCHED_S = 10 * PACKET_S
"""Who has not asked for so long is gone."""

Value = TypeVar("Value")


class Broadcast:
    """The one reader of a session's playout.

    Args:
        playout: the session's timeline.
        fps: frames per second.
        clock: the session clock.
        on_progress: called after every step of the playout, to look at its events.
    """

    def __init__(self, playout: Playout, fps: int, clock: Clock, on_progress: Callable[[], None]) -> None:
        self._playout = playout
        self._fps = fps
        self._clock = clock
        self._on_progress = on_progress
        self._opus: OpusEncoder | None = None
        self._samples: dict[int, Int16 | None] = {}
        self._packets: dict[int, bytes] = {}
        self._pictures: dict[int, Picture] = {}
        self._last_picture = Picture(0, None)
        self._newest_packet = self._newest_picture = -1
        self._asked_s = self._looked_s = clock.now_s() - 1.0
        self._is_aligned = False

    @property
    def is_watched(self) -> bool:
        """Whether anybody asked for sound or picture within the last few packets."""
        return self._clock.now_s() - self._asked_s < WATCHED_S

    def expect_newcomer(self) -> None:
        """A new peer takes over: no utterance begins before its receiver is surely ready."""
        self._is_aligned = False

    def sound(self, index: int) -> Int16 | None:
        """Return packet `index`, [PACKET_SAMPLES] int16 at SOUND_HZ, or None for silence."""
        self._ask(index * PACKET_SAMPLES)
        if index <= self._newest_packet:
            return self._samples.get(index)
        self._newest_packet = index
        if self._clock.now_s() - self._looked_s >= WATCHED_S:
            # Pictures lead the timeline: where nobody looks, they pass unseen.
            self._show(index * PACKET_SAMPLES * self._fps // SOUND_HZ)
        samples = self._playout.sound(index)
        _keep(self._samples, index, samples)
        self._on_progress()
        return samples

    def packet(self, index: int) -> bytes:
        """Return the Opus packet of 20 ms number `index`."""
        known = self._packets.get(index)
        if known is not None:
            return known
        samples = self.sound(index)
        if samples is None:
            packet = SILENCE
        else:
            if self._opus is None:
                self._opus = OpusEncoder()
            packet = self._opus.encode(samples)
        _keep(self._packets, index, packet)
        return packet

    def picture(self, index: int) -> Picture:
        """Return what frame `index` shows."""
        self._ask(index * SOUND_HZ // self._fps)
        self._looked_s = self._clock.now_s()
        return self._show(index)

    def _show(self, index: int) -> Picture:
        if index <= self._newest_picture:
            return self._pictures.get(index, self._last_picture)
        self._newest_picture = index
        self._last_picture = self._playout.picture(index)
        _keep(self._pictures, index, self._last_picture)
        self._on_progress()
        return self._last_picture

    def _ask(self, sample: int) -> None:
        """After a time without anybody, go on where the last listener left, not where the clock is."""
        was_watched = self.is_watched
        self._asked_s = self._clock.now_s()
        if was_watched and self._is_aligned:
            return
        self._is_aligned = True
        self._playout.begin_from(sample + FIRST_PACKETS * PACKET_SAMPLES)
        gap = sample - (self._newest_packet + 1) * PACKET_SAMPLES
        if gap > 0:
            self._playout.shift(gap)


def _keep(known: dict[int, Value], index: int, value: Value) -> None:
    known[index] = value
    if len(known) > KEPT:
        del known[next(iter(known))]
