"""The guests' microphones are tracks of the installed SDK, and are read with its own stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("livekit.rtc")

from livekit import rtc

from serve_app.nouns import Int16
from serve_app.rooms.guests import HEARD_HZ, MAX_GUESTS
from serve_app.rooms.livekit_guests import GuestMicrophones
from tests.unit.rooms.fakes import FakeMicrophone, FakeRoom, livekit_sdk
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.unit


class Stage:
    def __init__(self, **others: Any) -> None:
        self.room = FakeRoom()
        self.heard: list[Int16] = []
        self.made: list[FakeMicrophone] = []
        self.microphones = GuestMicrophones(livekit_sdk(self.room, **others), self.room, self._hear)

    def _hear(self, samples: Int16, hz: int) -> None:
        assert hz == HEARD_HZ
        self.heard.append(samples)

    def publish(self, name: str, kind: str = "STANDARD", **microphone: Any) -> FakeMicrophone:
        """Let somebody enter with a microphone."""
        owner = self.room.remote_participants.get(name) or self.room.enter(name, kind)
        self.made.append(self.room.microphone(owner, f"TR_{len(self.made)}", **microphone))
        return self.made[-1]

    @property
    def samples(self) -> Int16:
        return np.concatenate([np.zeros(0, np.int16), *self.heard])


@asynccontextmanager
async def staged(**others: Any) -> AsyncIterator[Stage]:
    stage = Stage(**others)
    yield stage
    await stage.microphones.close()
    for microphone in stage.made:
        await microphone.free()


async def test_guest_is_heard_at_the_rate_of_conversations() -> None:
    async with staged() as stage:
        guest = stage.publish("guest-1")
        assert guest.subscribed == [True]
        await guest.say(8_000, 0.5)
        await until(lambda: len(stage.samples) >= 0.4 * HEARD_HZ)
        samples = stage.samples
        assert len(samples) <= 0.6 * HEARD_HZ
        assert abs(int(np.median(samples)) - 8_000) < 100
        assert {len(piece) for piece in stage.heard} == {HEARD_HZ // 50}


async def test_two_guests_are_heard_together() -> None:
    async with staged() as stage:
        one, two = stage.publish("guest-1"), stage.publish("guest-2")
        await asyncio.gather(one.say(3_000, 0.6), two.say(4_000, 0.6))
        await until(lambda: len(stage.samples) >= 0.5 * HEARD_HZ)
        assert abs(int(np.median(stage.samples)) - 7_000) < 100


async def test_those_who_were_there_before_are_heard() -> None:
    async with staged() as stage:
        guest = stage.room.enter("guest-1")
        microphone = FakeMicrophone(stage.room, guest, "TR_early", rtc.TrackSource.SOURCE_UNKNOWN)
        guest.track_publications["TR_early"] = microphone
        stage.made.append(microphone)
        stage.microphones.look_round()
        stage.microphones.look_round()
        assert microphone.subscribed == [True]


@pytest.mark.parametrize("kind", ["AGENT", "EGRESS", "INGRESS"])
async def test_agents_and_recorders_are_not_listened_to(kind: str) -> None:
    async with staged() as stage:
        assert stage.publish("somebody", kind).subscribed == []


async def test_pictures_and_shared_screens_are_not_asked_for() -> None:
    async with staged() as stage:
        assert stage.publish("guest-1", source=rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO).subscribed == []
        camera = stage.publish("guest-1", source=rtc.TrackSource.SOURCE_CAMERA)
        stage.room.remote_participants["guest-1"].track_publications.clear()
        camera.kind, camera.subscribed = rtc.TrackKind.KIND_VIDEO, []
        stage.room.remote_participants["guest-1"].track_publications["TR_camera"] = camera
        stage.microphones.look_round()
        assert camera.subscribed == []


async def test_only_so_many_are_heard_and_the_next_when_one_leaves() -> None:
    async with staged() as stage:
        guests = [stage.publish(f"guest-{number}") for number in range(MAX_GUESTS + 1)]
        assert [guest.subscribed for guest in guests] == [[True]] * MAX_GUESTS + [[]]
        guests[3].unpublish()
        assert guests[-1].subscribed == [True]


async def test_guest_who_stops_is_not_read_any_more_and_may_begin_again() -> None:
    async with staged() as stage:
        guest = stage.publish("guest-1")
        await guest.say(1_000, 0.2)
        guest.unpublish()
        await asyncio.sleep(0.05)
        before = len(stage.heard)
        await guest.say(1_000, 0.2)
        assert len(stage.heard) == before
        again = stage.publish("guest-1")
        await again.say(2_000, 0.3)
        await until(lambda: len(stage.heard) > before + 5)


async def test_after_the_avatar_left_nobody_is_heard() -> None:
    async with staged() as stage:
        guest = stage.publish("guest-1")
        await guest.say(1_000, 0.2)
        await stage.microphones.close()
        before = len(stage.heard)
        assert stage.publish("guest-2").subscribed == []
        await guest.say(1_000, 0.2)
        assert len(stage.heard) == before
        assert len(asyncio.all_tasks()) == 1, "the SDK's own reader is gone as well"


async def test_microphone_that_fails_silences_its_guest_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    class Broken:
        def __aiter__(self) -> Broken:
            return self

        async def __anext__(self) -> rtc.AudioFrameEvent:
            raise RuntimeError("the decoder is gone")

        async def aclose(self) -> None:
            return None

    class Streams:
        made = 0

        @classmethod
        def from_track(cls, **options: Any) -> Any:
            cls.made += 1
            return Broken() if cls.made == 1 else rtc.AudioStream.from_track(**options)

    async with staged(AudioStream=Streams) as stage:
        stage.publish("guest-1")
        other = stage.publish("guest-2")
        await other.say(2_000, 0.3)
        await until(lambda: len(stage.heard) > 5)
        assert "a guest's microphone in a LiveKit room failed" in caplog.text
