"""A session's avatar in a LiveKit room.

It publishes `avatar_audio` and `avatar_video`, as LiveKit's own avatar workers do, as soon as it is in the
room: agents wait for the picture before they speak. Both tracks go straight into libwebrtc at the moment the
pacer says. LiveKit's AVSynchronizer is not used: it holds 100 ms of sound, and times pictures by a clock of
its own that knows nothing of what the sound does.

Measured on a shared core: 0.11 ms for a picture of 512 x 512, 0.18 ms for 10 ms of sound; 4 % of the event
loop at 30 fps, all included. Encoding happens in libwebrtc's own threads. Hearing a guest takes another
0.5 %, and 0.9 % where a process hears 16: the SDK shows the frames of each to the readers of all.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from serve_app.clock import Clock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, Int16, UInt8
from serve_app.rooms.base import (
    PICTURE_BITS_PER_PIXEL,
    SOUND_BPS,
    OnRoomState,
    OnSound,
    RoomSource,
    RoomSpec,
)
from serve_app.rooms.livekit_guests import GuestMicrophones, is_guest
from serve_app.rooms.livekit_token import LiveKitGrant, read_grant
from serve_app.rooms.livekit_worker import MAX_STREAM_BYTES, AvatarWorker
from serve_app.rooms.pacer import Pacer
from serve_app.rooms.redaction import redact
from serve_app.rooms.sdk import load_livekit
from serve_app.rooms.stay import Stay
from serve_app.speech.speaker import Speaker

if TYPE_CHECKING:
    from livekit import rtc

logger = logging.getLogger("serve_app.rooms")

SOUND_TRACK = "avatar_audio"
PICTURE_TRACK = "avatar_video"

JOIN_S = 20.0
"""For entering and publishing; the SDK tries three times, 5 s each."""

CONNECT_S = 5.0
LEAVE_S = 3.0

AUDIBLE_S = 3.0
"""How long an agent's first words wait for somebody to receive the sound track."""

DIRECT_SAMPLES = SOUND_HZ // 100
"""Without a queue, LiveKit takes sound in frames of exactly 10 ms."""

STATE_TOPIC = "session.state"
"""Of the data messages {"state", "reason"} that AgentHuman's clients read (protocols 2.5)."""

TELL_S = 1.0


