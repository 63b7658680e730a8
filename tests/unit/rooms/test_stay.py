from __future__ import annotations

import asyncio

import pytest

from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.rooms.stay import LEFT_MEANWHILE, Stay
from tests.unit.rooms.fakes import States
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit


class Stage:
    """A stay in a room that takes `takes_s` to enter."""

    def __init__(self, clock: VirtualClock, takes_s: float = 1.0) -> None:
        self.states = States()
        self.releases = 0
        self.takes_s = takes_s
        self.stay = Stay("toy", clock, self.states, self._release, RoomsConfig(), join_s=20.0)

    async def join(self) -> None:
        async with self.stay.entering():
            await asyncio.sleep(self.takes_s)
        self.stay.presence.joined(1)

    async def _release(self) -> None:
        self.releases += 1


def test_room_that_does_not_answer_fails_the_join_and_is_released() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock, takes_s=60.0)
        with pytest.raises(RoomFailed, match="answer of the toy room within 20 s"):
            await stage.join()
        assert clock.now_s() == pytest.approx(20.0)
        assert (stage.states.names, stage.releases) == (["joining"], 1)

    run_virtual(scenario)


def test_leaving_ends_a_join_at_once_and_forbids_the_next() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock, takes_s=10.0)
        joining = asyncio.create_task(stage.join())
        await asyncio.sleep(1.0)
        await stage.stay.leave()
        for refused in (joining, stage.join()):
            with pytest.raises(RoomFailed, match=LEFT_MEANWHILE):
                await refused
        assert clock.now_s() == pytest.approx(1.0)
        assert stage.states.names == ["joining", "left"]
        assert stage.releases >= 1

    run_virtual(scenario)


def test_room_that_is_lost_while_it_is_joined_fails_the_join() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        joining = asyncio.create_task(stage.join())
        await asyncio.sleep(0.5)
        stage.stay.end("failed", "the room was lost")
        with pytest.raises(RoomFailed, match="the room was lost"):
            await joining
        assert (stage.states.names, stage.releases) == (["joining"], 1)

    run_virtual(scenario)


def test_work_that_fails_ends_the_stay_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(clock: VirtualClock) -> None:
        async def broken() -> None:
            raise ZeroDivisionError

        stage = Stage(clock)
        await stage.join()
        await stage.stay.run(broken())
        await stage.stay.leave()
        assert stage.states.names == ["joining", "joined", "failed"]
        assert stage.releases == 1

    run_virtual(scenario)
    assert "a toy room failed" in caplog.text
