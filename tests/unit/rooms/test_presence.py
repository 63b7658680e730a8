from __future__ import annotations

import asyncio

import pytest

from serve_app.config import RoomsConfig
from serve_app.rooms.base import RoomState
from serve_app.rooms.presence import Presence
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit


class Told:
    def __init__(self, clock: VirtualClock) -> None:
        self.states: list[tuple[float, RoomState]] = []
        self.emptied = 0
        self.clock = clock
        config = RoomsConfig(absent_after_s=100.0, empty_after_s=10.0)
        self.presence = Presence(clock, self._on_state, self._on_empty, config)

    def _on_state(self, state: RoomState, sentence: str) -> None:
        assert sentence
        self.states.append((round(self.clock.now_s(), 3), state))

    def _on_empty(self) -> None:
        self.emptied += 1


def test_room_that_nobody_enters_is_empty_after_the_longer_time() -> None:
    async def scenario(clock: VirtualClock) -> None:
        told = Told(clock)
        told.presence.joining()
        told.presence.joined(0)
        await asyncio.sleep(200.0)
        assert told.states == [(0.0, "joining"), (0.0, "joined"), (100.0, "empty")]
        assert told.emptied == 1

    run_virtual(scenario)


def test_room_that_all_left_is_empty_after_the_shorter_time() -> None:
    async def scenario(clock: VirtualClock) -> None:
        told = Told(clock)
        told.presence.joined(1)
        await asyncio.sleep(500.0)
        told.presence.count(0)
        await asyncio.sleep(9.0)
        told.presence.count(1)
        await asyncio.sleep(500.0)
        told.presence.count(0)
        await asyncio.sleep(20.0)
        assert told.states == [(0.0, "joined"), (1019.0, "empty")]

    run_virtual(scenario)


def test_one_end_is_told_and_nothing_after_it() -> None:
    async def scenario(clock: VirtualClock) -> None:
        told = Told(clock)
        told.presence.joined(0)
        told.presence.end("failed", "lost")
        told.presence.end("left", "left")
        told.presence.joined(0)
        told.presence.count(0)
        await asyncio.sleep(500.0)
        assert [state for _, state in told.states] == ["joined", "failed"]
        assert told.emptied == 0

    run_virtual(scenario)


def test_closed_presence_tells_nothing() -> None:
    async def scenario(clock: VirtualClock) -> None:
        told = Told(clock)
        told.presence.joining()
        told.presence.close()
        told.presence.joined(0)
        told.presence.end("left", "left")
        await asyncio.sleep(500.0)
        assert [state for _, state in told.states] == ["joining"]

    run_virtual(scenario)
