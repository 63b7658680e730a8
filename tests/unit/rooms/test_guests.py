from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.nouns import Int16
from serve_app.rooms.guests import HEARD_HZ, MAX_GUESTS, MAX_WAITING, Guests

pytestmark = pytest.mark.unit

FRAME = 480


class Listener:
    def __init__(self) -> None:
        self.pieces: list[Int16] = []
        self.guests = Guests(self._hear)

    def _hear(self, samples: Int16, hz: int) -> None:
        assert hz == HEARD_HZ
        assert samples.dtype == np.int16
        self.pieces.append(samples)

    @property
    def heard(self) -> list[int]:
        """Return the first level of each piece."""
        return [int(piece[0]) for piece in self.pieces]

    def push(self, guest: str, level: int, count: int = FRAME) -> None:
        self.guests.push(guest, np.full(count, level, np.int16))


def test_somebody_alone_is_heard_at_once_and_unchanged() -> None:
    listener = Listener()
    samples = np.arange(-240, 240, dtype=np.int16)
    listener.guests.push("one", samples)
    assert len(listener.pieces) == 1
    assert (listener.pieces[0] == samples).all()


def test_two_are_heard_together_at_the_pace_of_the_first() -> None:
    listener = Listener()
    listener.push("one", 100)
    for _ in range(10):
        listener.push("two", 7)
        listener.push("one", 100)
    assert listener.heard == [100] + [107] * 10


def test_loud_guests_together_are_clipped_and_never_wrap() -> None:
    listener = Listener()
    listener.push("one", 1)
    listener.push("two", 30_000)
    listener.push("one", 30_000)
    listener.push("two", -30_000)
    listener.push("one", -30_000)
    assert listener.heard == [1, 32_767, -32_768]


def test_when_the_first_falls_silent_the_next_takes_over_within_a_tenth_of_a_second() -> None:
    listener = Listener()
    listener.push("one", 100)
    pushed = 0
    while len(listener.pieces) == 1:
        listener.push("two", 7)
        pushed += FRAME
    assert pushed <= MAX_WAITING + FRAME
    listener.push("two", 8)
    assert listener.heard == [100, 7, 8]
    assert len(listener.pieces[1]) == pushed, "nothing of what waited is lost"


def test_when_the_first_leaves_the_others_need_not_wait() -> None:
    listener = Listener()
    listener.push("one", 100)
    listener.push("two", 7)
    listener.guests.remove("one")
    listener.guests.remove("one")
    listener.push("two", 8)
    assert listener.heard == [100, 7]
    assert len(listener.pieces[1]) == 2 * FRAME


def test_more_guests_than_can_be_heard_wait_until_one_leaves() -> None:
    listener = Listener()
    for number in range(MAX_GUESTS + 1):
        listener.push(f"guest-{number}", 10**3)
    listener.push("guest-0", 0)
    assert listener.heard[-1] == (MAX_GUESTS - 1) * 10**3
    listener.guests.remove("guest-1")
    listener.push(f"guest-{MAX_GUESTS}", 5)
    listener.push("guest-0", 0)
    assert listener.heard[-1] == 5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3_000)), max_size=60))
def test_nothing_is_lost_and_little_waits_whoever_speaks_when(pushes: list[tuple[int, int]]) -> None:
    listener = Listener()
    sent = np.zeros(4, int)
    for guest, count in pushes:
        listener.guests.push(str(guest), np.full(count, 10**guest, np.int16))
        sent[guest] += count
    total = sum(int(piece.sum()) for piece in listener.pieces)
    waiting = sum(int(count) * 10**guest for guest, count in enumerate(sent)) - total
    assert 0 <= waiting <= 1_111 * MAX_WAITING
