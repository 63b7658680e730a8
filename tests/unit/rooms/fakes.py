"""Stand-ins at the edge of the rooms' SDKs, built from the SDKs' own value classes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import jwt
import numpy as np
from livekit import rtc

from serve_app.clock import Clock
from serve_app.nouns import Int16, UInt8
from serve_app.rooms.base import RoomState
from serve_app.speech.speaker import Listener

SECRET = "secret-of-the-room's-own-server!"
AGENT = "agent-1"
AVATAR = "bey-avatar-agent"


def livekit_token(agent: str | None = AGENT, **video: Any) -> str:
    """Return an avatar worker's token as an agent's plugin makes it."""
    claims: dict[str, Any] = {
        "sub": AVATAR,
        "kind": "agent",
        "iss": "key",
        "exp": 4_000_000_000,
        "video": {"roomJoin": True, "room": "demo", **video},
    }
    if agent is not None:
        claims["attributes"] = {"lk.publish_on_behalf": agent}
    return jwt.encode(claims, SECRET, "HS256")


class Source:
    """A RoomSource with a tone, and pictures that carry their index."""

    def __init__(self, start_s: float, width: int = 64, height: int = 64, fps: int = 25) -> None:
        self.start_s = start_s
        self.width = width
        self.height = height
        self.fps = fps
        self.is_broken = False

    def sound(self, index: int) -> Int16:
        return np.full(960, index % 1000 + 1, np.int16)

    def picture(self, index: int) -> UInt8:
        size = self.width * self.height * 3 // 2
        picture = np.full(size - 1 if self.is_broken else size, index % 256, np.uint8)
        picture.flags.writeable = False
        return picture


class States:
    """Collects what a room tells."""

    def __init__(self) -> None:
        self.told: list[tuple[RoomState, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, state: RoomState, sentence: str) -> None:
        self.told.append((state, sentence))
        self._changed.set()

    @property
    def names(self) -> list[RoomState]:
        return [state for state, _ in self.told]

    async def until(self, state: RoomState) -> str:
        """Return the sentence of a state once it was told."""
        while state not in self.names:
            self._changed.clear()
            await self._changed.wait()
        return dict(self.told)[state]


class FakeSpeaker:
    """A Speaker that plays in real time on a clock and keeps its promises."""

    is_watched = True

    def __init__(self, clock: Clock, max_buffered_s: float = 600.0) -> None:
        self.listener: Listener | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.speech: dict[int, list[Int16]] = {}
        self.rates: dict[int, set[int]] = {}
        self.overruns: list[Exception] = []
        self._clock = clock
        self._max_buffered_s = max_buffered_s
        self._queue: list[int] = []
        self._ended: set[int] = set()
        self._started_s: float | None = None
        self._playing: asyncio.Task[None] | None = None
        self._open: int | None = None

    def seconds(self, tag: int) -> float:
        return sum(len(s) for s in self.speech[tag]) / max(self.rates[tag], default=1)

    def begin(self, tag: int) -> None:
        self.end()
        self.calls.append(("begin", tag))
        self.speech[tag], self.rates[tag] = [], set()
        self._queue.append(tag)
        self._open = tag

    def feed(self, samples: Int16, hz: int) -> None:
        if self.overruns:
            raise self.overruns.pop(0)
        assert self._open is not None, "feed without begin"
        self.calls.append(("feed", self._open))
        self.speech[self._open].append(samples)
        self.rates[self._open].add(hz)
        if self._playing is None:
            self._playing = asyncio.create_task(self._play())

    async def room(self, seconds: float) -> None:
        while self._buffered_s() + seconds > self._max_buffered_s:
            await self._clock.sleep_until(self._clock.now_s() + 0.05)

    def end(self) -> None:
        if self._open is not None:
            self.calls.append(("end", self._open))
            self._ended.add(self._open)
            self._open = None

    def interrupt(self) -> None:
        self.calls.append(("interrupt",))
        self._open = None
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
        assert self.listener is not None
        queue, self._queue = self._queue, []
        for tag in queue:
            self.listener.playback_ended(tag, self._played_s(tag) if tag == queue[0] else 0.0, True)
        self._started_s = None

    def _played_s(self, tag: int) -> float:
        if self._started_s is None:
            return 0.0
        return min(self._clock.now_s() - self._started_s, self.seconds(tag))

    def _buffered_s(self) -> float:
        return sum(
            self.seconds(tag) - (self._played_s(tag) if not i else 0.0) for i, tag in enumerate(self._queue)
        )

    async def _play(self) -> None:
        assert self.listener is not None
        while self._queue:
            tag = self._queue[0]
            if not self.speech[tag]:
                await self._clock.sleep_until(self._clock.now_s() + 0.01)
                continue
            self._started_s = self._clock.now_s()
            self.listener.playback_started(tag)
            while tag not in self._ended or self._played_s(tag) < self.seconds(tag) - 1e-9:
                await self._clock.sleep_until(self._clock.now_s() + 0.01)
            self._queue.pop(0)
            seconds, self._started_s = self.seconds(tag), None
            self.listener.playback_ended(tag, seconds, False)
        self._playing = None


class FakeReader:
    """A byte stream as `rtc.ByteStreamReader` gives it, with that class's own description of it."""

    def __init__(self, attributes: dict[str, str] | None) -> None:
        self.info = rtc.ByteStreamInfo(
            stream_id="stream",
            mime_type="application/octet-stream",
            topic="lk.audio_stream",
            timestamp=0,
            size=0,
            attributes=attributes,
            name="AUDIO_1",
        )
        self.is_closed = False
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def write(self, data: bytes | Exception | None) -> None:
        """Let the next chunk come; None ends the stream."""
        self._chunks.put_nowait(data)

    def __aiter__(self) -> FakeReader:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.get()
        if chunk is None:
            raise StopAsyncIteration
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        self.is_closed = True


