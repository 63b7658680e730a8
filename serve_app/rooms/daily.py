"""A session's avatar in a Daily room.

daily-python calls back from threads of its own, and some of its calls wait for them: what comes from there is
posted to the event loop, and what may wait runs in a thread. The camera and the microphone are custom
sources, which belong to one call and can be freed; the virtual devices of Daily's older interface are chosen
by name for the whole process, which has many sessions.

Measured on a shared core: 0.2 ms for a picture of 512 x 512, 0.01 ms for a packet of sound; 2 % of the event
loop at 30 fps, all included. Encoding happens in libwebrtc's own threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from serve_app.clock import Clock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.nouns import PACKET_S, SOUND_HZ, Int16, UInt8
from serve_app.rooms.base import (
    PICTURE_BITS_PER_PIXEL,
    SOUND_BPS,
    OnRoomState,
    OnSound,
    RoomSource,
    RoomSpec,
)
from serve_app.rooms.guests import FRAME_MS, HEARD_HZ, MAX_GUESTS, Guests
from serve_app.rooms.pacer import Pacer
from serve_app.rooms.redaction import redact
from serve_app.rooms.sdk import load_daily
from serve_app.rooms.stay import Stay

if TYPE_CHECKING:
    import daily

logger = logging.getLogger("serve_app.rooms")

JOIN_S = 25.0
"""The SDK looks the room up several times before it gives up, 19 s in all."""

LEAVE_S = 3.0

DRAIN_S = 5.0
"""Sound that was handed over is played within a second; this long it is waited for at most."""

NOTHING_RECEIVED = {
    "base": dict.fromkeys(("camera", "microphone", "screenVideo", "screenAudio"), "unsubscribed")
}
"""The avatar neither looks nor listens: what others publish is not sent here."""

SOUND_RECEIVED = {"base": {**NOTHING_RECEIVED["base"], "microphone": "subscribed"}}
"""The avatar listens to everybody."""

MAX_PIECES = 50 * MAX_GUESTS
"""Sound that waits for a busy event loop: a second; then the oldest is dropped."""


class DailyRoom:
    """Implements `rooms.base.Room` with daily-python.

    Args:
        spec: the room.
        source: what is published.
        clock: the session clock.
        config: how long to wait for others; a bot counts as one, Daily does not tell them apart.
        on_state: is told what becomes of the avatar's place.
        on_sound: takes what the guests say, bots among them; needed where they are heard.
        sdk: `daily`, or what stands in for it.

    Raises:
        RoomFailed: no SDK, or speech that is to come from an agent in the room.
    """

    def __init__(
        self,
        spec: RoomSpec,
        source: RoomSource,
        clock: Clock,
        config: RoomsConfig,
        on_state: OnRoomState,
        on_sound: OnSound | None = None,
        *,
        sdk: ModuleType | None = None,
    ) -> None:
        if spec.hears == "agent":
            raise RoomFailed(
                "expected speech from elsewhere for a Daily room, got a room with a LiveKit agent"
            )
        self._sdk = load_daily() if sdk is None else sdk
        self._spec = spec
        self._source = source
        self._clock = clock
        self._stay = Stay("Daily", clock, on_state, self._release, config, join_s=JOIN_S)
        self._ear = _Ear(on_sound) if on_sound is not None and spec.hears == "guests" else None
        self._call: _Call | None = None
        self._others: set[str] = set()
        self._error: str | None = None
        self._pacing: asyncio.Task[None] | None = None

    # --- Room --------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Enter and publish; see `rooms.base.Room`."""
        async with self._stay.entering():
            call = self._call = await self._make_call()
            pacer = Pacer(self._source, self._clock, call.sound, call.pictures)
            self._pacing = asyncio.create_task(self._stay.run(pacer.run()))
            joined = await call.join(self._spec)
        for participant in joined.values():
            self._note(participant)
        self._stay.presence.joined(len(self._others))

    async def leave(self) -> None:
        """Stop publishing and leave; safe to call more than once."""
        await self._stay.leave()

    def playback_started(self, tag: int) -> None:
        """Does nothing: nobody in a Daily room asks."""

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """Does nothing: nobody in a Daily room asks."""

    # --- events, on the loop -------------------------------------------------------------------------

    def participant_joined(self, participant: Mapping[str, Any]) -> None:
        """Somebody came."""
        self._note(participant)
        self._stay.presence.count(len(self._others))

    def participant_left(self, participant: Mapping[str, Any]) -> None:
        """Somebody went."""
        self._others.discard(str(participant.get("id")))
        self._listen()
        self._stay.presence.count(len(self._others))

    def call_state(self, state: str) -> None:
        """The call is "joining", "joined", "leaving" or "left"."""
        if state != "left":
            return
        if self._error is not None:
            self._stay.end("failed", f"the room was lost: {self._error}")
        else:
            self._stay.end("left", "the avatar was removed from the room, or the room was closed")

    def failed(self, message: str) -> None:
        """The SDK met an error that it does not overcome."""
        self._error = redact(message, self._spec)
        logger.warning("a Daily room failed: %s", self._error)

    # --- inside ------------------------------------------------------------------------------------

    async def _make_call(self) -> _Call:
        post = _Post(asyncio.get_running_loop())
        making = asyncio.create_task(
            asyncio.to_thread(_Call, self._sdk, self._spec, self._source, post, self, self._ear)
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_free_late)
            raise

    def _note(self, participant: Mapping[str, Any]) -> None:
        if participant.get("info", {}).get("isLocal"):
            return
        self._others.add(str(participant.get("id")))
        self._listen()

    def _listen(self) -> None:
        if self._ear is not None and self._call is not None:
            for participant in self._ear.choose(self._others):
                self._call.hear(participant, self._ear)

    async def _release(self) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.wait([self._pacing])
        call, self._call = self._call, None
        if call is None:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await call.leave()
        except TimeoutError:
            logger.warning("a Daily room did not confirm that the avatar left")
        call.free()