class LiveKitRoom:
    """Implements `rooms.base.Room` with LiveKit's Python SDK.

    Args:
        spec: the room; where it hears the agent, that one's speech is spoken, see `livekit_worker`.
        source: what is published.
        speaker: speaks what the agent sends; needed where the agent is heard.
        clock: the session clock.
        config: how long to wait for others; agents, recorders and ingresses do not count.
        on_state: is told what becomes of the avatar's place.
        on_sound: takes what the guests say; needed where they are heard, see `livekit_guests`.
        sdk: `livekit.rtc`, or what stands in for it.

    Raises:
        RoomFailed: no SDK, or a token that lets nobody in.
        InvalidMessage: not a LiveKit token.
    """

    def __init__(
        self,
        spec: RoomSpec,
        source: RoomSource,
        speaker: Speaker | None,
        clock: Clock,
        config: RoomsConfig,
        on_state: OnRoomState,
        on_sound: OnSound | None = None,
        *,
        sdk: ModuleType | None = None,
    ) -> None:
        self._grant: LiveKitGrant = read_grant(spec.token, time.time())
        self._sdk = load_livekit() if sdk is None else sdk
        self._spec = spec
        self._source = source
        self._speaker = speaker if spec.hears == "agent" else None
        self._on_sound = on_sound if spec.hears == "guests" else None
        self._clock = clock
        self._stay = Stay("LiveKit", clock, on_state, self._release, config, join_s=JOIN_S)
        self._room: rtc.Room | None = None
        self._worker: AvatarWorker | None = None
        self._microphones: GuestMicrophones | None = None
        self._sound: _Sound | None = None
        self._picture: _Pictures | None = None
        self._audible = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- Room --------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Enter and publish; see `rooms.base.Room`."""
        async with self._stay.entering():
            room = self._room = self._new_room()
            try:
                await self._connect(room)
                await self._publish(room)
            except (self._sdk.ConnectError, self._sdk.participant.PublishTrackError) as error:
                what = redact(error.message, self._spec)
                fault = f"expected to join the LiveKit room and publish there, got: {what}"
                raise RoomFailed(fault) from None
        self._stay.presence.joined(self._others())
        self._in_background(self._tell())

    async def leave(self) -> None:
        """Stop publishing and leave; safe to call more than once."""
        await self._stay.leave()

    def playback_started(self, tag: int) -> None:
        """See `speech.speaker.Listener`."""
        if self._worker is not None:
            self._worker.playback_started(tag)

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """See `speech.speaker.Listener`."""
        if self._worker is not None:
            self._worker.playback_ended(tag, played_s, interrupted)

    # --- joining -----------------------------------------------------------------------------------

    def _new_room(self) -> rtc.Room:
        room = self._sdk.Room()
        room.on("participant_connected", self._on_others)
        room.on("participant_disconnected", self._on_others)
        room.on("disconnected", self._on_disconnected)
        if self._on_sound is not None:
            self._microphones = GuestMicrophones(self._sdk, room, self._on_sound)
        if self._speaker is not None:
            self._worker = AvatarWorker(
                self._sdk,
                room,
                self._speaker,
                self._clock,
                agent=self._grant.publish_on_behalf,
                audible=self._until_audible,
            )
            self._worker.expect_streams()
        return room

    async def _connect(self, room: rtc.Room) -> None:
        options = self._sdk.RoomOptions(
            auto_subscribe=False,
            connect_timeout=CONNECT_S,
            data_stream=self._sdk.DataStreamOptions(max_payload_byte_length=MAX_STREAM_BYTES),
        )
        connecting = asyncio.create_task(room.connect(self._spec.url, self._spec.token, options))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # Left alone, the SDK would go on and put into the room an avatar that nobody can take out.
            connecting.add_done_callback(lambda done: _disconnect_late(room, done))
            raise
        if self._worker is not None:
            self._worker.expect_calls()
        if self._microphones is not None:
            self._microphones.look_round()

    async def _publish(self, room: rtc.Room) -> None:
        sdk, source = self._sdk, self._source
        self._sound = _Sound(sdk)
        self._picture = _Pictures(sdk, source.width, source.height)
        pacer = Pacer(source, self._clock, self._sound, self._picture)
        self._in_background(self._stay.run(pacer.run()))
        sound = sdk.LocalAudioTrack.create_audio_track(SOUND_TRACK, self._sound.source)
        picture = sdk.LocalVideoTrack.create_video_track(PICTURE_TRACK, self._picture.source)
        publication = await room.local_participant.publish_track(
            sound,
            sdk.TrackPublishOptions(
                source=sdk.TrackSource.SOURCE_MICROPHONE,
                audio_encoding={"max_bitrate": SOUND_BPS},
                # Silence is sent as well: receivers time the picture by the sound.
                dtx=False,
            ),
        )
        await room.local_participant.publish_track(
            picture,
            sdk.TrackPublishOptions(
                source=sdk.TrackSource.SOURCE_CAMERA,
                video_encoding={
                    "max_framerate": float(source.fps),
                    "max_bitrate": int(source.width * source.height * source.fps * PICTURE_BITS_PER_PIXEL),
                },
                # One small layer: each more costs the host another encoder.
                simulcast=False,
            ),
        )
        self._in_background(self._hear_subscription(publication))
        if self._worker is not None:
            self._in_background(self._stay.run(self._worker.run()))
        if self._grant.can_rename and not self._grant.name:
            self._in_background(room.local_participant.set_name(self._spec.display_name))

    async def _hear_subscription(self, publication: rtc.LocalTrackPublication) -> None:
        try:
            async with asyncio.timeout(AUDIBLE_S):
                await publication.wait_for_subscription()
        except TimeoutError:
            logger.info("nobody receives the avatar's sound yet; its agent is not kept waiting")
        self._audible.set()

    async def _until_audible(self) -> None:
        await self._audible.wait()

    # --- in the room -------------------------------------------------------------------------------

    def _others(self) -> int:
        assert self._room is not None, "only a room that was made has events"
        return sum(is_guest(self._sdk, other) for other in self._room.remote_participants.values())

    def _on_others(self, _participant: rtc.RemoteParticipant) -> None:
        self._stay.presence.count(self._others())
        if self._microphones is not None:
            self._microphones.look_round()

    async def _tell(self) -> None:
        """Tell the room of the avatar's state; a token need not allow it, and nobody need listen."""
        assert self._room is not None, "only a room that was made is told"
        told = json.dumps({"state": self._stay.presence.state, "reason": self._stay.presence.sentence})
        try:
            async with asyncio.timeout(TELL_S):
                await self._room.local_participant.publish_data(told, topic=STATE_TOPIC)
        except (TimeoutError, self._sdk.participant.PublishDataError) as error:
            logger.info("a LiveKit room was not told of its avatar's state (%s)", type(error).__name__)
        except Exception:
            # Whatever else an SDK raises, the avatar goes on joining or leaving.
            logger.exception("a LiveKit room was not told of its avatar's state")

    def _on_disconnected(self, reason: rtc.DisconnectReason) -> None:
        reasons = self._sdk.DisconnectReason
        if reason in {reasons.PARTICIPANT_REMOVED, reasons.ROOM_DELETED, reasons.ROOM_CLOSED}:
            self._stay.end("left", "the avatar was removed from the room, or the room was closed")
        else:
            self._stay.end("failed", f"the room was lost: {reasons.Name(reason)}")

    # --- leaving -----------------------------------------------------------------------------------

    async def _release(self) -> None:
        if self._room is not None and self._room.isconnected():
            if self._worker is not None:
                await self._worker.finish()
            await self._tell()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._worker is not None:
            self._worker.close()
        if self._microphones is not None:
            await self._microphones.close()
        try:
            async with asyncio.timeout(LEAVE_S):
                if self._room is not None:
                    await self._room.disconnect()
        except TimeoutError:
            logger.warning("a LiveKit room did not confirm that the avatar left")
        for sink in (self._sound, self._picture):
            if sink is not None:
                await sink.source.aclose()

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _disconnect_late(room: rtc.Room, connected: asyncio.Task[None]) -> None:
    if not connected.cancelled() and connected.exception() is None:
        _LATE.add(late := asyncio.ensure_future(room.disconnect()))
        late.add_done_callback(_LATE.discard)