class FakeParticipant:
    """A remote participant."""

    def __init__(self, identity: str, kind: int, attributes: dict[str, str] | None = None) -> None:
        self.identity = identity
        self.kind = kind
        self.attributes = attributes or {}
        self.track_publications: dict[str, FakeMicrophone] = {}


class FakeMicrophone:
    """What a remote participant publishes: a publication, and behind it a track that can really be read.

    Args:
        room: where it is published.
        owner: who publishes it.
        sid: its name there.
        source: what it says it comes from.
    """

    def __init__(self, room: FakeRoom, owner: FakeParticipant, sid: str, source: int) -> None:
        self.sid = sid
        self.kind = rtc.TrackKind.KIND_AUDIO
        self.source = source
        self.subscribed: list[bool] = []
        self._room = room
        self._owner = owner
        self._sound = rtc.AudioSource(48_000, 1, queue_size_ms=0)
        self.track = rtc.LocalAudioTrack.create_audio_track("microphone", self._sound)

    def set_subscribed(self, subscribed: bool) -> None:
        self.subscribed.append(subscribed)
        if subscribed:
            self._room.emit("track_subscribed", self.track, self, self._owner)

    async def say(self, level: int, seconds: float) -> None:
        """Send a constant level, in real time."""
        frame = rtc.AudioFrame(np.full(480, level, "<i2").tobytes(), 48_000, 1, 480)
        for _ in range(round(seconds * 100)):
            await self._sound.capture_frame(frame)
            await asyncio.sleep(0.01)

    def unpublish(self) -> None:
        del self._owner.track_publications[self.sid]
        self._room.emit("track_unsubscribed", self.track, self, self._owner)
        self._room.emit("track_unpublished", self, self._owner)

    async def free(self) -> None:
        await self._sound.aclose()


class FakePublication:
    """A published track that somebody subscribes to when told."""

    def __init__(self) -> None:
        self.subscribed = asyncio.Event()

    async def wait_for_subscription(self) -> None:
        await self.subscribed.wait()


