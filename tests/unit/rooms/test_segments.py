from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_app.nouns import Int16
from serve_app.rooms import segments as module
from serve_app.rooms.segments import MAX_SEGMENTS, MAX_WAITING_S, Finished, Segments, Started

pytestmark = pytest.mark.unit

HZ = 16_000


def speech(seconds: float) -> Int16:
    return np.ones(round(seconds * HZ), np.int16)


def hand_over(segments: Segments) -> list[tuple[int, float | None]]:
    """Take all that is due; return tags and seconds, None for an end."""
    taken: list[tuple[int, float | None]] = []
    while (piece := segments.peek()) is not None:
        taken.append((piece.tag, None if piece.samples is None else piece.seconds))
        segments.take(piece)
    return taken


def test_segment_is_handed_over_and_reported_once() -> None:
    segments = Segments()
    tag = segments.begin()
    assert segments.push(tag, speech(0.5), HZ)
    segments.end(tag)
    assert hand_over(segments) == [(tag, 0.5), (tag, None)]
    segments.playback_started(tag)
    segments.playback_started(tag)
    segments.playback_ended(tag, 0.5, interrupted=False)
    segments.playback_ended(tag, 0.5, interrupted=False)
    assert segments.take_reports() == [Started(tag), Finished(tag, 0.5, interrupted=False)]
    assert segments.take_reports() == []


def test_speech_is_cut_into_pieces_that_any_session_takes() -> None:
    segments = Segments()
    tag = segments.begin()
    segments.push(tag, speech(2.25), HZ)
    assert hand_over(segments) == [(tag, 1.0), (tag, 1.0), (tag, 0.25)]


def test_second_segment_waits_until_the_first_was_handed_over_whole() -> None:
    segments = Segments()
    first, second = segments.begin(), segments.begin()
    segments.push(second, speech(0.1), HZ)
    assert segments.peek() is None
    segments.push(first, speech(0.2), HZ)
    segments.end(first)
    assert hand_over(segments) == [(first, 0.2), (first, None), (second, 0.1)]


def test_empty_segment_is_reported_in_its_turn() -> None:
    segments = Segments()
    first, empty = segments.begin(), segments.begin()
    segments.push(first, speech(0.2), HZ)
    segments.end(empty)
    assert segments.take_reports() == []
    segments.end(first)
    hand_over(segments)
    segments.playback_ended(first, 0.2, interrupted=False)
    assert segments.take_reports() == [Finished(first, 0.2, False), Finished(empty, 0.0, False)]


def test_cut_drops_what_waits_and_reports_every_segment_once_in_order() -> None:
    segments = Segments()
    playing, queued, arriving = (segments.begin() for _ in range(3))
    segments.push(playing, speech(1.0), HZ)
    segments.end(playing)
    hand_over(segments)
    segments.push(queued, speech(1.0), HZ)
    segments.end(queued)
    segments.push(arriving, speech(1.0), HZ)
    segments.cut()
    assert segments.peek() is None
    assert not segments.is_wanted(arriving)
    assert not segments.push(arriving, speech(1.0), HZ)
    segments.playback_ended(playing, 0.4, interrupted=True)
    segments.settle()
    segments.end(arriving)
    assert segments.take_reports() == [
        Finished(playing, 0.4, True),
        Finished(queued, 0.0, True),
        Finished(arriving, 0.0, True),
    ]


def test_segment_the_speaker_forgot_is_reported_when_the_cut_settles() -> None:
    segments = Segments()
    tag = segments.begin()
    segments.push(tag, speech(1.0), HZ)
    hand_over(segments)
    segments.cut()
    assert segments.take_reports() == []
    segments.settle()
    assert segments.take_reports() == [Finished(tag, 0.0, True)]


def test_cut_without_speech_reports_nothing() -> None:
    segments = Segments()
    segments.cut()
    segments.settle()
    assert segments.take_reports() == []


def test_segment_cut_by_others_wants_no_more_of_its_stream() -> None:
    segments = Segments()
    tag = segments.begin()
    segments.push(tag, speech(1.0), HZ)
    hand_over(segments)
    segments.playback_ended(tag, 0.3, interrupted=True)
    assert not segments.push(tag, speech(1.0), HZ)
    assert segments.peek() is None


