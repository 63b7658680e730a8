"""A session in a room: who is heard there, what keeps the session, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from serve_app.animator.client import AnimatorClient
from serve_app.clock import Clock, MonotonicClock
from serve_app.config import AppConfig, PlayoutConfig, RoomsConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import ReplicaLost, RoomFailed
from serve_app.media.idle import EncodedLoop
from serve_app.media.windower import WindowGrid
from serve_app.nouns import PACKET_S, SOUND_HZ, BaseLoop, Credit, Int16, Sound, Window, WindowBatch
from serve_app.rooms.base import Hears, OnRoomState, OnSound, RoomSource, RoomSpec, RoomState
from serve_app.session.events import ConversationEvent, RoomChanged, SessionClosed, SessionEvent
from serve_app.session.lifetime import end_of
from serve_app.session.request import SessionRequest
from serve_app.session.residents import Residents
from serve_app.session.session import Face, Session
from serve_app.speech.speaker import Speaker
from serve_app.speech.tts import Synthesizer
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.unit

FPS = 25
HEARD_HZ = 24_000
CONFIG = AppConfig(
    playout=PlayoutConfig(start_deadline_s=0.05), rooms=RoomsConfig(absent_after_s=7.0, empty_after_s=3.0)
)


class FakeRoom:
    """A room without an SDK: it plays the session, and a test says what happens in it."""

    def __init__(
        self,
        spec: RoomSpec,
        source: RoomSource,
        speaker: Speaker | None,
        clock: Clock,
        config: RoomsConfig,
        on_state: OnRoomState,
        on_sound: OnSound | None = None,
    ) -> None:
        self.waits = (config.absent_after_s, config.empty_after_s)
        self.speaker = speaker
        self.on_sound = on_sound
        self.on_state = on_state
        self.lets_in = asyncio.Event()
        self.refusal: Exception | None = None
        self.leaves = 0
        self.reports: list[tuple[str, int]] = []
        self.heard: list[Int16] = []
        self._source = source
        self._clock = clock
        self._playing: asyncio.Task[None] | None = None

    async def join(self) -> None:
        self.on_state("joining", "on the way")
        await self.lets_in.wait()
        if self.refusal is not None:
            raise self.refusal
        self._playing = asyncio.create_task(self._play())
        self.on_state("joined", "in")

    async def leave(self) -> None:
        self.leaves += 1
        if not self.lets_in.is_set():
            self.refusal = RoomFailed("expected to join the room, got told to leave it meanwhile")
            self.lets_in.set()
        if self._playing is not None:
            self._playing.cancel()

    def playback_started(self, tag: int) -> None:
        self.reports.append(("started", tag))

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        self.reports.append(("cut" if interrupted else "ended", tag))

    def say(self, samples: Int16) -> None:
        """Let a guest be heard."""
        assert self.on_sound is not None
        for at in range(0, len(samples), HEARD_HZ // 50):
            self.on_sound(samples[at : at + HEARD_HZ // 50], HEARD_HZ)

    @property
    def loud_s(self) -> float:
        """How much sound that is not silence was played here."""
        return sum(int(np.count_nonzero(abs(samples) > 500)) for samples in self.heard) / SOUND_HZ

    async def _play(self) -> None:
        index = max(0, int((self._clock.now_s() - self._source.start_s) / PACKET_S))
        while True:
            await self._clock.sleep_until(self._source.start_s + index * PACKET_S)
            self._source.picture(int(index * PACKET_S * FPS))
            self.heard.append(self._source.sound(index))
            index += 1


class NoAnimator:
    """Takes no windows, so that the session shows its idle face."""

    async def submit(self, batch: WindowBatch) -> None:
        raise ReplicaLost("not in this test")


class Stage:
    """A host's residents with one session of one request.

    Attributes:
        room: the session's, once it has moved in.
    """

    def __init__(self, request: SessionRequest, executor: ThreadPoolExecutor) -> None:
        clock = MonotonicClock()
        loop = BaseLoop("default", 64, 64, FPS, np.zeros((2, 64 * 64 * 3 // 2), np.uint8))
        self.clock = clock
        self.config = CONFIG
        self.rooms: list[FakeRoom] = []
        self.refusal: RoomFailed | None = None
        self.session = Session(
            "sess_test",
            request=request,
            face=Face(loop, EncodedLoop(loop, lambda i420, *, keyframe: b"unit", 1.0)),
            config=CONFIG,
            clock=clock,
            executor=executor,
            recordings=None,
        )
        self.residents = Residents(
            CONFIG,
            clock,
            lambda model: cast("AnimatorClient", NoAnimator()),
            self._deliver,
            self._credits_of,
            self._new_room,
        )

    async def move_in(self) -> None:
        await self.residents.move_in(self.session, WindowGrid(FPS, 4_800, 1_280))

    @property
    def room(self) -> FakeRoom:
        (room,) = self.rooms
        return room

    def end(self) -> str | None:
        """Return why the session would end now."""
        return end_of(self.session, self.config.session, self.clock.now_s())

    async def events(self) -> list[SessionEvent]:
        """Return everything the session has told."""
        return (await self.session.log.read(0, 0.0, counts=False))[1]

    async def told(self) -> list[str]:
        """Return the types of everything the session's conversation has told."""
        return [event.event["type"] for event in await self.events() if isinstance(event, ConversationEvent)]

    async def next_event(self) -> None:
        """Wait for something more to be told."""
        log = self.session.log
        await log.read(log.next_number, 15.0, counts=False)

    def _new_room(self, *args: Any, **kwargs: Any) -> FakeRoom:
        if self.refusal is not None:
            raise self.refusal
        self.rooms.append(FakeRoom(*args, **kwargs))
        return self.rooms[-1]

    async def _credits_of(self, _session_ids: Sequence[str]) -> list[Credit]:
        return [self.session.credit()]

    async def _deliver(self, sounds: Any, windows: Any, clips: Any) -> list[Credit]:
        heard: list[Sound] = list(sounds)
        self.session.hear(heard)
        for window in cast("list[Window]", windows):
            self.session.playout.expect(window)
        return [self.session.credit()]