class FakeLocalParticipant:
    """Records what the avatar publishes and whom it calls."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[rtc.RpcInvocationData], str]] = {}
        self.published: list[tuple[Any, rtc.TrackPublishOptions]] = []
        self.publications: list[FakePublication] = []
        self.calls: list[tuple[str, str, str]] = []
        self.errors: list[int | None] = []
        self.names: list[str] = []
        self.publish_error: Exception | None = None
        self.data: list[tuple[str, str]] = []
        self.data_error: Exception | None = None
        self.answer: Callable[[], Awaitable[None]] | None = None

    def register_rpc_method(
        self, method_name: str, handler: Callable[[rtc.RpcInvocationData], str] | None = None
    ) -> None:
        assert handler is not None
        self.handlers[method_name] = handler

    async def perform_rpc(self, *, destination_identity: str, method: str, payload: str) -> str:
        self.calls.append((destination_identity, method, payload))
        code = self.errors.pop(0) if self.errors else None
        if self.answer is not None:
            await self.answer()
        if code is not None:
            raise rtc.RpcError(code, "refused")
        return "ok"

    async def publish_track(self, track: Any, options: rtc.TrackPublishOptions) -> FakePublication:
        if self.publish_error is not None:
            raise self.publish_error
        self.published.append((track, options))
        self.publications.append(FakePublication())
        return self.publications[-1]

    async def set_name(self, name: str) -> None:
        self.names.append(name)

    async def publish_data(self, payload: str, *, topic: str) -> None:
        if self.data_error is not None:
            raise self.data_error
        self.data.append((topic, payload))

    def called(self, method: str) -> list[str]:
        """Return the payloads of the calls of a method."""
        return [payload for _, m, payload in self.calls if m == method]


class FakeRoom(rtc.EventEmitter[str]):  # type: ignore[misc, unused-ignore]
    """`rtc.Room` without a server."""

    def __init__(self) -> None:
        super().__init__()
        self.local_participant = FakeLocalParticipant()
        self.remote_participants: dict[str, FakeParticipant] = {}
        self.byte_handlers: dict[str, Callable[[FakeReader, str], None]] = {}
        self.connected_with: tuple[str, str, rtc.RoomOptions] | None = None
        self.connect_error: Exception | None = None
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.is_connected = False
        self.disconnects = 0

    async def connect(self, url: str, token: str, options: rtc.RoomOptions) -> None:
        await self.may_connect.wait()
        if self.connect_error is not None:
            raise self.connect_error
        self.connected_with = (url, token, options)
        self.is_connected = True

    def isconnected(self) -> bool:
        return self.is_connected

    async def disconnect(self) -> None:
        if self.is_connected:
            self.is_connected = False
            self.disconnects += 1
            self.emit("disconnected", rtc.DisconnectReason.CLIENT_INITIATED)

    def register_byte_stream_handler(self, topic: str, handler: Callable[[FakeReader, str], None]) -> None:
        self.byte_handlers[topic] = handler

    def unregister_byte_stream_handler(self, topic: str) -> None:
        self.byte_handlers.pop(topic, None)

    def enter(
        self, identity: str, kind: str = "STANDARD", attributes: dict[str, str] | None = None
    ) -> FakeParticipant:
        """Let somebody come."""
        number = getattr(rtc.ParticipantKind, f"PARTICIPANT_KIND_{kind}")
        participant = FakeParticipant(identity, number, attributes)
        self.remote_participants[identity] = participant
        self.emit("participant_connected", participant)
        return participant

    def exit(self, identity: str) -> None:
        """Let somebody go."""
        self.emit("participant_disconnected", self.remote_participants.pop(identity))

    def microphone(
        self, owner: FakeParticipant, sid: str = "TR_1", source: int = rtc.TrackSource.SOURCE_MICROPHONE
    ) -> FakeMicrophone:
        """Let a participant publish a microphone."""
        microphone = FakeMicrophone(self, owner, sid, source)
        owner.track_publications[sid] = microphone
        self.emit("track_published", microphone, owner)
        return microphone

    def stream(self, sender: str = AGENT, hz: int = 24_000, channels: int = 1) -> FakeReader:
        """Let a participant open a speech stream."""
        return self.stream_with({"sample_rate": str(hz), "num_channels": str(channels)}, sender)

    def stream_with(self, attributes: dict[str, str] | None, sender: str = AGENT) -> FakeReader:
        reader = FakeReader(attributes)
        self.byte_handlers["lk.audio_stream"](reader, sender)
        return reader

    def clear(self, caller: str = AGENT) -> str:
        """Let a participant call lk.clear_buffer."""
        data = rtc.RpcInvocationData("request", caller, "", 10.0, method="lk.clear_buffer")
        return self.local_participant.handlers["lk.clear_buffer"](data)


def livekit_sdk(room: FakeRoom, **others: Any) -> ModuleType:
    """Return `livekit.rtc` with a room that needs no server."""
    sdk = ModuleType("rtc")
    for name in (*rtc.__all__, "participant"):
        setattr(sdk, name, getattr(rtc, name))
    sdk.Room = lambda: room  # type: ignore[attr-defined]
    for name, value in others.items():
        setattr(sdk, name, value)
    return sdk
