"""Hands a session's sound and pictures to a room's SDK when they are due.

Both come from one clock, the session's. Sound leads: it is never left out unless it is more than a second
late, and where an SDK lets it wait (`SoundSink.queued_s`), pictures wait as long, so that lips stay with it.
What waited too long is made up for in silence, never in speech. A late picture is skipped for the newest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

import numpy as np

from serve_app.clock import Clock
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, Int16, UInt8
from serve_app.rooms.base import RoomSource

logger = logging.getLogger("serve_app.rooms")

MAX_SOUND_LAG_S = 1.0
"""Sound that is later than this is skipped; anything less is handed over at once."""

USUAL_QUEUE_S = 0.06
"""Sound that waits so long in an SDK is its own jitter buffer; more is a backlog."""

EPSILON_S = 1e-6
"""Keeps an index that is due exactly now from being rounded down."""

Media = TypeVar("Media")


class SoundSink(Protocol):
    """Takes sound on its way into a room."""

    @property
    def queued_s(self) -> float:
        """How long sound handed over now waits before it is sent; 0 where it goes straight out."""
        ...

    async def play(self, samples: Int16) -> None:
        """Take [960] int16 mono at SOUND_HZ."""
        ...


class PictureSink(Protocol):
    """Takes pictures on their way into a room."""

    def show(self, picture: UInt8) -> None:
        """Take a frame, flat I420, and show it at once."""
        ...


class Pacer:
    """Reads a source by index and feeds two sinks, for ever.

    Args:
        source: the session.
        clock: its clock.
        sound: where sound goes.
        pictures: where pictures go.
    """

    def __init__(self, source: RoomSource, clock: Clock, sound: SoundSink, pictures: PictureSink) -> None:
        self._source = source
        self._clock = clock
        self._sound = sound
        self._pictures = pictures
        self._has_failed = False

    async def run(self) -> NoReturn:
        """Run until cancelled; what a sink raises ends it, what the source raises does not."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._play())
                group.create_task(self._show())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        raise AssertionError("neither loop ends by itself")

    async def _play(self) -> NoReturn:
        index: int | None = None
        while True:
            newest = int((self._clock.now_s() - self._source.start_s) / PACKET_S + EPSILON_S)
            if index is None or newest - index > MAX_SOUND_LAG_S / PACKET_S:
                index = max(0, newest)
            await self._clock.sleep_until(self._source.start_s + index * PACKET_S)
            samples = self._ask(self._source.sound, index)
            if samples is None:
                samples = np.zeros(PACKET_SAMPLES, np.int16)
            queued_s = self._sound.queued_s
            if queued_s <= USUAL_QUEUE_S or (queued_s <= MAX_SOUND_LAG_S and samples.any()):
                await self._sound.play(samples)
            index += 1

    async def _show(self) -> NoReturn:
        last = -1
        while True:
            start_s = self._source.start_s + max(0.0, self._sound.queued_s - USUAL_QUEUE_S)
            newest = int((self._clock.now_s() - start_s) * self._source.fps + EPSILON_S)
            last = max(last + 1, newest)
            await self._clock.sleep_until(start_s + last / self._source.fps)
            picture = self._ask(self._source.picture, last)
            if picture is not None:
                self._pictures.show(picture)

    def _ask(self, media: Callable[[int], Media], index: int) -> Media | None:
        try:
            return media(index)
        except Exception:  # one bad frame must not take the avatar out of the room
            if not self._has_failed:
                self._has_failed = True
                logger.exception("a room's source failed; later failures are not logged")
            return None
