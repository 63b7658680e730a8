"""What the guests of a LiveKit room say: their microphones are subscribed to, read and mixed.

Nothing else that is published there is asked for: the avatar looks at nobody, and does not listen to agents,
among which other avatars are.
"""

from __future__ import annotations

import asyncio
import logging
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from serve_app.rooms.base import OnSound
from serve_app.rooms.guests import FRAME_MS, HEARD_HZ, MAX_GUESTS, Guests

if TYPE_CHECKING:
    from livekit import rtc

logger = logging.getLogger("serve_app.rooms")

MAX_FRAMES = 50
"""Frames of one guest that wait for a busy event loop: a second; then the oldest are dropped."""

CLOSE_S = 1.0


class GuestMicrophones:
    """Hears the guests of a room.

    Args:
        sdk: LiveKit's `livekit.rtc`.
        room: the `rtc.Room`, not connected yet.
        on_sound: takes what they say.
    """

    def __init__(self, sdk: ModuleType, room: rtc.Room, on_sound: OnSound) -> None:
        self._sdk = sdk
        self._room = room
        self._guests = Guests(on_sound)
        self._asked: set[str] = set()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False
        room.on("track_published", self._on_changed)
        room.on("track_unpublished", self._on_changed)
        room.on("track_subscribed", self._on_subscribed)
        room.on("track_unsubscribed", self._on_unsubscribed)

    def look_round(self) -> None:
        """Subscribe to the microphones that are there and not heard yet, MAX_GUESTS at most."""
        if self._is_closed:
            return
        there = {
            publication.sid: publication
            for participant in self._room.remote_participants.values()
            if is_guest(self._sdk, participant)
            for publication in participant.track_publications.values()
            if self._is_microphone(publication)
        }
        self._asked &= there.keys()
        for sid, publication in there.items():
            if sid not in self._asked and len(self._asked) < MAX_GUESTS:
                self._asked.add(sid)
                publication.set_subscribed(True)

    async def close(self) -> None:
        """Read nothing any more."""
        self._is_closed = True
        readers = list(self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def _is_microphone(self, publication: rtc.RemoteTrackPublication) -> bool:
        # Telephones and simple clients do not say what their sound comes from.
        sources = self._sdk.TrackSource
        return (
            publication.kind == self._sdk.TrackKind.KIND_AUDIO
            and publication.source != sources.SOURCE_SCREENSHARE_AUDIO
        )

    def _on_changed(self, _publication: object, _participant: object) -> None:
        self.look_round()

    def _on_subscribed(
        self, track: rtc.RemoteTrack, publication: rtc.RemoteTrackPublication, _participant: object
    ) -> None:
        if self._is_closed or publication.sid not in self._asked:
            return
        self._stop(publication.sid)
        reader = asyncio.create_task(self._read(publication.sid, track))
        self._readers[publication.sid] = reader
        reader.add_done_callback(lambda done: self._forget(publication.sid, done))

    def _on_unsubscribed(
        self, _track: object, publication: rtc.RemoteTrackPublication, _participant: object
    ) -> None:
        self._stop(publication.sid)
        self._asked.discard(publication.sid)

    def _stop(self, sid: str) -> None:
        reader = self._readers.pop(sid, None)
        if reader is not None:
            reader.cancel()

    def _forget(self, sid: str, reader: asyncio.Task[None]) -> None:
        if self._readers.get(sid) is reader:
            del self._readers[sid]

    async def _read(self, sid: str, track: rtc.RemoteTrack) -> None:
        stream = self._sdk.AudioStream.from_track(
            track=track,
            capacity=MAX_FRAMES,
            sample_rate=HEARD_HZ,
            num_channels=1,
            frame_size_ms=FRAME_MS,
        )
        try:
            async for event in stream:
                # The SDK's frame gives its memory back when it goes.
                self._guests.push(sid, np.frombuffer(event.frame.data, np.int16).copy())
        except Exception:
            # Whatever an SDK raises is this guest's trouble alone.
            logger.exception("a guest's microphone in a LiveKit room failed")
        finally:
            self._guests.remove(sid)
            async with asyncio.timeout(CLOSE_S):
                await stream.aclose()


def is_guest(sdk: ModuleType, participant: rtc.RemoteParticipant) -> bool:
    """Return whether a participant sees and hears the avatar: agents, recorders and ingresses do not."""
    kinds = sdk.ParticipantKind
    unseeing = {
        kinds.PARTICIPANT_KIND_AGENT,
        kinds.PARTICIPANT_KIND_EGRESS,
        kinds.PARTICIPANT_KIND_INGRESS,
    }
    return participant.kind not in unseeing
