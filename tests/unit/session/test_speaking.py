"""A session's mouth: every utterance is reported exactly once, in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import PlayoutConfig, SpeechConfig
from serve_app.media.playout import Completed, Playout, Started
from serve_app.media.windower import WindowGrid
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ
from serve_app.session.broadcast import Broadcast
from serve_app.session.speaking import SessionSpeaker
from serve_app.speech.source import SpeechSource
from tests.clocks import SleeplessClock
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

FPS = 30


@dataclass
class Reports:
    """A listener that writes everything down."""

    started: list[int] = field(default_factory=list)
    ended: list[tuple[int, float, bool]] = field(default_factory=list)

    def playback_started(self, tag: int) -> None:
        self.started.append(tag)

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        self.ended.append((tag, round(played_s, 2), interrupted))


class Mouth:
    """A speaker over a real source and playout; `deliver` is what the dispatcher does, `play` the peer."""

    def __init__(self, max_buffered_s: float = 300.0) -> None:
        self.time = SleeplessClock(0.0)
        self.packet = 0
        self.reports = Reports()
        self.playout = Playout(FPS, PlayoutConfig(start_deadline_s=0.001))
        self.source = SpeechSource("s", "default", WindowGrid(FPS, 4800, 1280), SpeechConfig())
        self.broadcast = Broadcast(self.playout, FPS, self.time, self.note)
        self.speaker = SessionSpeaker(
            self.source,
            self.playout,
            self.broadcast,
            silence=self.silence,
            kick=lambda: None,
            clock=self.time,
            max_buffered_s=max_buffered_s,
        )
        self.speaker.listener = self.reports

    def silence(self) -> int:
        generation = self.playout.interrupt()
        self.note()
        return generation

    def note(self) -> None:
        for event in self.playout.drain_events():
            if isinstance(event, Started):
                self.speaker.started(event.client_index)
            elif isinstance(event, Completed):
                self.speaker.completed(event.client_index, event.played_s, interrupted=event.interrupted)

    def say(self, tag: int, seconds: float) -> None:
        self.speaker.begin(tag)
        if seconds:
            self.speaker.feed(np.full(int(seconds * 24_000), 5000, np.int16), 24_000)
        self.speaker.end()

    def deliver(self) -> None:
        while self.source.has_sound:
            for sound in self.source.take_sounds():
                self.playout.push_sound(sound)
            self.source.advance()
        at_s = self.time.s
        while self.source.has_work:
            if self.source.take_window(at_s) is not None:
                self.source.landed(1)
            at_s += 1.0

    def play(self, seconds: float) -> None:
        for _ in range(round(seconds / PACKET_S)):
            self.time.s += PACKET_S
            self.broadcast.picture(self.packet * PACKET_SAMPLES * FPS // SOUND_HZ)
            self.broadcast.sound(self.packet)
            self.packet += 1


def test_what_was_heard_is_reported() -> None:
    mouth = Mouth()
    mouth.say(0, 0.5)
    mouth.say(1, 0.3)
    mouth.deliver()
    mouth.play(1.5)
    assert mouth.reports.started == [0, 1]
    assert mouth.reports.ended == [(0, 0.5, False), (1, 0.3, False)]


def test_an_interrupt_reports_everything_before_it_returns() -> None:
    mouth = Mouth()
    mouth.say(0, 1.0)
    mouth.say(1, 1.0)
    mouth.deliver()
    mouth.play(0.6)
    mouth.say(2, 1.0)  # still here, unknown to the playout
    mouth.speaker.interrupt()
    assert [tag for tag, _, _ in mouth.reports.ended] == [0, 1, 2]
    assert [cut for _, _, cut in mouth.reports.ended] == [True, True, True]
    assert [played for _, played, _ in mouth.reports.ended] == [pytest.approx(0.5, abs=0.1), 0.0, 0.0]
    mouth.say(3, 0.2)
    mouth.deliver()
    mouth.play(1.0)
    assert mouth.reports.ended[-1] == (3, 0.2, False)


def test_an_utterance_without_sound_ends_in_its_turn() -> None:
    mouth = Mouth()
    mouth.say(0, 0)
    assert mouth.reports.ended == [(0, 0.0, False)]
    mouth.say(1, 0.3)
    mouth.say(2, 0)
    mouth.deliver()
    assert len(mouth.reports.ended) == 1
    mouth.play(1.0)
    assert mouth.reports.ended[1:] == [(1, 0.3, False), (2, 0.0, False)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.sampled_from([0.0, 0.1, 0.4])),
            st.tuples(st.just("play"), st.sampled_from([0.1, 0.5])),
            st.tuples(st.just("deliver"), st.just(0.0)),
            st.tuples(st.just("interrupt"), st.just(0.0)),
        ),
        max_size=12,
    )
)
def test_whatever_happens_each_utterance_is_reported_once_in_order(steps: list[tuple[str, float]]) -> None:
    mouth, tags = Mouth(), 0
    for step, seconds in steps:
        match step:
            case "say":
                mouth.say(tags, seconds)
                tags += 1
            case "play":
                mouth.play(seconds)
            case "deliver":
                mouth.deliver()
            case "interrupt":
                mouth.speaker.interrupt()
    mouth.deliver()
    mouth.play(6.0)
    assert [tag for tag, _, _ in mouth.reports.ended] == list(range(tags))


def test_room_is_waited_for() -> None:
    async def scenario(clock: VirtualClock) -> None:
        mouth = Mouth(max_buffered_s=2.0)
        mouth.speaker._clock = clock
        mouth.say(0, 1.5)
        mouth.deliver()
        await mouth.speaker.room(0.4)
        waiting = asyncio.ensure_future(mouth.speaker.room(1.0))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        mouth.play(1.0)
        await asyncio.sleep(0.2)
        assert waiting.done()
        mouth.say(1, 1.5)
        mouth.deliver()
        mouth.speaker.interrupt()
        await mouth.speaker.room(2.0)
        assert clock.now_s() == pytest.approx(0.7)

    run_virtual(scenario)
