"""What keeps a session, in time that a test turns: every way a session may wait, be kept, and end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serve_app.config import AppConfig, SessionConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import SOUND_HZ, BaseLoop, Sound
from serve_app.rooms.base import RoomSpec
from serve_app.session.events import SessionEnding
from serve_app.session.lifetime import PEER_GRACE_S, end_of
from serve_app.session.request import SessionRequest
from serve_app.session.session import Face, Session
from tests.clocks import SetClock

pytestmark = pytest.mark.unit

LOOP = BaseLoop("a", 16, 16, 30, np.zeros((1, 384), np.uint8))
FACE = Face(LOOP, EncodedLoop(LOOP, lambda i420, *, keyframe: b"", 1.0))
ROOM = RoomSpec("livekit", "wss://rooms.example", "token")
LIMITS = SessionConfig(
    resume_grace_s=30.0, negotiation_timeout_s=60.0, max_duration_s=1000.0, warn_before_end_s=10.0
)


class Life:
    """A session whose time passes in a list of steps."""

    def __init__(self, executor: ThreadPoolExecutor, limits: SessionConfig, **request: Any) -> None:
        self.clock = SetClock()
        self.limits = limits
        self.session = Session(
            "sess_1",
            request=SessionRequest(model="tracer", avatar_id="a", **request),
            face=FACE,
            config=AppConfig(session=limits),
            clock=self.clock,
            executor=executor,
            recordings=None,
        )

    def after(self, seconds: float) -> str | None:
        """Let time pass, and return why the session ends."""
        self.clock.s += seconds
        return end_of(self.session, self.limits, self.clock.s)

    def renew(self) -> None:
        """A socket renews its lease."""
        self.session.was_attached = True
        self.session.renewed_s = self.clock.s

    def peer(self, *, is_connected: bool) -> None:
        """The peer comes or goes."""
        self.session.is_connected = is_connected
        self.session.was_connected = True
        self.session.connected_s = self.clock.s

    async def warnings(self) -> list[SessionEnding]:
        """Return the warnings told so far."""
        events = (await self.session.log.read(0, 0.0, counts=False))[1]
        return [event for event in events if isinstance(event, SessionEnding)]


class Lives:
    """Makes sessions."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    def __call__(self, limits: SessionConfig = LIMITS, **request: Any) -> Life:
        return Life(self._executor, limits, **request)


@pytest.fixture
def new() -> Iterator[Lives]:
    with ThreadPoolExecutor(1) as executor:
        yield Lives(executor)


async def test_a_call_waits_for_its_peer_and_no_longer(new: Lives) -> None:
    life = new(awaits="peer", kept_by=("peer",))
    assert life.after(59.0) is None
    assert life.after(2.0) == "idle"


async def test_a_call_whose_peer_failed_before_it_came_is_let_go(new: Lives) -> None:
    life = new(awaits="peer", kept_by=("peer",))
    assert life.after(15.0) is None
    life.session.has_failed, life.session.connected_s = True, life.clock.now_s()
    assert life.after(PEER_GRACE_S - 0.1) is None
    assert life.after(0.2) == "idle"


async def test_a_call_lives_as_long_as_its_peer_and_a_little_longer(new: Lives) -> None:
    life = new(awaits="peer", kept_by=("peer",))
    life.peer(is_connected=True)
    assert life.after(500.0) is None
    life.peer(is_connected=False)
    assert life.after(PEER_GRACE_S - 0.1) is None
    life.peer(is_connected=True)
    assert life.after(100.0) is None
    life.peer(is_connected=False)
    assert life.after(PEER_GRACE_S + 0.1) == "idle"


async def test_a_session_lives_as_long_as_its_socket_renews_it_and_its_grace(new: Lives) -> None:
    life = new()
    life.peer(is_connected=True)
    for _ in range(10):
        life.renew()
        assert life.after(29.0) is None
    assert life.after(2.0) == "idle"


