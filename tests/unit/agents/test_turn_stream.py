from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.agents.base import AGENT_HZ
from serve_app.agents.turn_stream import LEAD_S, LOUD, QUIET_S, Event, TurnStream
from serve_app.nouns import Int16

pytestmark = pytest.mark.unit

CHUNK = AGENT_HZ // 50


class Upstream:
    """An input buffer as an upstream keeps it."""

    def __init__(self) -> None:
        self.sound = b""
        self.turns: list[Int16] = []
        self.kinds: list[str] = []

    def take(self, events: list[Event]) -> None:
        for event in events:
            kind = event["type"].removeprefix("input_audio_buffer.")
            self.kinds.append(kind)
            if kind == "append":
                self.sound += base64.b64decode(event["audio"])
            elif kind == "commit":
                self.turns.append(np.frombuffer(self.sound, "<i2").astype(np.int16))
                self.sound = b""
            else:
                self.sound = b""


def loud(seconds: float, seed: int = 0) -> Int16:
    return np.random.default_rng(seed).integers(-9_000, 9_000, round(seconds * AGENT_HZ)).astype(np.int16)


def quiet(seconds: float, seed: int = 0) -> Int16:
    return np.random.default_rng(seed).integers(-20, 20, round(seconds * AGENT_HZ)).astype(np.int16)


def hear(stream: TurnStream, upstream: Upstream, sound: Int16, chunk: int = CHUNK) -> None:
    for at in range(0, len(sound), chunk):
        upstream.take(stream.hear(sound[at : at + chunk]))


def test_silence_is_not_sent() -> None:
    stream, upstream = TurnStream(60), Upstream()
    hear(stream, upstream, quiet(10))
    assert upstream.kinds == []


def test_a_turn_goes_out_while_it_is_spoken_and_is_only_committed_at_its_end() -> None:
    stream, upstream = TurnStream(60), Upstream()
    turn = np.concatenate([quiet(0.3), loud(1.0), quiet(0.5)])
    hear(stream, upstream, np.concatenate([quiet(5, seed=1), turn]))
    sent_before = len(upstream.sound)
    upstream.take(stream.commit(turn))
    assert "clear" not in upstream.kinds
    assert sent_before > 0.9 * 2 * len(turn)
    (committed,) = upstream.turns
    np.testing.assert_array_equal(committed[-len(turn) :], turn)
    assert len(committed) - len(turn) <= (LEAD_S - 0.3) * AGENT_HZ + CHUNK


def test_a_turn_that_was_not_streamed_is_sent_whole() -> None:
    stream, upstream = TurnStream(60), Upstream()
    upstream.take(stream.commit(loud(5)))
    assert upstream.kinds == ["append", "append", "append", "commit"]
    np.testing.assert_array_equal(upstream.turns[0], loud(5))


def test_a_word_before_a_long_pause_is_not_lost() -> None:
    stream, upstream = TurnStream(60), Upstream()
    turn = np.concatenate([loud(0.3) // 20, quiet(QUIET_S + 1), loud(0.5)])
    hear(stream, upstream, turn)
    upstream.take(stream.commit(turn))
    np.testing.assert_array_equal(upstream.turns[0], turn)


@pytest.mark.parametrize(
    "turn",
    [loud(1.0, seed=7), loud(3.0)[: AGENT_HZ // 2], np.concatenate([loud(0.3, seed=8), loud(3.0)])],
    ids=["other sound", "much less", "speech before it"],
)
def test_a_turn_that_is_not_what_went_out_takes_its_place(turn: Int16) -> None:
    stream, upstream = TurnStream(60), Upstream()
    hear(stream, upstream, loud(3.0))
    upstream.take(stream.commit(turn))
    assert "clear" in upstream.kinds
    np.testing.assert_array_equal(upstream.turns[0], turn)


def test_lost_sound_makes_the_turn_go_out_whole() -> None:
    stream, upstream = TurnStream(60), Upstream()
    turn = loud(1.0)
    hear(stream, upstream, turn)
    upstream.sound = upstream.sound[4_800:]
    stream.lose()
    upstream.take(stream.commit(turn))
    np.testing.assert_array_equal(upstream.turns[0], turn)


def test_noise_without_a_turn_is_taken_back() -> None:
    stream, upstream = TurnStream(60), Upstream()
    hear(stream, upstream, np.concatenate([loud(0.2), quiet(QUIET_S + 1)]))
    assert upstream.kinds[-1] == "clear"
    assert upstream.sound == b""


def test_what_goes_out_is_bounded_by_the_longest_turn() -> None:
    stream, upstream = TurnStream(2), Upstream()
    most = 0
    for seed in range(10):
        hear(stream, upstream, loud(0.5, seed))
        most = max(most, len(upstream.sound))
    assert most <= 2 * 2.5 * AGENT_HZ


def test_forgotten_sound_is_taken_back_once() -> None:
    stream, upstream = TurnStream(60), Upstream()
    hear(stream, upstream, loud(0.5))
    upstream.take([*stream.forget(), *stream.forget()])
    assert upstream.kinds.count("clear") == 1
    upstream.take(stream.commit(loud(0.5, seed=3)))
    np.testing.assert_array_equal(upstream.turns[0], loud(0.5, seed=3))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=8),
    st.integers(100, 4_000),
    st.integers(0, 4_000),
    st.integers(0, 4_000),
)
@settings(max_examples=60, deadline=None)
def test_however_sound_comes_what_is_committed_has_all_loud_sound_of_the_turn(
    parts: list[tuple[bool, int]], chunk: int, before: int, after: int
) -> None:
    made = [(loud if is_loud else quiet)(length / 50, seed) for seed, (is_loud, length) in enumerate(parts)]
    sound = np.concatenate(made)
    stream, upstream = TurnStream(60), Upstream()
    hear(stream, upstream, sound, chunk)
    turn = sound[before : max(before + 1, len(sound) - after)]
    upstream.take(stream.commit(turn))
    (committed,) = upstream.turns
    if len(turn):
        first_loud = int(np.argmax(np.abs(turn) > 2 * LOUD)) if (np.abs(turn) > 2 * LOUD).any() else len(turn)
        assert turn[first_loud:].tobytes() in committed.tobytes()
