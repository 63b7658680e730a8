from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Sequence
from typing import Any

import numpy as np
import pytest

from serve_app.config import SpeechConfig
from serve_app.errors import HostLost, ReplicaLost
from serve_app.media.windower import WindowGrid
from serve_app.nouns import Credit, Sound, Window, WindowBatch
from serve_app.speech.dispatcher import Dispatcher
from serve_app.speech.source import SpeechSource
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

GRID = WindowGrid(30, 1600, 800)
CONFIG = SpeechConfig()


class FakeRoute:
    """A host that answers at once and counts what comes."""

    def __init__(self, key: str, clock: VirtualClock) -> None:
        self.key: Hashable = key
        self.clock = clock
        self.batches: list[tuple[float, WindowBatch]] = []
        self.deliveries: list[tuple[float, list[Sound], list[Window], Any]] = []
        self.renewals: list[list[str]] = []
        self.shown: dict[str, tuple[float, float]] = {}
        self.submit_s = 0.0
        self.lose_replica = False
        self.lose_host = False

    async def submit(self, batch: WindowBatch) -> Any:
        if self.lose_replica:
            raise ReplicaLost("gone")
        self.batches.append((self.clock.now_s(), batch))
        await asyncio.sleep(self.submit_s)
        return object()

    def deliver(
        self, sounds: Sequence[Sound], windows: Sequence[Window], clips: Any
    ) -> Awaitable[list[Credit]]:
        self.deliveries.append((self.clock.now_s(), list(sounds), list(windows), clips))
        return self._credits(windows)

    async def _credits(self, windows: Sequence[Window]) -> list[Credit]:
        if self.lose_host:
            raise HostLost("gone")
        now_s = self.clock.now_s()
        answers = []
        for window in windows:
            ahead, at_s = self.shown.get(window.session_id, (0.0, now_s))
            ahead = max(0.0, ahead - (now_s - at_s) * GRID.fps) + window.num_frames
            self.shown[window.session_id] = (ahead, now_s)
            answers.append(Credit(window.session_id, window.generation, round(ahead), 0))
        return answers

    async def renew(self, session_ids: Sequence[str]) -> list[Credit]:
        self.renewals.append(list(session_ids))
        return []


def speaking(session_id: str, seconds: float) -> SpeechSource:
    speech = SpeechSource(session_id, "a", GRID, CONFIG)
    speech.begin(0)
    speech.feed(np.ones(round(seconds * 16_000), np.int16), 16_000)
    speech.end()
    return speech


def test_first_window_does_not_wait_for_the_tick() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        await asyncio.sleep(0.033)
        dispatcher.attach(speaking("s", 3.0), route)
        dispatcher.kick()
        await asyncio.sleep(0.001)
        assert [len(batch.windows) for _, batch in route.batches] == [1]
        running.cancel()

    run_virtual(scenario)


def test_windows_of_all_sessions_share_one_call_a_tick() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        for index in range(8):
            dispatcher.attach(speaking(f"s{index}", 6.0), route)
            dispatcher.kick()
            await asyncio.sleep(0.0137)
        await asyncio.sleep(1.0)
        start_s = clock.now_s()
        await asyncio.sleep(3.0)
        calls = [batch for at_s, batch in route.batches if at_s >= start_s]
        windows = sum(len(batch.windows) for batch in calls)
        assert len(calls) <= 31, "at most one call a tick once everybody is ahead"
        assert windows / len(calls) >= 2
        running.cancel()

    run_virtual(scenario)


def test_everything_arrives_in_order_though_submits_take_different_times() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        speech = SpeechSource("s", "a", GRID, CONFIG)
        dispatcher.attach(speech, route)
        speech.begin(0)
        for index in range(100):
            route.submit_s = (index % 5) * 0.01
            speech.feed(np.full(320, index, np.int16), 16_000)
            dispatcher.kick()
            await asyncio.sleep(0.02)
        speech.end()
        dispatcher.kick()
        await asyncio.sleep(3.0)
        at = 0
        for _, sounds, _, _ in route.deliveries:
            for sound in sounds:
                assert sound.first_sample == at
                at += len(sound.samples)
        frames = [w.first_frame for _, _, windows, _ in route.deliveries for w in windows]
        assert frames == sorted(frames)
        assert abs(at - 2 * 48_000) <= 2
        running.cancel()

    run_virtual(scenario)


def test_sound_passes_windows_that_no_replica_takes() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        speech = SpeechSource("s", "a", GRID, CONFIG)
        dispatcher.attach(speech, route)
        speech.begin(0)
        route.submit_s = 2.0
        for index in range(100):
            speech.feed(np.full(320, index, np.int16), 16_000)
            dispatcher.kick()
            await asyncio.sleep(0.02)
        spoken_s = clock.now_s()
        speech.end()
        dispatcher.kick()
        await asyncio.sleep(10.0)
        sent = [(at_s, sound) for at_s, sounds, _, _ in route.deliveries for sound in sounds]
        at = 0
        for at_s, sound in sent:
            assert sound.first_sample == at
            at += len(sound.samples)
            # Sound that was fed by then, less what the filters hold and what waits for a tick.
            assert at_s <= at / 48_000 + 0.3
        assert abs(at - 2 * 48_000) <= 2
        assert sent[-1][0] < spoken_s + 0.3
        frames = [w.first_frame for _, _, windows, _ in route.deliveries for w in windows]
        assert frames == sorted(frames)
        running.cancel()

    run_virtual(scenario)


def test_windows_without_a_replica_still_reach_their_host() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        route.lose_replica = True
        running = asyncio.create_task(dispatcher.run())
        dispatcher.attach(speaking("s", 1.0), route)
        dispatcher.kick()
        await asyncio.sleep(0.01)
        _, sounds, windows, clips = route.deliveries[0]
        assert clips is None
        assert len(windows) == 1
        assert sounds[0].is_last
        running.cancel()

    run_virtual(scenario)


def test_lost_host_does_not_stop_the_others() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher = Dispatcher(CONFIG, clock)
        lost, well = FakeRoute("lost", clock), FakeRoute("well", clock)
        lost.lose_host = True
        running = asyncio.create_task(dispatcher.run())
        dispatcher.attach(speaking("a", 2.0), lost)
        dispatcher.attach(speaking("b", 2.0), well)
        dispatcher.kick()
        await asyncio.sleep(3.0)
        assert sum(w.num_frames for _, _, windows, _ in well.deliveries for w in windows) == 60
        assert not running.done()
        running.cancel()

    run_virtual(scenario)


def test_leases_are_renewed_with_one_call_a_host() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock, renew_s=1.0), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        for index in range(3):
            dispatcher.attach(SpeechSource(f"s{index}", "a", GRID, CONFIG), route)
        await asyncio.sleep(2.5)
        assert route.renewals == [["s0", "s1", "s2"]] * 2
        running.cancel()

    run_virtual(scenario)


def test_idle_dispatcher_sends_nothing() -> None:
    async def scenario(clock: VirtualClock) -> None:
        dispatcher, route = Dispatcher(CONFIG, clock), FakeRoute("h", clock)
        running = asyncio.create_task(dispatcher.run())
        dispatcher.attach(SpeechSource("s", "a", GRID, CONFIG), route)
        await asyncio.sleep(60.0)
        assert route.deliveries == []
        running.cancel()

    run_virtual(scenario)