_LATE: set[asyncio.Future[None]] = set()
"""Rooms that were entered after all and are being left."""


class _Sound:
    """A `SoundSink` that goes straight into libwebrtc: no queue, so nothing can wait in it."""

    queued_s = 0.0

    def __init__(self, sdk: ModuleType) -> None:
        self._sdk = sdk
        self.source: rtc.AudioSource = sdk.AudioSource(SOUND_HZ, 1, queue_size_ms=0)

    async def play(self, samples: Int16) -> None:
        """Take [960] int16 mono at SOUND_HZ."""
        for at in range(0, PACKET_SAMPLES, DIRECT_SAMPLES):
            data = samples[at : at + DIRECT_SAMPLES].astype("<i2", copy=False).tobytes()
            await self.source.capture_frame(self._sdk.AudioFrame(data, SOUND_HZ, 1, DIRECT_SAMPLES))


class _Pictures:
    """A `PictureSink`: the SDK copies the frame before it returns."""

    def __init__(self, sdk: ModuleType, width: int, height: int) -> None:
        self._sdk = sdk
        self._width = width
        self._height = height
        self.source: rtc.VideoSource = sdk.VideoSource(width, height)

    def show(self, picture: UInt8) -> None:
        """Take a frame, flat I420."""
        # The SDK takes the address of the data, which numpy gives only for what may be written.
        data = np.require(picture, np.uint8, ["C", "W"]).data
        kind = self._sdk.VideoBufferType.I420
        self.source.capture_frame(self._sdk.VideoFrame(self._width, self._height, kind, data))
