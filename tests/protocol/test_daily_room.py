"""DailyRoom against a call without a server; sources, tracks and event handlers are the SDK's own."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("daily")

import daily

from serve_app.clock import MonotonicClock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.nouns import Int16
from serve_app.rooms.base import Hears, RoomSpec
from serve_app.rooms.daily import MAX_PIECES, NOTHING_RECEIVED, SOUND_RECEIVED, DailyRoom
from serve_app.rooms.guests import MAX_GUESTS
from serve_app.rooms.sdk import load_daily
from tests.unit.rooms.fakes import Source, States
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.protocol

URL = "https://domain.daily.co/room"
TOKEN = "meeting-token-1234"
CLOCK = MonotonicClock()
LOCAL = {"id": "me", "info": {"isLocal": True, "userName": "Ada"}}


def participant(name: str) -> dict[str, Any]:
    return {"id": name, "info": {"isLocal": False, "userName": name}}


Answer = tuple[Mapping[str, Any] | None, str | None]
"""What the completion of a join is called with: data, error."""

JOINED: Answer = ({"participants": {"local": LOCAL}, "meetingSession": {"id": "session"}}, None)


class FakeCallClient:
    """`daily.CallClient` without a server: it answers from a thread of its own, as the SDK does."""

    def __init__(self, event_handler: daily.EventHandler, answer: Answer | None) -> None:
        assert isinstance(event_handler, daily.EventHandler)
        self.handler: Any = event_handler
        self.made_in = threading.current_thread()
        self.joined_with: dict[str, Any] | None = None
        self.answer = answer
        self.name = ""
        self.profiles: Mapping[str, Any] | None = None
        self.leaves = 0
        self.rendered: list[tuple[str, str, int, int]] = []
        self.renderers: dict[str, Callable[[str, Any, str], None]] = {}
        self.released = threading.Event()
        self.released_in: threading.Thread | None = None

    def set_user_name(self, user_name: str) -> None:
        self.name = user_name

    def update_subscription_profiles(self, profile_settings: Mapping[str, Any]) -> None:
        self.profiles = profile_settings

    def join(
        self,
        meeting_url: str,
        meeting_token: str | None = None,
        client_settings: Mapping[str, Any] | None = None,
        completion: Callable[[Mapping[str, Any] | None, str | None], None] | None = None,
    ) -> None:
        self.joined_with = {"url": meeting_url, "token": meeting_token, "settings": client_settings}
        if self.answer is not None and completion is not None:
            self.call(completion, *self.answer)

    def leave(self, completion: Callable[[str | None], None] | None = None) -> None:
        self.leaves += 1
        self.call(self.handler.on_call_state_updated, "left")
        if completion is not None:
            self.call(completion, None)

    def set_audio_renderer(
        self,
        participant_id: str,
        callback: Callable[[str, Any, str], None],
        audio_source: str = "microphone",
        sample_rate: int = 16000,
        callback_interval_ms: int = 20,
    ) -> None:
        self.rendered.append((participant_id, audio_source, sample_rate, callback_interval_ms))
        self.renderers[participant_id] = callback

    def say(self, participant_id: str, level: int, count: int = 480) -> None:
        """Let a participant be heard, in a thread of the SDK's."""
        data = SimpleNamespace(audio_frames=np.full(count, level, "<i2").tobytes())
        self.call(self.renderers[participant_id], participant_id, data, "microphone")

    def release(self) -> None:
        self.released_in = threading.current_thread()
        self.released.set()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call back from another thread."""
        thread = threading.Thread(target=function, args=args)
        thread.start()
        thread.join()


class Microphone:
    """A CustomAudioSource that records; its completions come when a test says so, or at once."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.source = daily.CustomAudioSource(sample_rate, channels)
        self.written: list[bytes] = []
        self.held: list[Callable[[int], None]] = []
        self.holds = False

    def write_frames(self, frames: bytes, completion: Callable[[int], None] | None = None) -> int:
        assert completion is not None, "without one the event loop would be blocked"
        self.written.append(frames)
        if self.holds:
            self.held.append(completion)
            return len(frames) // 2
        return self.source.write_frames(frames, completion=completion)


class Camera:
    """A CustomVideoSource that records."""

    def __init__(self, width: int, height: int, color_format: str) -> None:
        self.source = daily.CustomVideoSource(width, height, color_format)
        self.color_format = color_format
        self.written: list[bytes] = []

    def write_frame(self, frame: bytes) -> None:
        self.source.write_frame(frame)
        self.written.append(frame)


class Stage:
    def __init__(self, answer: Answer | None = JOINED, *, hears: Hears = "nobody", **options: Any) -> None:
        self.answer = answer
        self.clients: list[FakeCallClient] = []
        self.microphones: list[Microphone] = []
        self.cameras: list[Camera] = []
        self.states = States()
        self.heard: list[tuple[Int16, int]] = []
        self.source = Source(CLOCK.now_s())
        load_daily()
        sdk = ModuleType("daily")
        sdk.EventHandler = daily.EventHandler  # type: ignore[attr-defined]
        sdk.CallClient = self._client  # type: ignore[attr-defined]
        sdk.CustomAudioSource = self._microphone  # type: ignore[attr-defined]
        sdk.CustomVideoSource = self._camera  # type: ignore[attr-defined]
        sdk.CustomAudioTrack = lambda m: daily.CustomAudioTrack(m.source)  # type: ignore[attr-defined]
        sdk.CustomVideoTrack = lambda c: daily.CustomVideoTrack(c.source)  # type: ignore[attr-defined]
        spec = RoomSpec("daily", URL, TOKEN, "Ada", hears)
        config = RoomsConfig(**options)
        self.avatar = DailyRoom(spec, self.source, CLOCK, config, self.states, self.hear, sdk=sdk)

    def hear(self, samples: Int16, hz: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.heard.append((samples, hz))

    def _microphone(self, sample_rate: int, channels: int) -> Microphone:
        self.microphones.append(Microphone(sample_rate, channels))
        return self.microphones[-1]

    def _camera(self, width: int, height: int, color_format: str) -> Camera:
        self.cameras.append(Camera(width, height, color_format))
        return self.cameras[-1]

    def _client(self, event_handler: daily.EventHandler) -> FakeCallClient:
        self.clients.append(FakeCallClient(event_handler, self.answer))
        return self.clients[-1]

    @property
    def client(self) -> FakeCallClient:
        return self.clients[0]

    async def freed(self) -> None:
        assert await asyncio.to_thread(self.client.released.wait, 5.0)


async def test_avatar_publishes_sound_and_picture_at_once() -> None:
    stage = Stage()
    await stage.avatar.join()
    assert stage.states.names == ["joining", "joined"]
    joined = stage.client.joined_with
    assert joined is not None
    assert (joined["url"], joined["token"]) == (URL, TOKEN)
    inputs, publishing = joined["settings"]["inputs"], joined["settings"]["publishing"]
    assert inputs["camera"]["isEnabled"]
    assert inputs["microphone"]["isEnabled"]
    assert inputs["camera"]["settings"]["customTrack"]["id"]
    assert inputs["camera"]["settings"] != inputs["microphone"]["settings"]
    assert publishing["camera"]["sendSettings"]["encodings"]["low"]["maxFramerate"] == 25.0
    assert publishing["microphone"]["sendSettings"]["channelConfig"] == "mono"
    assert stage.client.name == "Ada"
    assert stage.client.profiles == NOTHING_RECEIVED
    await until(lambda: len(stage.cameras[0].written) > 3 and len(stage.microphones[0].written) > 4)
    await stage.avatar.leave()
    await stage.freed()

    assert stage.cameras[0].color_format == "I420"
    assert {len(frame) for frame in stage.cameras[0].written} == {64 * 64 * 3 // 2}
    packets = stage.microphones[0].written
    assert {len(packet) for packet in packets} == {960 * 2}
    levels = [int(np.frombuffer(packet, "<i2")[0]) for packet in packets]
    assert levels == list(range(levels[0], levels[0] + len(levels)))


async def test_nothing_that_waits_in_the_sdk_runs_on_the_event_loop() -> None:
    stage = Stage()
    await stage.avatar.join()
    await stage.avatar.leave()
    await stage.freed()
    assert stage.client.made_in is not threading.main_thread()
    assert stage.client.released_in is not threading.main_thread()


async def test_left_room_is_left_once() -> None:
    stage = Stage()
    await stage.avatar.join()
    await asyncio.gather(stage.avatar.leave(), stage.avatar.leave())
    await stage.avatar.leave()
    await stage.freed()
    assert stage.client.leaves == 1
    assert stage.states.names == ["joining", "joined", "left"]
    written = len(stage.cameras[0].written)
    await asyncio.sleep(0.1)
    assert len(stage.cameras[0].written) == written


async def test_microphone_outlives_what_it_still_has_to_play() -> None:
    stage = Stage()
    await stage.avatar.join()
    microphone = stage.microphones[0]
    microphone.holds = True
    await until(lambda: microphone.held)
    await stage.avatar.leave()
    await stage.freed()
    names = {thread.name for thread in threading.enumerate()}
    assert "daily-release" in names
    for completion in microphone.held:
        stage.client.call(completion, 960)
    await until(lambda: "daily-release" not in {thread.name for thread in threading.enumerate()})


async def test_others_come_and_go_and_the_last_one_ends_it() -> None:
    stage = Stage(empty_after_s=0.1, absent_after_s=60.0)
    await stage.avatar.join()
    handler = stage.client.handler
    for name in ("user-1", "user-2"):
        stage.client.call(handler.on_participant_joined, participant(name))
    stage.client.call(handler.on_participant_left, participant("user-1"), "leftCall")
    await asyncio.sleep(0.15)
    assert stage.states.names == ["joining", "joined"]
    stage.client.call(handler.on_participant_left, participant("user-2"), "leftCall")
    async with asyncio.timeout(5.0):
        await stage.states.until("empty")
    await stage.freed()
    await stage.avatar.leave()
    assert stage.states.names == ["joining", "joined", "empty"]


async def test_those_who_were_there_before_count() -> None:
    there: Answer = ({"participants": {"local": LOCAL, "user-1": participant("user-1")}}, None)
    stage = Stage(there, absent_after_s=0.05, empty_after_s=0.05)
    await stage.avatar.join()
    await asyncio.sleep(0.15)
    assert stage.states.names == ["joining", "joined"]
    await stage.avatar.leave()
    await stage.freed()


async def test_guests_are_heard_mixed_and_on_the_event_loop() -> None:
    there: Answer = ({"participants": {"local": LOCAL, "user-1": participant("user-1")}}, None)
    stage = Stage(there, hears="guests")
    await stage.avatar.join()
    assert stage.client.profiles == SOUND_RECEIVED
    stage.client.call(stage.client.handler.on_participant_joined, participant("user-2"))
    stage.client.call(stage.client.handler.on_participant_joined, participant("user-2"))
    await until(lambda: len(stage.client.rendered) == 2)
    assert stage.client.rendered == [(f"user-{n}", "microphone", 24_000, 20) for n in (1, 2)]
    for _ in range(3):
        stage.client.say("user-1", 100)
        stage.client.say("user-2", 7)
    await until(lambda: len(stage.heard) == 3)
    assert [(int(samples[0]), len(samples), hz) for samples, hz in stage.heard] == [
        (100, 480, 24_000),
        (107, 480, 24_000),
        (107, 480, 24_000),
    ]
    stage.client.call(stage.client.handler.on_participant_left, participant("user-1"), "leftCall")
    stage.client.say("user-1", 9)
    stage.client.say("user-2", 8)
    await until(lambda: len(stage.heard) == 4)
    assert 9 not in stage.heard[-1][0], "who has left is not heard any more"
    await stage.avatar.leave()
    await stage.freed()


async def test_guests_are_not_asked_for_where_nobody_is_to_be_heard() -> None:
    there: Answer = ({"participants": {"local": LOCAL, "user-1": participant("user-1")}}, None)
    stage = Stage(there)
    await stage.avatar.join()
    assert stage.client.rendered == []
    await stage.avatar.leave()
    await stage.freed()


async def test_only_so_many_guests_are_heard_and_the_next_when_one_leaves() -> None:
    stage = Stage(hears="guests")
    await stage.avatar.join()
    handler = stage.client.handler
    for number in range(MAX_GUESTS + 1):
        stage.client.call(handler.on_participant_joined, participant(f"user-{number}"))
    await until(lambda: len(stage.client.rendered) == MAX_GUESTS)
    stage.client.call(handler.on_participant_left, participant("user-3"), "leftCall")
    await until(lambda: len(stage.client.rendered) == MAX_GUESTS + 1)
    assert stage.client.rendered[-1][0] == f"user-{MAX_GUESTS}"
    await stage.avatar.leave()
    await stage.freed()


async def test_sound_that_a_busy_loop_cannot_take_does_not_pile_up() -> None:
    there: Answer = ({"participants": {"local": LOCAL, "user-1": participant("user-1")}}, None)
    stage = Stage(there, hears="guests")
    await stage.avatar.join()
    for number in range(MAX_PIECES + 30):
        stage.client.say("user-1", number % 1_000, 8)
    await until(lambda: stage.heard)
    assert len(stage.heard) == MAX_PIECES
    assert int(stage.heard[-1][0][0]) == (MAX_PIECES + 29) % 1_000
    await stage.avatar.leave()
    await stage.freed()


async def test_avatar_that_is_removed_tells_so() -> None:
    stage = Stage()
    await stage.avatar.join()
    stage.client.call(stage.client.handler.on_call_state_updated, "left")
    async with asyncio.timeout(5.0):
        assert "removed" in await stage.states.until("left")
    await stage.freed()
    assert stage.states.names == ["joining", "joined", "left"]


async def test_call_that_breaks_tells_why_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stage = Stage()
    await stage.avatar.join()
    stage.client.call(stage.client.handler.on_error, f"lost {URL}?t={TOKEN}: signalling timeout")
    stage.client.call(stage.client.handler.on_call_state_updated, "left")
    async with asyncio.timeout(5.0):
        sentence = await stage.states.until("failed")
    await stage.freed()
    assert "signalling timeout" in sentence
    assert TOKEN not in sentence + caplog.text
    assert "domain.daily.co" not in sentence + caplog.text


async def test_refused_join_fails_and_frees_the_call() -> None:
    stage = Stage((None, f"Connection(Forbidden {URL} {TOKEN})"))
    with pytest.raises(RoomFailed, match="expected to join the Daily room, got: Connection") as refusal:
        await stage.avatar.join()
    assert TOKEN not in str(refusal.value)
    await stage.freed()
    assert stage.states.names == ["joining"]


async def test_avatar_told_to_leave_while_it_joins_never_stays_in_the_room() -> None:
    stage = Stage(None)
    joining = asyncio.create_task(stage.avatar.join())
    await until(lambda: stage.clients)
    await until(lambda: stage.client.joined_with)
    await stage.avatar.leave()
    with pytest.raises(RoomFailed, match="told to leave"):
        await joining
    await stage.freed()
    assert stage.client.leaves == 1
    assert stage.states.names == ["joining", "left"]


async def test_cancelled_join_frees_the_call() -> None:
    stage = Stage(None)
    joining = asyncio.create_task(stage.avatar.join())
    await until(lambda: stage.clients)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    await stage.freed()


async def test_sdk_that_fails_ends_the_room_alone() -> None:
    stage = Stage()
    await stage.avatar.join()
    stage.source.is_broken = True
    async with asyncio.timeout(5.0):
        await stage.states.until("failed")
    await stage.freed()
    assert stage.states.names == ["joining", "joined", "failed"]


# --- the installed SDK --------------------------------------------------------------------------------


def test_installed_sdk_has_every_call_as_it_is_made_here() -> None:
    me = object()

    def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        inspect.signature(function).bind(*args, **kwargs)

    accepts(daily.Daily.init)
    accepts(daily.CallClient, event_handler=None)
    accepts(daily.CallClient.join, me, URL, meeting_token=None, client_settings={}, completion=print)
    accepts(daily.CallClient.leave, me, completion=print)
    accepts(daily.CallClient.release, me)
    accepts(daily.CallClient.set_user_name, me, "name")
    accepts(daily.CallClient.update_subscription_profiles, me, {})
    accepts(
        daily.CallClient.set_audio_renderer,
        me,
        "participant",
        print,
        "microphone",
        sample_rate=24_000,
        callback_interval_ms=20,
    )
    assert hasattr(daily.AudioData, "audio_frames")
    accepts(daily.CustomVideoSource, 64, 64, "I420")
    accepts(daily.CustomVideoSource.write_frame, me, b"")
    accepts(daily.CustomAudioSource, 48_000, 1)
    accepts(daily.CustomAudioSource.write_frames, me, b"", completion=print)
    accepts(daily.CustomVideoTrack, None)
    accepts(daily.CustomAudioTrack, None)
    for event in ("on_participant_joined", "on_participant_left", "on_call_state_updated", "on_error"):
        assert hasattr(daily.EventHandler, event), event


async def test_installed_sdk_takes_the_settings_the_avatar_joins_with() -> None:
    stage = Stage()
    await stage.avatar.join()
    joined = stage.client.joined_with
    assert joined is not None
    client = daily.CallClient()
    answers: list[str | None] = []
    done = threading.Event()

    def answered(error: str | None) -> None:
        answers.append(error)
        if len(answers) == 4:
            done.set()

    client.update_subscription_profiles(NOTHING_RECEIVED, completion=answered)
    client.update_subscription_profiles(SOUND_RECEIVED, completion=answered)
    client.update_inputs(joined["settings"]["inputs"], completion=answered)
    client.update_publishing(joined["settings"]["publishing"], completion=answered)
    assert await asyncio.to_thread(done.wait, 10.0)
    assert answers == [None] * 4
    await asyncio.to_thread(client.release)
    await stage.avatar.leave()
    await stage.freed()


async def test_installed_microphone_answers_from_its_own_thread_at_the_pace_of_its_sound() -> None:
    load_daily()
    microphone = daily.CustomAudioSource(48_000, 1)
    began_s = CLOCK.now_s()
    played: list[float] = []
    done = threading.Event()

    def answered(frames: int) -> None:
        assert frames == 960
        played.append(CLOCK.now_s() - began_s)
        if len(played) == 5:
            done.set()

    for _ in range(5):
        microphone.write_frames(bytes(1_920), completion=answered)
    assert CLOCK.now_s() - began_s < 0.02
    assert await asyncio.to_thread(done.wait, 5.0)
    assert played[-1] >= 0.07