@asynccontextmanager
async def staged(
    hears: Hears, *, talks: bool = False, moves_in: bool = True, **request: Any
) -> AsyncIterator[Stage]:
    asked: dict[str, Any] = {"awaits": "nothing", "kept_by": ("room",), **request}
    spec = RoomSpec("livekit", "wss://lk.example", "secret-token", hears=hears)
    with ThreadPoolExecutor(1) as executor:
        conversation = ConversationSpec() if talks else None
        stage = Stage(SessionRequest(room=spec, conversation=conversation, **asked), executor)
        running = asyncio.create_task(stage.residents.run())
        if moves_in:
            await stage.move_in()
        yield stage
        await stage.session.close("client")
        stage.residents.move_out(stage.session)
        running.cancel()


async def spoken(text: str) -> Int16:
    """Return a text as a guest would say it, at HEARD_HZ."""
    pieces = [piece.samples async for piece in Synthesizer().speak(text)]
    return np.concatenate([np.zeros(HEARD_HZ // 2, np.int16), *pieces, np.zeros(HEARD_HZ, np.int16)])


# Whom the session hears.


async def test_guest_talks_with_the_avatar_and_hears_its_answer_in_the_room() -> None:
    async with staged("guests", talks=True) as stage:
        stage.room.lets_in.set()
        await until(lambda: stage.session.call is not None and stage.room.heard)
        stage.room.say(await spoken("Hello avatar, can you hear me?"))
        await until(lambda: stage.room.loud_s > 0.2)
        conversation = stage.session.call.conversation if stage.session.call else None
        assert stage.session.speaker is not None
        assert stage.session.speaker.listener is conversation, "it asks what was heard of its answers"
        while "output_audio_buffer.stopped" not in (told := await stage.told()):
            await stage.next_event()
        order = [
            "session.created",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.committed",
            "response.created",
            "output_audio_buffer.started",
            "output_audio_buffer.stopped",
        ]
        assert [type_ for type_ in told if type_ in order] == order
        assert stage.room.reports == []


async def test_conversation_begins_when_the_room_is_joined() -> None:
    async with staged("guests", talks=True) as stage:
        await until(lambda: stage.session.is_in_room and stage.rooms)
        await asyncio.sleep(0)
        stage.room.say(await spoken("Too early."))
        assert await stage.told() == []
        stage.room.lets_in.set()
        await until(lambda: stage.room.heard)
        assert await stage.told() == ["session.created"]
        changes = [event.state for event in await stage.events() if isinstance(event, RoomChanged)]
        assert changes == ["joining", "joined"]


async def test_agent_in_the_room_speaks_and_is_told_what_was_heard() -> None:
    async with staged("agent") as stage:
        room = stage.room
        room.lets_in.set()
        assert (stage.session.call, room.on_sound) == (None, None)
        speaker = stage.session.speaker
        assert speaker is not None
        assert speaker.listener is room
        assert room.speaker is speaker
        await until(lambda: room.heard)
        speaker.begin(7)
        speaker.feed(np.full(HEARD_HZ // 2, 5_000, np.int16), HEARD_HZ)
        speaker.end()
        await until(lambda: room.reports == [("started", 7), ("ended", 7)])
        assert 0.4 < room.loud_s < 0.6


async def test_where_a_client_brings_the_speech_nobody_in_the_room_is_heard() -> None:
    async with staged("nobody") as stage:
        assert (stage.room.speaker, stage.room.on_sound, stage.session.call) == (None, None, None)


async def test_room_is_left_after_the_configured_times() -> None:
    async with staged("nobody") as stage:
        assert stage.room.waits == (7.0, 3.0)


# What keeps it.


async def test_room_keeps_its_session_from_before_it_is_joined() -> None:
    async with staged("nobody") as stage:
        assert stage.end() is None
        stage.room.lets_in.set()
        await until(lambda: stage.room.heard)
        assert stage.end() is None


@pytest.mark.parametrize("state", ["empty", "left", "failed"])
async def test_session_ends_with_its_place_in_the_room(state: RoomState) -> None:
    async with staged("nobody") as stage:
        stage.room.lets_in.set()
        await until(lambda: stage.room.heard)
        stage.room.on_state(state, "so it goes")
        assert stage.end() == "room"
        assert (await stage.events())[-1] == RoomChanged(state, "so it goes")


async def test_socket_may_keep_a_session_whose_room_is_gone() -> None:
    async with staged("nobody", awaits="socket", kept_by=("lease", "room")) as stage:
        stage.session.was_attached = True
        stage.room.on_state("left", "thrown out")
        assert stage.end() is None
        stage.session.renewed_s -= CONFIG.session.resume_grace_s + 1.0
        assert stage.end() == "room"


# How it ends.


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (RoomFailed("expected to join, got refused"), "expected to join, got refused"),
        (RuntimeError("wss://lk.example?access_token=secret-token"), "the server's log says more"),
    ],
)
async def test_join_that_fails_is_told_and_ends_the_session(refusal: Exception, told: str) -> None:
    async with staged("nobody") as stage:
        stage.room.refusal = refusal
        stage.room.lets_in.set()
        await until(lambda: not stage.session.is_in_room)
        assert stage.end() == "room"
        last = (await stage.events())[-1]
        assert isinstance(last, RoomChanged)
        assert (last.state, last.detail.endswith(told)) == ("failed", True)
        assert "secret-token" not in last.detail


async def test_session_that_ends_leaves_its_room_and_its_conversation() -> None:
    async with staged("guests", talks=True) as stage:
        stage.room.lets_in.set()
        await until(lambda: stage.room.heard)
        await stage.session.close("expired")
        assert stage.room.leaves == 1
        before = len(await stage.told())
        stage.room.say(await spoken("Is anybody there?"))
        stage.room.on_state("left", "too late to be told")
        assert len(await stage.told()) == before
        assert (await stage.events())[-1] == SessionClosed("expired")


async def test_room_that_cannot_be_opened_leaves_nothing_behind() -> None:
    async with staged("guests", talks=True, moves_in=False) as stage:
        stage.refusal = RoomFailed("no SDK")
        with pytest.raises(RoomFailed, match="no SDK"):
            await stage.move_in()
        assert stage.session.call is not None
        conversation = stage.session.call.conversation
        assert conversation is not None
        conversation.start()
        assert await stage.told() == [], "it is closed, and its agent with it"
        assert not stage.session.is_in_room
