from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from serve_app.nouns import PACKET_S, Int16, UInt8
from serve_app.rooms.pacer import MAX_SOUND_LAG_S, USUAL_QUEUE_S, Pacer
from tests.virtual_time import VirtualClock, VirtualLoop, run_virtual

pytestmark = pytest.mark.unit

FPS = 25


class Source:
    """Sound whose first sample is the packet's index, pictures whose first byte is the frame's."""

    width = height = 2
    fps = FPS

    def __init__(self, start_s: float = 0.0) -> None:
        self.start_s = start_s
        self.silent_from: int | None = None
        self.fails_at: int | None = None

    def sound(self, index: int) -> Int16:
        if index == self.fails_at:
            raise RuntimeError("no sound")
        samples = np.zeros(960, np.int16)
        if self.silent_from is None or index < self.silent_from:
            samples[:] = index + 1
        return samples

    def picture(self, index: int) -> UInt8:
        if index == self.fails_at:
            raise RuntimeError("no picture")
        return np.full(6, index % 256, np.uint8)


class Sinks:
    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.sounds: list[tuple[float, int]] = []
        self.shown: list[tuple[float, int]] = []
        self.queued_s = 0.0
        self.stall: dict[int, float] = {}
        self.fail_after: int | None = None

    async def play(self, samples: Int16) -> None:
        if len(self.sounds) == self.fail_after:
            raise OSError("the microphone is gone")
        self.sounds.append((round(self.clock.now_s(), 6), int(samples[0]) - 1))
        stall_s = self.stall.pop(int(samples[0]) - 1, 0.0)
        if stall_s:
            await asyncio.sleep(stall_s)

    def show(self, picture: UInt8) -> None:
        self.shown.append((round(self.clock.now_s(), 6), int(picture[0])))


async def pace(clock: VirtualClock, source: Source, sinks: Sinks, seconds: float) -> None:
    running = asyncio.create_task(Pacer(source, clock, sinks, sinks).run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.wait([running])


def test_sound_and_pictures_are_handed_over_when_they_are_due() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        await pace(clock, Source(), sinks, 1.0 - 1e-3)
        assert sinks.sounds == [(round(p * PACKET_S, 6), p) for p in range(50)]
        assert sinks.shown == [(round(n / FPS, 6), n) for n in range(FPS)]

    run_virtual(scenario)


def test_pacer_that_begins_late_begins_with_what_is_due_now() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        await asyncio.sleep(10.0)
        await pace(clock, Source(start_s=2.0), sinks, 0.1)
        assert sinks.sounds[0] == (10.0, 400)
        assert sinks.shown[0] == (10.0, 200)

    run_virtual(scenario)


def test_late_sound_is_handed_over_at_once_and_none_is_left_out() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        sinks.stall = {10: 0.5}
        await pace(clock, Source(), sinks, 2.0)
        assert [index for _, index in sinks.sounds] == list(range(len(sinks.sounds)))
        assert len(sinks.sounds) >= 100
        caught_up = [at for at, index in sinks.sounds if 11 <= index <= 35]
        assert set(caught_up) == {0.7}

    run_virtual(scenario)


def test_sound_more_than_a_second_late_is_skipped() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        sinks.stall = {10: 1.5}
        await pace(clock, Source(), sinks, 3.0)
        after = sinks.sounds[11]
        assert after == (1.7, 85)

    run_virtual(scenario)


def test_late_pictures_are_skipped() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        source = Source()
        show = sinks.show
        blocked = {5}

        def blocking_show(picture: UInt8) -> None:
            show(picture)
            if int(picture[0]) in blocked:
                blocked.clear()
                virtual._jumping.now_s += 0.3

        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        virtual = loop
        sinks.show = blocking_show  # type: ignore[method-assign]
        await pace(clock, source, sinks, 1.0)
        indexes = [index for _, index in sinks.shown]
        assert indexes[:7] == [0, 1, 2, 3, 4, 5, 12]
        assert indexes == sorted(set(indexes))

    run_virtual(scenario)


def test_backlog_in_the_sdk_is_made_up_for_in_silence_only() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        source = Source()
        source.silent_from = 25
        sinks.queued_s = 0.5
        await pace(clock, source, sinks, 1.0 - 1e-3)
        assert [index for _, index in sinks.sounds] == list(range(25))
        sinks.sounds.clear()
        sinks.queued_s = USUAL_QUEUE_S
        await pace(clock, source, sinks, 0.1)
        assert sinks.sounds

    run_virtual(scenario)


def test_pictures_wait_as_long_as_sound_waits_in_the_sdk() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        sinks.queued_s = USUAL_QUEUE_S + 0.4
        await asyncio.sleep(10.0)
        await pace(clock, Source(), sinks, 0.5)
        assert sinks.shown[0] == (10.0, 240)
        assert [index for _, index in sinks.shown] == list(range(240, 240 + len(sinks.shown)))

    run_virtual(scenario)


def test_sdk_that_takes_no_sound_any_more_is_given_none() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        sinks.queued_s = MAX_SOUND_LAG_S + 0.1
        await pace(clock, Source(), sinks, 1.0)
        assert sinks.sounds == []

    run_virtual(scenario)


def test_source_that_fails_once_costs_one_packet_and_one_picture(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        source = Source()
        source.fails_at = 3
        with caplog.at_level(logging.ERROR):
            await pace(clock, source, sinks, 0.3)
        assert [index for _, index in sinks.sounds][2:6] == [2, -1, 4, 5]
        assert [index for _, index in sinks.shown][2:5] == [2, 4, 5]
        assert len(caplog.records) == 1

    run_virtual(scenario)


def test_sink_that_fails_ends_the_pacer_with_its_own_error() -> None:
    async def scenario(clock: VirtualClock) -> None:
        sinks = Sinks(clock)
        sinks.fail_after = 3
        with pytest.raises(OSError, match="microphone"):
            await Pacer(Source(), clock, sinks, sinks).run()

    run_virtual(scenario)