async def test_a_socket_that_leaves_before_its_peer_came_is_not_waited_for(new: Lives) -> None:
    life = new()
    life.renew()
    assert life.after(29.0) is None
    assert life.after(2.0) == "idle"


async def test_a_session_whose_peer_never_comes_ends_though_its_socket_stays(new: Lives) -> None:
    life = new()
    for _ in range(3):
        life.renew()
        assert life.after(19.0) is None
    life.renew()
    assert life.after(4.0) == "idle"


async def test_a_session_made_over_rest_waits_for_its_socket(new: Lives) -> None:
    life = new(awaits="socket")
    assert life.after(59.0) is None
    assert life.after(2.0) == "idle"
    life = new(awaits="socket")
    assert life.after(59.0) is None
    life.renew()
    assert life.after(29.0) is None


async def test_a_room_alone_keeps_its_session(new: Lives) -> None:
    life = new(awaits="nothing", kept_by=("room",), room=ROOM)
    life.session.is_in_room = True
    assert life.after(900.0) is None
    life.session.is_in_room = False
    assert life.after(0.1) == "idle"


async def test_either_of_socket_and_room_keeps_a_session(new: Lives) -> None:
    life = new(awaits="socket", kept_by=("lease", "room"), room=ROOM)
    life.renew()
    life.session.is_in_room = True
    assert life.after(40.0) is None
    life.renew()
    life.session.is_in_room = False
    assert life.after(29.0) is None
    assert life.after(2.0) == "idle"


async def test_a_session_ends_at_its_age_and_is_warned_once(new: Lives) -> None:
    life = new(awaits="nothing", kept_by=("room",), room=ROOM)
    life.session.is_in_room = True
    assert life.after(989.0) is None
    assert await life.warnings() == []
    assert life.after(2.0) is None
    assert life.after(1.0) is None
    [warning] = await life.warnings()
    assert warning == SessionEnding("expired", 9.0)
    assert life.after(9.0) == "expired"


@pytest.mark.parametrize(("asked_s", "lives_s"), [(100.0, 100.0), (5000.0, 1000.0), (None, 1000.0)])
async def test_the_shorter_of_the_servers_and_its_own_age_counts(
    new: Lives, asked_s: float | None, lives_s: float
) -> None:
    life = new(awaits="nothing", kept_by=("room",), room=ROOM, max_duration_s=asked_s)
    life.session.is_in_room = True
    assert life.after(lives_s - 0.5) is None
    assert life.after(1.0) == "expired"


@pytest.mark.parametrize(("minutes_s", "reason"), [(100.0, "quota"), (5000.0, "expired")])
async def test_the_end_of_its_keys_minutes_is_told_as_such(new: Lives, minutes_s: float, reason: str) -> None:
    life = new(awaits="nothing", kept_by=("room",), room=ROOM, max_duration_s=minutes_s, ends_minutes=True)
    life.session.is_in_room = True
    assert life.after(min(minutes_s, LIMITS.max_duration_s) + 0.5) == reason


async def test_a_session_shorter_than_the_warning_is_not_warned(new: Lives) -> None:
    life = new(awaits="nothing", kept_by=("room",), room=ROOM, max_duration_s=8.0)
    life.session.is_in_room = True
    for _ in range(7):
        assert life.after(1.0) is None
    assert await life.warnings() == []
    assert life.after(1.5) == "expired"


async def test_a_session_in_which_nothing_is_said_ends_when_that_is_asked_for(new: Lives) -> None:
    limits = LIMITS.model_copy(update={"idle_timeout_s": 120.0})
    life = new(limits, awaits="peer", kept_by=("peer",))
    life.peer(is_connected=True)
    assert life.after(100.0) is None
    life.session.hear([Sound("sess_1", 0, 0, 0, np.ones(SOUND_HZ, np.int16), False, 0)])
    assert life.after(111.0) is None
    [warning] = await life.warnings()
    assert warning == SessionEnding("idle", 9.0)
    assert life.after(10.0) == "idle"
