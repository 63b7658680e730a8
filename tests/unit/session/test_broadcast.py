"""Many watchers, one playout."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.config import PlayoutConfig
from serve_app.media.playout import Completed, Playout, Started
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ, Sound
from serve_app.rtc.encoder import SILENCE
from serve_app.session.broadcast import FIRST_PACKETS, KEPT, Broadcast
from tests.clocks import SleeplessClock

pytestmark = pytest.mark.unit

FPS = 30


class Stage:
    """A broadcast over a real playout that starts without waiting for clips."""

    def __init__(self) -> None:
        self.time = SleeplessClock(100.0)
        self.playout = Playout(FPS, PlayoutConfig(start_deadline_s=0.001))
        self.events: list[Started | Completed] = []
        self.broadcast = Broadcast(
            self.playout, FPS, self.time, lambda: self.events.extend(self.playout.drain_events())
        )

    def speak(self, seconds: float, utterance: int = 0) -> None:
        samples = np.full(int(seconds * SOUND_HZ), 5000, np.int16)
        generation = self.playout.generation
        self.playout.push_sound(Sound("s", generation, utterance, 0, samples, True, utterance))

    def play(self, first: int, count: int) -> list[bool]:
        """Pull packets at their pace; return which of them have sound."""
        heard = []
        for index in range(first, first + count):
            self.time.s += PACKET_S
            self.broadcast.picture(index * PACKET_SAMPLES * FPS // SOUND_HZ)
            heard.append(self.broadcast.sound(index) is not None)
        return heard


def test_everybody_gets_the_same_sound_and_picture() -> None:
    stage = Stage()
    stage.speak(0.5)
    stage.play(0, 20)
    first = [stage.broadcast.packet(index) for index in range(10, 20)]
    again = [stage.broadcast.packet(index) for index in range(10, 20)]
    assert first == again
    assert any(packet != SILENCE for packet in first)
    assert stage.broadcast.picture(9) == stage.broadcast.picture(9)


def test_a_second_watcher_does_not_move_the_playout_on() -> None:
    stage = Stage()
    stage.speak(0.2)
    alone = Stage()
    alone.speak(0.2)
    for index in range(40):
        stage.time.s += PACKET_S
        alone.time.s += PACKET_S
        frame = index * PACKET_SAMPLES * FPS // SOUND_HZ
        for _ in range(3):
            stage.broadcast.picture(frame)
            stage.broadcast.packet(index)
        alone.broadcast.picture(frame)
        alone.broadcast.packet(index)
    assert stage.events == alone.events
    assert [type(event) for event in stage.events] == [Started, Completed]


def test_who_comes_too_late_hears_silence_and_sees_the_newest() -> None:
    stage = Stage()
    stage.speak(4.0)
    stage.play(0, 2 * KEPT)
    assert stage.broadcast.packet(1) == SILENCE
    newest = stage.broadcast.picture(10_000)
    assert stage.broadcast.picture(2) == newest


def test_nothing_begins_before_the_first_receiver_is_surely_ready() -> None:
    stage = Stage()
    stage.speak(0.2)
    heard = stage.play(50, 30)
    assert FIRST_PACKETS <= heard.index(True) <= FIRST_PACKETS + 3


def test_speech_waits_while_nobody_listens() -> None:
    stage = Stage()
    stage.speak(1.0)
    assert any(stage.play(0, 20))
    stage.time.s += 60.0
    assert not stage.broadcast.is_watched
    heard = stage.play(3020, 60)
    assert sum(heard) >= 0.5 / PACKET_S, "half a second and more was left to hear"
    assert isinstance(stage.events[-1], Completed)
    assert stage.events[-1].played_s == pytest.approx(1.0, abs=0.03)


def test_it_is_watched_while_somebody_asks() -> None:
    stage = Stage()
    watched = [stage.broadcast.is_watched]
    stage.broadcast.sound(0)
    watched.append(stage.broadcast.is_watched)
    stage.time.s += 0.25
    watched.append(stage.broadcast.is_watched)
    assert watched == [False, True, False]


def test_who_listens_without_looking_hears_everything() -> None:
    stage = Stage()
    stage.speak(0.5)
    heard = []
    for index in range(60):
        stage.time.s += PACKET_S
        heard.append(stage.broadcast.sound(index) is not None)
    first = heard.index(True)
    assert first <= FIRST_PACKETS + 3
    assert heard[first : first + 25] == [True] * 25
    assert [type(event) for event in stage.events] == [Started, Completed]


def test_who_looks_after_others_listened_sees_what_is_shown_now() -> None:
    stage = Stage()
    for index in range(60):
        stage.time.s += PACKET_S
        stage.broadcast.sound(index)
    frame = 60 * PACKET_SAMPLES * FPS // SOUND_HZ
    assert stage.broadcast.picture(frame).base_frame == frame
