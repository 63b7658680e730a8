"""LiveKitRoom against a room without a server; frames, sources, tracks and options are the SDK's own."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("livekit.rtc")

from livekit import rtc

from serve_app.clock import MonotonicClock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.nouns import Int16
from serve_app.rooms.base import Hears, RoomSpec
from serve_app.rooms.livekit import LiveKitRoom
from tests.unit.rooms.fakes import (
    AGENT,
    FakeRoom,
    FakeSpeaker,
    Source,
    States,
    livekit_sdk,
    livekit_token,
)
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.protocol

URL = "wss://livekit.example.com"
CLOCK = MonotonicClock()


class SoundRecorder(rtc.AudioSource):  # type: ignore[misc, unused-ignore]
    frames: list[rtc.AudioFrame]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frames = []
        self.queue_size_ms = kwargs["queue_size_ms"]

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.frames.append(frame)


class PictureRecorder(rtc.VideoSource):  # type: ignore[misc, unused-ignore]
    frames: list[rtc.VideoFrame]

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.frames = []

    def capture_frame(self, frame: rtc.VideoFrame) -> None:
        super().capture_frame(frame)
        self.frames.append(frame)


class Stage:
    def __init__(self, *, hears: Hears = "nobody", token: str | None = None, **options: Any) -> None:
        self.room = FakeRoom()
        self.sounds: list[SoundRecorder] = []
        self.pictures: list[PictureRecorder] = []
        self.states = States()
        self.heard: list[tuple[Int16, int]] = []
        self.speaker = FakeSpeaker(CLOCK)
        self.source = Source(CLOCK.now_s())
        self.sdk: ModuleType = livekit_sdk(self.room, AudioSource=self._sound, VideoSource=self._picture)
        self.token = livekit_token() if token is None else token
        self.avatar = LiveKitRoom(
            RoomSpec("livekit", URL, self.token, "Ada", hears),
            self.source,
            self.speaker,
            CLOCK,
            RoomsConfig(**options),
            self.states,
            self.hear,
            sdk=self.sdk,
        )
        self.speaker.listener = self.avatar

    def hear(self, samples: Int16, hz: int) -> None:
        self.heard.append((samples, hz))

    def _sound(self, *args: Any, **kwargs: Any) -> SoundRecorder:
        self.sounds.append(SoundRecorder(*args, **kwargs))
        return self.sounds[-1]

    def _picture(self, width: int, height: int) -> PictureRecorder:
        self.pictures.append(PictureRecorder(width, height))
        return self.pictures[-1]


async def test_avatar_publishes_sound_and_picture_at_once() -> None:
    stage = Stage()
    await stage.avatar.join()
    assert stage.states.names == ["joining", "joined"]
    assert stage.room.connected_with is not None
    url, token, options = stage.room.connected_with
    assert (url, token, options.auto_subscribe) == (URL, stage.token, False)
    (sound, sound_options), (picture, picture_options) = stage.room.local_participant.published
    assert (sound.name, picture.name) == ("avatar_audio", "avatar_video")
    assert isinstance(sound, rtc.LocalAudioTrack)
    assert isinstance(picture, rtc.LocalVideoTrack)
    assert sound_options.source == rtc.TrackSource.SOURCE_MICROPHONE
    assert picture_options.source == rtc.TrackSource.SOURCE_CAMERA
    assert picture_options.video_encoding.max_framerate == 25.0
    await until(lambda: len(stage.pictures[0].frames) > 3 and len(stage.sounds[0].frames) > 8)
    await stage.avatar.leave()

    frames = stage.sounds[0].frames
    assert {(f.sample_rate, f.num_channels, f.samples_per_channel) for f in frames} == {(48_000, 1, 480)}
    levels = [int(np.frombuffer(frame.data, np.int16)[0]) for frame in frames[:8]]
    assert levels == [levels[0] + at // 2 for at in range(8)], "every packet as two frames, none left out"
    shown = stage.pictures[0].frames
    assert {(f.width, f.height, f.type) for f in shown} == {(64, 64, rtc.VideoBufferType.I420)}
    assert shown[0].data.nbytes == 64 * 64 * 3 // 2


async def test_sound_does_not_wait_in_the_sdk() -> None:
    stage = Stage()
    await stage.avatar.join()
    assert stage.sounds[0].queue_size_ms == 0
    await until(lambda: len(stage.sounds[0].frames) > 40)
    await stage.avatar.leave()
    assert len(stage.sounds[0].frames) <= (CLOCK.now_s() - stage.source.start_s) / 0.01 + 2


async def test_left_room_is_left_once_and_gives_everything_back() -> None:
    stage = Stage()
    await stage.avatar.join()
    await asyncio.gather(stage.avatar.leave(), stage.avatar.leave())
    await stage.avatar.leave()
    assert stage.states.names == ["joining", "joined", "left"]
    assert stage.room.disconnects == 1
    assert stage.sounds[0]._ffi_handle.disposed
    assert stage.pictures[0]._ffi_handle.disposed
    sent = len(stage.sounds[0].frames)
    await asyncio.sleep(0.06)
    assert len(stage.sounds[0].frames) == sent


async def test_agent_speaks_through_the_avatar() -> None:
    stage = Stage(hears="agent")
    stage.room.enter(AGENT, "AGENT")
    await stage.avatar.join()
    stage.room.local_participant.publications[0].subscribed.set()
    reader = stage.room.stream(hz=16_000)
    reader.write(np.ones(3_200, "<i2").tobytes())
    reader.write(None)
    await until(lambda: stage.room.local_participant.called("lk.playback_finished"))
    report = json.loads(stage.room.local_participant.called("lk.playback_finished")[0])
    assert report == {"playback_position": 0.2, "interrupted": False, "synchronized_transcript": None}
    assert stage.room.clear() == "ok"
    assert stage.room.clear("somebody") == "reject"
    await stage.avatar.leave()
    assert stage.room.byte_handlers == {}


async def test_avatar_that_leaves_tells_its_agent_what_will_not_be_heard() -> None:
    stage = Stage(hears="agent")
    stage.room.enter(AGENT, "AGENT")
    await stage.avatar.join()
    stage.room.local_participant.publications[0].subscribed.set()
    for _ in range(2):
        reader = stage.room.stream(hz=16_000)
        reader.write(np.ones(160_000, "<i2").tobytes())
        reader.write(None)
    await until(lambda: stage.room.local_participant.called("lk.playback_started"))
    await asyncio.sleep(0.1)
    await stage.avatar.leave()
    reports = [json.loads(p) for p in stage.room.local_participant.called("lk.playback_finished")]
    assert [report["interrupted"] for report in reports] == [True, True]
    assert 0.05 < reports[0]["playback_position"] < 5.0
    assert reports[1]["playback_position"] == 0.0


async def test_agents_streams_and_calls_are_expected_before_the_picture_invites_them() -> None:
    stage = Stage(hears="agent")
    handlers: list[tuple[bool, bool]] = []
    publish = stage.room.local_participant.publish_track

    async def noting(track: Any, options: Any) -> Any:
        handlers.append(
            (
                "lk.audio_stream" in stage.room.byte_handlers,
                "lk.clear_buffer" in stage.room.local_participant.handlers,
            )
        )
        return await publish(track, options)

    stage.room.local_participant.publish_track = noting  # type: ignore[method-assign]
    await stage.avatar.join()
    assert handlers == [(True, True), (True, True)]
    await stage.avatar.leave()


async def test_guests_who_come_and_go_are_heard_until_the_avatar_leaves() -> None:
    stage = Stage(hears="guests")
    early = stage.room.microphone(stage.room.enter("guest-1"), "TR_early")
    await stage.avatar.join()
    late = stage.room.microphone(stage.room.enter("guest-2"), "TR_late")
    assert (early.subscribed, late.subscribed) == ([True], [True])
    agent = stage.room.microphone(stage.room.enter(AGENT, "AGENT"), "TR_agent")
    assert agent.subscribed == []
    await asyncio.gather(early.say(2_000, 0.4), late.say(3_000, 0.4))
    await until(lambda: len(stage.heard) > 5)
    assert {hz for _, hz in stage.heard} == {24_000}
    assert abs(int(np.median(np.concatenate([samples for samples, _ in stage.heard]))) - 5_000) < 100
    await stage.avatar.leave()
    before = len(stage.heard)
    await early.say(2_000, 0.1)
    assert len(stage.heard) == before
    for microphone in (early, late, agent):
        await microphone.free()


async def test_where_nobody_is_to_be_heard_nothing_is_subscribed_to() -> None:
    for hears in ("nobody", "agent"):
        stage = Stage(hears=hears)
        guest = stage.room.microphone(stage.room.enter("guest-1"))
        await stage.avatar.join()
        await stage.avatar.leave()
        assert guest.subscribed == []
        await guest.free()


async def test_room_is_told_of_the_avatars_state_on_agenthumans_topic() -> None:
    stage = Stage(empty_after_s=0.05)
    stage.room.enter("user-1")
    await stage.avatar.join()
    stage.room.exit("user-1")
    await until(lambda: stage.room.disconnects)
    told = stage.room.local_participant.data
    assert [topic for topic, _ in told] == ["session.state"] * 2
    messages = [json.loads(payload) for _, payload in told]
    assert [message["state"] for message in messages] == ["joined", "empty"]
    assert all(set(message) == {"state", "reason"} and message["reason"] for message in messages)


@pytest.mark.parametrize("error", [rtc.participant.PublishDataError("not allowed"), RuntimeError("gone")])
async def test_token_that_allows_no_data_messages_is_no_obstacle(error: Exception) -> None:
    stage = Stage()
    stage.room.local_participant.data_error = error
    await stage.avatar.join()
    await stage.avatar.leave()
    assert stage.states.names == ["joining", "joined", "left"]
    assert stage.room.disconnects == 1


async def test_room_without_an_agent_protocol_registers_nothing() -> None:
    stage = Stage()
    await stage.avatar.join()
    assert stage.room.byte_handlers == {}
    assert stage.room.local_participant.handlers == {}
    stage.avatar.playback_started(1)
    stage.avatar.playback_ended(1, 0.5, interrupted=False)
    await stage.avatar.leave()


async def test_agents_and_recorders_do_not_keep_the_avatar_in_an_empty_room() -> None:
    stage = Stage(empty_after_s=0.1, absent_after_s=60.0)
    stage.room.enter(AGENT, "AGENT")
    stage.room.enter("recorder", "EGRESS")
    stage.room.enter("user-1")
    stage.room.enter("caller", "SIP")
    await stage.avatar.join()
    stage.room.exit("user-1")
    await asyncio.sleep(0.15)
    assert stage.states.names == ["joining", "joined"]
    stage.room.exit("caller")
    async with asyncio.timeout(5.0):
        assert "everybody else left" in await stage.states.until("empty")
    await until(lambda: stage.room.disconnects)
    await stage.avatar.leave()
    assert stage.states.names == ["joining", "joined", "empty"]


async def test_room_that_nobody_enters_is_left() -> None:
    stage = Stage(absent_after_s=0.05)
    await stage.avatar.join()
    async with asyncio.timeout(5.0):
        assert "nobody came" in await stage.states.until("empty")
    await until(lambda: stage.room.disconnects)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("PARTICIPANT_REMOVED", "left"),
        ("ROOM_DELETED", "left"),
        ("ROOM_CLOSED", "left"),
        ("DUPLICATE_IDENTITY", "failed"),
        ("SIGNAL_CLOSE", "failed"),
        ("CONNECTION_TIMEOUT", "failed"),
    ],
)
async def test_disconnection_is_told_with_its_reason(reason: str, state: str) -> None:
    stage = Stage()
    await stage.avatar.join()
    stage.room.is_connected = False
    stage.room.emit("disconnected", getattr(rtc.DisconnectReason, reason))
    assert stage.states.names == ["joining", "joined", state]
    assert state == "left" or reason in stage.states.told[-1][1]
    await stage.avatar.leave()
    assert len(stage.states.told) == 3


async def test_refused_token_fails_the_join_without_telling_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stage = Stage()
    stage.room.connect_error = rtc.ConnectError(
        f"signal failure: 401 for {URL}/rtc?access_token={stage.token}: invalid token"
    )
    with pytest.raises(RoomFailed, match=r"expected to join the LiveKit room .* 401") as refusal:
        await stage.avatar.join()
    said = str(refusal.value) + caplog.text
    assert stage.token not in said
    assert "livekit.example.com" not in said
    assert stage.states.names == ["joining"]


async def test_room_that_lets_nothing_be_published_is_left() -> None:
    stage = Stage()
    stage.room.local_participant.publish_error = rtc.participant.PublishTrackError("no permission")
    with pytest.raises(RoomFailed, match="no permission"):
        await stage.avatar.join()
    assert stage.room.disconnects == 1
    assert stage.pictures[0]._ffi_handle.disposed


async def test_avatar_told_to_leave_while_it_joins_never_stays_in_the_room() -> None:
    stage = Stage()
    stage.room.may_connect.clear()
    joining = asyncio.create_task(stage.avatar.join())
    await asyncio.sleep(0.02)
    await stage.avatar.leave()
    with pytest.raises(RoomFailed, match="told to leave"):
        await joining
    stage.room.may_connect.set()
    await until(lambda: stage.room.disconnects)
    assert stage.states.names == ["joining", "left"]
    with pytest.raises(RoomFailed, match="told to leave"):
        await stage.avatar.join()


async def test_cancelled_join_never_stays_in_the_room() -> None:
    stage = Stage()
    stage.room.may_connect.clear()
    joining = asyncio.create_task(stage.avatar.join())
    await asyncio.sleep(0.02)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    stage.room.may_connect.set()
    await until(lambda: stage.room.disconnects)


async def test_room_lost_while_it_is_joined_fails_the_join() -> None:
    stage = Stage()
    publish = stage.room.local_participant.publish_track

    async def losing(track: Any, options: Any) -> Any:
        stage.room.emit("disconnected", rtc.DisconnectReason.DUPLICATE_IDENTITY)
        return await publish(track, options)

    stage.room.local_participant.publish_track = losing  # type: ignore[method-assign]
    with pytest.raises(RoomFailed, match="DUPLICATE_IDENTITY"):
        await stage.avatar.join()


async def test_sdk_that_fails_ends_the_room_alone(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    await stage.avatar.join()

    def broken(frame: rtc.VideoFrame) -> None:
        raise RuntimeError("the encoder is gone")

    stage.pictures[0].capture_frame = broken  # type: ignore[method-assign]
    async with asyncio.timeout(5.0):
        await stage.states.until("failed")
    await stage.avatar.leave()
    assert stage.room.disconnects == 1
    assert stage.states.names == ["joining", "joined", "failed"]


async def test_avatar_takes_its_display_name_where_the_token_lets_it() -> None:
    stage = Stage(token=livekit_token(canUpdateOwnMetadata=True))
    await stage.avatar.join()
    await until(lambda: stage.room.local_participant.names == ["Ada"])
    await stage.avatar.leave()
    quiet = Stage()
    await quiet.avatar.join()
    await quiet.avatar.leave()
    assert quiet.room.local_participant.names == []


# --- the installed SDK --------------------------------------------------------------------------------


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    inspect.signature(function).bind(*args, **kwargs)


def test_installed_sdk_has_every_call_as_it_is_made_here() -> None:
    me = object()
    accepts(rtc.Room)
    accepts(rtc.Room.on, me, "disconnected", print)
    accepts(rtc.Room.connect, me, URL, "token", None)
    accepts(rtc.Room.disconnect, me)
    accepts(rtc.Room.isconnected, me)
    accepts(rtc.Room.register_byte_stream_handler, me, "topic", print)
    accepts(rtc.Room.unregister_byte_stream_handler, me, "topic")
    accepts(rtc.RoomOptions, auto_subscribe=False, connect_timeout=5.0, data_stream=None)
    accepts(rtc.DataStreamOptions, max_payload_byte_length=1)
    accepts(rtc.LocalParticipant.register_rpc_method, me, "method", print)
    accepts(rtc.LocalParticipant.perform_rpc, me, destination_identity="a", method="m", payload="")
    accepts(rtc.LocalParticipant.publish_track, me, None, None)
    accepts(rtc.LocalParticipant.set_name, me, "name")
    accepts(rtc.LocalParticipant.publish_data, me, "{}", topic="session.state")
    accepts(rtc.RemoteTrackPublication.set_subscribed, me, True)
    accepts(
        rtc.AudioStream.from_track,
        track=None,
        capacity=1,
        sample_rate=24_000,
        num_channels=1,
        frame_size_ms=20,
    )
    accepts(rtc.AudioStream.aclose, me)
    accepts(rtc.AudioSource, 48_000, 1, queue_size_ms=0)
    accepts(rtc.AudioSource.capture_frame, me, None)
    accepts(rtc.AudioSource.aclose, me)
    accepts(rtc.VideoSource, 64, 64)
    accepts(rtc.VideoSource.capture_frame, me, None)
    accepts(rtc.VideoSource.aclose, me)
    accepts(rtc.AudioFrame, b"", 48_000, 1, 480)
    accepts(rtc.VideoFrame, 64, 64, rtc.VideoBufferType.I420, b"")
    accepts(rtc.LocalAudioTrack.create_audio_track, "name", None)
    accepts(rtc.LocalVideoTrack.create_video_track, "name", None)
    accepts(rtc.LocalTrackPublication.wait_for_subscription, me)
    accepts(rtc.ByteStreamReader.close, me)
    accepts(rtc.ByteStreamReader.__anext__, me)


def test_installed_sdk_waits_where_it_is_awaited_here() -> None:
    for function in (
        rtc.Room.connect,
        rtc.Room.disconnect,
        rtc.LocalParticipant.perform_rpc,
        rtc.LocalParticipant.publish_track,
        rtc.LocalParticipant.set_name,
        rtc.LocalParticipant.publish_data,
        rtc.AudioStream.aclose,
        rtc.AudioSource.capture_frame,
        rtc.AudioSource.aclose,
        rtc.VideoSource.aclose,
        rtc.LocalTrackPublication.wait_for_subscription,
        rtc.ByteStreamReader.__anext__,
    ):
        assert inspect.iscoroutinefunction(function), function
    assert not inspect.iscoroutinefunction(rtc.VideoSource.capture_frame)
    assert not inspect.iscoroutinefunction(rtc.ByteStreamReader.close)


def test_installed_sdk_has_the_names_that_are_read_here() -> None:
    events = set(get_args(rtc.room.EventTypes))
    assert {"participant_connected", "participant_disconnected", "disconnected"} <= events
    assert {f"track_{what}" for what in ("published", "unpublished", "subscribed", "unsubscribed")} <= events
    for name in ("sid", "kind", "source"):
        assert isinstance(getattr(rtc.RemoteTrackPublication, name), property)
    for name in ("identity", "kind", "attributes", "track_publications"):
        assert isinstance(getattr(rtc.RemoteParticipant, name), property)
    for name in ("remote_participants", "local_participant"):
        assert isinstance(getattr(rtc.Room, name), property)
    assert isinstance(rtc.ByteStreamReader.info, property)
    assert isinstance(rtc.RpcError.code, property)
    assert rtc.ConnectError("what").message == "what"
    assert rtc.participant.PublishTrackError("what").message == "what"
    assert issubclass(rtc.StreamError, Exception)
    codes = rtc.RpcError.ErrorCode
    assert (codes.APPLICATION_ERROR, codes.RESPONSE_TIMEOUT, codes.UNSUPPORTED_METHOD) == (1500, 1502, 1400)


async def test_installed_sdk_tells_of_an_unreachable_server_as_expected_here() -> None:
    room = rtc.Room()
    with pytest.raises(rtc.ConnectError):
        await room.connect("ws://127.0.0.1:9", livekit_token(), rtc.RoomOptions(connect_timeout=2.0))
    await room.disconnect()


async def test_installed_sdk_takes_direct_sound_in_frames_of_10_ms_only() -> None:
    source = rtc.AudioSource(48_000, 1, queue_size_ms=0)
    await source.capture_frame(rtc.AudioFrame(bytes(960), 48_000, 1, 480))
    with pytest.raises(Exception, match="10ms"):
        await source.capture_frame(rtc.AudioFrame(bytes(1_920), 48_000, 1, 960))
    await source.aclose()