def test_more_segments_than_allowed_are_refused_and_reported_in_order() -> None:
    segments = Segments()
    tags = [segments.begin() for _ in range(MAX_SEGMENTS + 1)]
    assert not segments.is_wanted(tags[-1])
    segments.cut()
    segments.settle()
    assert [report.tag for report in segments.take_reports()] == tags


def test_more_speech_than_allowed_ends_the_segment() -> None:
    segments = Segments()
    tag = segments.begin()
    assert segments.push(tag, speech(MAX_WAITING_S), HZ)
    assert not segments.push(tag, speech(0.1), HZ)
    assert not segments.is_wanted(tag)
    taken = hand_over(segments)
    assert sum(seconds or 0.0 for _, seconds in taken) == MAX_WAITING_S
    assert taken[-1] == (tag, None)


class Interleavings(RuleBasedStateMachine):
    """Streams, clears and a speaker that keeps its promises, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = Segments()
        self.begun: list[int] = []
        self.open: list[int] = []
        self.speaking: list[int] = []
        self.closed: set[int] = set()
        self.reports: list[Finished] = []
        self.fed_s: dict[int, float] = {}

    @rule()
    def begin(self) -> None:
        tag = self.segments.begin()
        self.begun.append(tag)
        self.open.append(tag)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), samples=st.integers(0, 3 * HZ))
    def push(self, data: st.DataObject, samples: int) -> None:
        tag = data.draw(st.sampled_from(self.open))
        wanted = self.segments.push(tag, np.ones(samples, np.int16), HZ)
        assert wanted == self.segments.is_wanted(tag)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["end", "refuse"]))
    def end(self, data: st.DataObject, how: str) -> None:
        tag = data.draw(st.sampled_from(self.open))
        self.open.remove(tag)
        if how == "refuse" and tag not in self.fed_s:
            self.segments.refuse(tag)
        else:
            self.segments.end(tag)

    @rule()
    def hand_over(self) -> None:
        piece = self.segments.peek()
        if piece is None:
            return
        self.segments.take(piece)
        if piece.samples is None:
            self.closed.add(piece.tag)
        else:
            assert piece.seconds <= module.PIECE_S
            if piece.tag not in self.fed_s:
                assert piece.tag > max(self.fed_s, default=-1), "segments are spoken in order"
                self.speaking.append(piece.tag)
            self.fed_s[piece.tag] = self.fed_s.get(piece.tag, 0.0) + piece.seconds

    @precondition(lambda self: self.speaking)
    @rule()
    def start(self) -> None:
        self.segments.playback_started(self.speaking[0])

    @precondition(lambda self: self.speaking and self.speaking[0] in self.closed)
    @rule()
    def play_to_the_end(self) -> None:
        tag = self.speaking.pop(0)
        self.segments.playback_ended(tag, self.fed_s[tag], interrupted=False)

    @rule(is_forgetful=st.booleans())
    def clear(self, is_forgetful: bool) -> None:
        self.segments.cut()
        for tag in self.speaking:
            if not is_forgetful:
                self.segments.playback_ended(tag, self.fed_s[tag] / 2, interrupted=True)
        self.speaking.clear()
        self.segments.settle()
        self.collect()
        assert [report.tag for report in self.reports] == self.begun, "a clear leaves nothing to report"

    @precondition(lambda self: self.speaking)
    @rule()
    def cut_by_others(self) -> None:
        for tag in self.speaking:
            self.segments.playback_ended(tag, self.fed_s[tag] / 4, interrupted=True)
        self.speaking.clear()

    @invariant()
    def collect(self) -> None:
        self.reports += [r for r in self.segments.take_reports() if isinstance(r, Finished)]
        tags = [report.tag for report in self.reports]
        assert tags == self.begun[: len(tags)], "one report for each segment, in order"
        for report in self.reports:
            assert 0.0 <= report.position_s <= self.fed_s.get(report.tag, 0.0)

    def teardown(self) -> None:
        for tag in self.open:
            self.segments.end(tag)
        while (piece := self.segments.peek()) is not None:
            self.segments.take(piece)
            if piece.samples is not None and piece.tag not in self.fed_s:
                self.speaking.append(piece.tag)
                self.fed_s[piece.tag] = 1.0
        for tag in self.speaking:
            self.segments.playback_ended(tag, 0.0, interrupted=False)
        self.reports += [r for r in self.segments.take_reports() if isinstance(r, Finished)]
        assert [report.tag for report in self.reports] == self.begun


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase
