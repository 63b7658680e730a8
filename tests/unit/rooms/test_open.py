from __future__ import annotations

import sys

import pytest

pytest.importorskip("livekit.rtc")
pytest.importorskip("daily")

from serve_app.clock import MonotonicClock
from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.rooms.base import Room, RoomSpec
from serve_app.rooms.daily import DailyRoom
from serve_app.rooms.livekit import LiveKitRoom
from serve_app.rooms.open import open_room
from tests.unit.rooms.fakes import FakeSpeaker, Source, States, livekit_token

pytestmark = pytest.mark.unit

CLOCK = MonotonicClock()


def opened(spec: RoomSpec, speaker: FakeSpeaker | None = None) -> Room:
    return open_room(spec, Source(0.0), speaker, CLOCK, RoomsConfig(), States())


async def test_platform_decides_the_client() -> None:
    livekit = RoomSpec("livekit", "wss://example.com", livekit_token())
    assert isinstance(opened(livekit), LiveKitRoom)
    assert isinstance(opened(RoomSpec("daily", "https://x.daily.co/room", "t")), DailyRoom)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (RoomSpec("livekit", "ws://example.com", livekit_token()), "expected wss://"),
        (RoomSpec("livekit", "wss://example.com", "nonsense"), "expected a LiveKit access token"),
        (RoomSpec("livekit", "wss://example.com", livekit_token(canPublish=False)), "may publish"),
        (RoomSpec("livekit", "wss://example.com", livekit_token(), hears="agent"), "a speaker"),
        (RoomSpec("livekit", "wss://example.com", livekit_token(), hears="guests"), "a conversation"),
        (RoomSpec("daily", "https://x.daily.co/room", "t", hears="guests"), "a conversation"),
        (RoomSpec("daily", "https://x.daily.co/", "t"), "no room name"),
    ],
)
async def test_rooms_that_cannot_be_joined_are_refused_at_once(spec: RoomSpec, expected: str) -> None:
    with pytest.raises(RoomFailed, match=expected):
        opened(spec)


async def test_daily_rooms_have_no_agent_to_hear() -> None:
    spec = RoomSpec("daily", "https://x.daily.co/room", "t", hears="agent")
    with pytest.raises(RoomFailed, match="LiveKit agent"):
        opened(spec, FakeSpeaker(CLOCK))


async def test_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    with pytest.raises(RoomFailed, match=r"serve-app\[livekit\]"):
        opened(RoomSpec("livekit", "wss://example.com", livekit_token()))


def test_specs_show_no_token() -> None:
    assert "secret" not in repr(RoomSpec("livekit", "wss://secret.example.com", "secret"))
