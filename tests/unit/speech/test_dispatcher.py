from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import numpy as np
import pytest

from serve_app.config import SpeechConfig
from serve_app.errors import HostLost, ReplicaLost
from serve_app.media.windower import WindowGrid
from serve_app.nouns import Credit, Sound, Window, WindowBatch
from serve_app.speech.dispatcher import Dispatcher, Route
from serve_app.speech.source import SpeechSource
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

GRID = WindowGrid(30, 1600, 800)
CONFIG = SpeechConfig()


class FakeHost:
    """A host that answers at once and counts what comes, and the Animator on the way to it."""

    def __init__(self, key: str, clock: VirtualClock) -> None:
        self.route = Route(key, self._submit, self._deliver, self._renew)
        self.clock = clock
        self.batches: list[tuple[float, WindowBatch]] = []
        self.deliveries: list[tuple[float, list[Sound], list[Window], Sequence[Any]]] = []
        self.renewals: list[list[str]] = []
        self.shown: dict[str, tuple[float, float]] = {}
        self.submit_s = 0.0
        self.lose_replica = False
        self.lose_host = False

    async def _submit(self, batch: WindowBatch) -> Any:
        if self.lose_replica:
            raise ReplicaLost("gone")
        self.batches.append((self.clock.now_s(), batch))
        await asyncio.sleep(self.submit_s)
        return object()

    def _deliver(
        self, sounds: Sequence[Sound], windows: Sequence[Window], clips: Sequence[Any]
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

    async def _renew(self, session_ids: Sequence[str]) -> list[Credit]:
        self.renewals.append(list(session_ids))
        return []


class Stage:
    """A dispatcher that runs and one host."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.host = FakeHost("h", clock)
        self.dispatcher = Dispatcher(CONFIG, clock, renew_s=1.0)
        self.running = asyncio.create_task(self.dispatcher.run())

    def attach(self, source: SpeechSource) -> None:
        self.dispatcher.attach(source, self.host.route)
        self.dispatcher.kick()

    async def speak_live(self, submit_s: Sequence[float]) -> float:
        """Feed two seconds in pieces of 20 ms, while submits take so long in turn; return when it was fed."""
        speech = SpeechSource("s", "a", GRID, CONFIG)
        speech.begin(0)
        self.attach(speech)
        for index in range(100):
            self.host.submit_s = submit_s[index % len(submit_s)]
            speech.feed(np.full(320, index, np.int16), 16_000)
            self.dispatcher.kick()
            await asyncio.sleep(0.02)
        spoken_s = self.clock.now_s()
        speech.end()
        self.dispatcher.kick()
        return spoken_s

    def sent(self) -> list[tuple[float, int]]:
        """Return when sound was delivered, and how many samples until then; check that nothing is missing."""
        ends: list[tuple[float, int]] = []
        at = 0
        for at_s, sounds, _, _ in self.host.deliveries:
            for sound in sounds:
                assert sound.first_sample == at
                at += len(sound.samples)
                ends.append((at_s, at))
        assert abs(at - 2 * 48_000) <= 2
        frames = [w.first_frame for _, _, windows, _ in self.host.deliveries for w in windows]
        assert frames == sorted(frames)
        return ends


def speaking(session_id: str, seconds: float) -> SpeechSource:
    speech = SpeechSource(session_id, "a", GRID, CONFIG)
    speech.begin(0)
    speech.feed(np.ones(round(seconds * 16_000), np.int16), 16_000)
    speech.end()
    return speech


def test_first_window_does_not_wait_for_the_tick() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        await asyncio.sleep(0.033)
        stage.attach(speaking("s", 3.0))
        await asyncio.sleep(0.001)
        assert [len(batch.windows) for _, batch in stage.host.batches] == [1]

    run_virtual(scenario)


def test_windows_of_all_sessions_share_one_call_a_tick() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        for index in range(8):
            stage.attach(speaking(f"s{index}", 6.0))
            await asyncio.sleep(0.0137)
        await asyncio.sleep(1.0)
        start_s = clock.now_s()
        await asyncio.sleep(3.0)
        calls = [batch for at_s, batch in stage.host.batches if at_s >= start_s]
        windows = sum(len(batch.windows) for batch in calls)
        assert len(calls) <= 31, "at most one call a tick once everybody is ahead"
        assert windows / len(calls) >= 2

    run_virtual(scenario)


def test_everything_arrives_in_order_though_submits_take_different_times() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        await stage.speak_live([0.0, 0.01, 0.02, 0.03, 0.04])
        await asyncio.sleep(3.0)
        assert stage.sent()

    run_virtual(scenario)


def test_sound_passes_windows_that_no_replica_takes() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        spoken_s = await stage.speak_live([2.0])
        await asyncio.sleep(10.0)
        sent = stage.sent()
        # Sound that was fed by then, less what the filters hold and what waits for a tick.
        assert all(at_s <= at / 48_000 + 0.3 for at_s, at in sent)
        assert sent[-1][0] < spoken_s + 0.3

    run_virtual(scenario)


def test_windows_without_a_replica_still_reach_their_host() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        stage.host.lose_replica = True
        stage.attach(speaking("s", 1.0))
        await asyncio.sleep(0.01)
        _, sounds, windows, clips = stage.host.deliveries[0]
        assert clips == []
        assert len(windows) == 1
        assert sounds[0].is_last

    run_virtual(scenario)


def test_lost_host_does_not_stop_the_others() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage, lost = Stage(clock), FakeHost("lost", clock)
        lost.lose_host = True
        stage.dispatcher.attach(speaking("a", 2.0), lost.route)
        stage.attach(speaking("b", 2.0))
        await asyncio.sleep(3.0)
        assert sum(w.num_frames for _, _, windows, _ in stage.host.deliveries for w in windows) == 60
        assert not stage.running.done()

    run_virtual(scenario)


def test_leases_are_renewed_with_one_call_a_host() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        for index in range(3):
            stage.attach(SpeechSource(f"s{index}", "a", GRID, CONFIG))
        await asyncio.sleep(2.5)
        assert stage.host.renewals == [["s0", "s1", "s2"]] * 2

    run_virtual(scenario)


def test_idle_dispatcher_sends_nothing() -> None:
    async def scenario(clock: VirtualClock) -> None:
        stage = Stage(clock)
        stage.attach(SpeechSource("s", "a", GRID, CONFIG))
        await asyncio.sleep(60.0)
        assert stage.host.deliveries == []

    run_virtual(scenario)