class _Post:
    """Carries calls from the SDK's threads to the event loop; those of a loop that is gone are dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __call__(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            logger.debug("a Daily event came after the end of the loop")


class _Call:
    """One call of the SDK, and the two sources it publishes. To be made in a thread: it takes a moment."""

    def __init__(
        self,
        sdk: ModuleType,
        spec: RoomSpec,
        source: RoomSource,
        post: _Post,
        listener: DailyRoom,
        ear: _Ear | None,
    ) -> None:
        self._post = post
        self._fps = source.fps
        self._picture_bps = int(source.width * source.height * source.fps * PICTURE_BITS_PER_PIXEL)
        self.pictures = _Pictures(sdk.CustomVideoSource(source.width, source.height, "I420"))
        self.sound = _Sound(sdk.CustomAudioSource(SOUND_HZ, 1))
        self._camera: daily.CustomVideoTrack = sdk.CustomVideoTrack(self.pictures.source)
        self._microphone: daily.CustomAudioTrack = sdk.CustomAudioTrack(self.sound.source)
        self._client: daily.CallClient = sdk.CallClient(event_handler=_event_handler(sdk, post, listener))
        self._client.update_subscription_profiles(NOTHING_RECEIVED if ear is None else SOUND_RECEIVED)
        self._client.set_user_name(spec.display_name)

    async def join(self, spec: RoomSpec) -> Mapping[str, Mapping[str, Any]]:
        """Enter; return the participants by id.

        Raises:
            RoomFailed: the room refuses.
        """
        joined: asyncio.Future[tuple[Mapping[str, Any] | None, str | None]] = self._post.loop.create_future()
        self._client.join(
            spec.url,
            meeting_token=spec.token or None,
            client_settings=self._settings(),
            completion=lambda data, error: self._post(_resolve, joined, (data, error)),
        )
        data, error = await joined
        if error is not None or data is None:
            raise RoomFailed(f"expected to join the Daily room, got: {redact(str(error), spec)}")
        return dict(data.get("participants", {}))

    def hear(self, participant: str, ear: _Ear) -> None:
        """Listen to a participant from now on."""

        def heard(who: str, data: daily.AudioData, _source: str) -> None:
            ear.take(who, data.audio_frames, self._post)

        self._client.set_audio_renderer(
            participant, heard, "microphone", sample_rate=HEARD_HZ, callback_interval_ms=FRAME_MS
        )

    async def leave(self) -> None:
        """Leave; does nothing when not in the room."""
        left: asyncio.Future[str | None] = self._post.loop.create_future()
        self._client.leave(completion=lambda error: self._post(_resolve, left, error))
        await left

    def free(self) -> None:
        """Give everything back, in a thread: the SDK waits for what it still does, up to 19 s in a join."""
        threading.Thread(target=self._free, name="daily-release", daemon=True).start()

    def _free(self) -> None:
        self._client.release()
        if not self.sound.drain(DRAIN_S):
            logger.warning("a Daily room's microphone did not finish; it is kept for good")
            _STUCK.append(self.sound)

    def _settings(self) -> dict[str, Any]:
        encoding = {"maxBitrate": self._picture_bps, "maxFramerate": float(self._fps)}
        return {
            "inputs": {
                "camera": {"isEnabled": True, "settings": {"customTrack": {"id": self._camera.id}}},
                "microphone": {"isEnabled": True, "settings": {"customTrack": {"id": self._microphone.id}}},
            },
            "publishing": {
                "camera": {
                    "isPublishing": True,
                    # One small layer: each more costs the host another encoder.
                    "sendSettings": {"maxQuality": "low", "encodings": {"low": encoding}},
                },
                "microphone": {
                    "isPublishing": True,
                    "sendSettings": {"channelConfig": "mono", "bitrate": SOUND_BPS},
                },
            },
        }


_STUCK: list[_Sound] = []
"""Microphones the SDK may still write to: freeing one would take the process down."""


def _free_late(made: asyncio.Task[_Call]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().free()


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _event_handler(sdk: ModuleType, post: _Post, listener: DailyRoom) -> daily.EventHandler:
    class Events(sdk.EventHandler):  # type: ignore[name-defined]
        def on_participant_joined(self, participant: Mapping[str, Any]) -> None:
            post(listener.participant_joined, participant)

        def on_participant_left(self, participant: Mapping[str, Any], reason: str) -> None:
            post(listener.participant_left, participant)

        def on_call_state_updated(self, state: str) -> None:
            post(listener.call_state, state)

        def on_error(self, message: str) -> None:
            post(listener.failed, message)

    return Events()


class _Ear:
    """Carries the guests' sound from the SDK's threads to the event loop, where it is mixed."""

    def __init__(self, on_sound: OnSound) -> None:
        self._guests = Guests(on_sound)
        self._heard: set[str] = set()
        self._pieces: deque[tuple[str, bytes]] = deque(maxlen=MAX_PIECES)
        self._is_posted = False

    def take(self, guest: str, frames: bytes, post: _Post) -> None:
        """Take 16-bit mono at HEARD_HZ, in any thread."""
        self._pieces.append((guest, frames))
        if not self._is_posted:
            self._is_posted = True
            post(self._mix)

    def choose(self, there: set[str]) -> set[str]:
        """Return who of those in the room is to be listened to from now on; forget those who left."""
        for gone in self._heard - there:
            self._guests.remove(gone)
        self._heard &= there
        chosen = set(sorted(there - self._heard)[: MAX_GUESTS - len(self._heard)])
        self._heard |= chosen
        return chosen

    def _mix(self) -> None:
        # Before the pieces are taken: one that comes meanwhile is posted for again.
        self._is_posted = False
        while self._pieces:
            guest, frames = self._pieces.popleft()
            if guest in self._heard:
                self._guests.push(guest, np.frombuffer(frames, "<i2").astype(np.int16, copy=False))


class _Sound:
    """A `SoundSink` over a microphone that plays at its own pace, with silence where nothing is given."""

    def __init__(self, source: daily.CustomAudioSource) -> None:
        self.source = source
        self._pending = 0
        self._changed = threading.Condition()

    @property
    def queued_s(self) -> float:
        """Seconds of sound that were handed over and not played yet."""
        return self._pending * PACKET_S

    async def play(self, samples: Int16) -> None:
        """Take [960] int16 mono at SOUND_HZ."""
        with self._changed:
            self._pending += 1
        # Without a completion the call would wait until the sound has been played.
        self.source.write_frames(samples.astype("<i2", copy=False).tobytes(), completion=self._played)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all was played, in a thread; the SDK's answer to a freed microphone ends the process."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    def _played(self, _frames: int) -> None:
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()


class _Pictures:
    """A `PictureSink`: the SDK copies the frame before it returns."""

    def __init__(self, source: daily.CustomVideoSource) -> None:
        self.source = source

    def show(self, picture: UInt8) -> None:
        """Take a frame, flat I420."""
        self.source.write_frame(picture.tobytes())
