import random
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.nouns import SOUND_HZ, Int16
from serve_app.rtc.microphone import BURST_S, HOLD_S, MAX_FILL_S, MAX_HELD, Microphone
from tests.unit.rtc.callers import pitch_hz, tone, tone_packets

pytestmark = pytest.mark.unit

PACKETS = tone_packets(440, 60)


class Listener:
    """A microphone fed by hand, in virtual time."""

    def __init__(self, sequence: int = 0, timestamp: int = 0) -> None:
        self.now_s = 100.0
        self.parts: list[Int16] = []
        self.microphone = Microphone(self.take, self.now_s)
        self.sequence = sequence
        self.timestamp = timestamp

    def take(self, samples: Int16, hz: int) -> None:
        assert hz == SOUND_HZ
        assert samples.dtype == np.int16
        self.parts.append(samples)

    @property
    def sound(self) -> Int16:
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.int16)

    def send(self, n: int, payload: bytes | None = None, *, source: int = 1, wait_s: float = 0.02) -> None:
        """Send packet n of the stream."""
        self.now_s += wait_s
        self.microphone.push(
            source,
            (self.sequence + n) & 0xFFFF,
            (self.timestamp + n * 960) & 0xFFFFFFFF,
            PACKETS[n % len(PACKETS)] if payload is None else payload,
            self.now_s,
        )


def test_packets_in_order_are_heard_at_once() -> None:
    listener = Listener()
    for n in range(50):
        listener.send(n)
        assert len(listener.parts) == n + 1
        assert listener.microphone.due_s is None
    assert len(listener.sound) == 50 * 960
    assert abs(pitch_hz(listener.sound) - 440) < 2


def test_numbers_may_wrap() -> None:
    listener = Listener(sequence=0xFFFE, timestamp=0xFFFFFFFF - 960)
    for n in range(6):
        listener.send(n)
    assert [len(part) for part in listener.parts] == [960] * 6


def test_packets_that_overtook_are_put_in_order() -> None:
    straight, crossed = Listener(), Listener()
    for n in range(20):
        straight.send(n)
    for n in (0, 1, 3, 2, 4, 7, 5, 6, *range(8, 20)):
        crossed.send(n, wait_s=0.005)
    assert np.array_equal(crossed.sound, straight.sound)


def test_a_lost_packet_becomes_silence_of_its_length() -> None:
    listener = Listener()
    for n in (0, 1, 2, 4):
        listener.send(n)
    assert len(listener.parts) == 3
    due_s = listener.microphone.due_s
    assert due_s is not None
    assert due_s == pytest.approx(listener.now_s + HOLD_S)
    listener.microphone.expire(due_s - 0.001)
    assert len(listener.parts) == 3
    listener.microphone.expire(due_s)
    assert [len(part) for part in listener.parts] == [960] * 5
    assert not listener.parts[3].any()
    assert listener.parts[4].any()
    listener.send(3)  # too late
    assert len(listener.parts) == 5


def test_a_long_burst_behind_a_gap_does_not_wait() -> None:
    listener = Listener()
    listener.send(0)
    for n in range(2, 3 + MAX_HELD):
        listener.send(n, wait_s=0)
    assert len(listener.sound) == (3 + MAX_HELD) * 960


def test_duplicates_are_heard_once() -> None:
    listener = Listener()
    for n in (0, 0, 1, 1, 3, 3, 2, 2, 0):
        listener.send(n)
    assert len(listener.sound) == 4 * 960


def test_a_pause_of_the_sender_keeps_its_length() -> None:
    # Opus DTX: numbers go on, the clock jumps.
    listener = Listener()
    listener.send(0)
    listener.timestamp += 20 * 960
    listener.send(1, wait_s=0.42)
    assert len(listener.sound) == 22 * 960
    listener.timestamp += int(MAX_FILL_S * SOUND_HZ) + 960
    listener.send(2, wait_s=3)
    assert len(listener.sound) == 23 * 960


def test_a_sender_that_begins_anew_is_followed() -> None:
    listener = Listener()
    for n in range(3):
        listener.send(n)
    listener.sequence, listener.timestamp = 30_000, 9
    for n in range(4):
        listener.send(n)
    assert len(listener.sound) == (3 + 3) * 960  # the first proves nothing alone
    listener.send(0, source=2)
    assert len(listener.sound) == 7 * 960


def test_a_stray_packet_changes_nothing() -> None:
    listener = Listener()
    for n in range(3):
        listener.send(n)
    listener.send(5000)
    for n in range(3, 6):
        listener.send(n)
    assert len(listener.sound) == 6 * 960


def test_stereo_is_mixed_down() -> None:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SOUND_HZ, "stereo", "s16"
    encoder.time_base, encoder.bit_rate = Fraction(1, SOUND_HZ), 96_000
    listener = Listener()
    for n in range(25):
        frame = av.AudioFrame(format="s16", layout="stereo", samples=960)
        frame.sample_rate, frame.pts = SOUND_HZ, n * 960
        left = tone(440, n * 960, 960)
        frame.planes[0].update(np.ascontiguousarray(np.stack([left, 0 * left], axis=1)))
        for packet in encoder.encode(frame):
            listener.send(n, bytes(packet))
    assert len(listener.sound) >= 24 * 960
    assert abs(pitch_hz(listener.sound) - 440) < 3
    assert 5000 < np.abs(listener.sound[4800:].astype(int)).max() < 7000


def test_garbage_is_silence_and_the_next_packet_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    for n in range(5):
        listener.send(n)
    for n in range(5, 10):
        listener.send(n, b"\xff" * 40)
    for n in range(10, 15):
        listener.send(n)
    assert len(listener.sound) == 15 * 960
    assert not listener.sound[5 * 960 : 10 * 960].any()
    assert np.abs(listener.sound[-960:].astype(int)).max() > 8000
    assert len(caplog.records) == 1


def test_an_empty_packet_is_padding() -> None:
    listener = Listener()
    listener.send(0)
    listener.send(1, b"")
    listener.timestamp -= 960
    listener.send(2)
    assert len(listener.sound) == 2 * 960
    listener.send(3)
    assert len(listener.sound) == 3 * 960


def test_no_client_makes_more_sound_than_time_passes() -> None:
    # Each packet claims that two seconds were lost before it, and they come much too fast.
    listener = Listener()
    for n in range(2000):
        listener.timestamp += int(MAX_FILL_S * SOUND_HZ)
        listener.send(n, wait_s=0.005)
    assert len(listener.sound) / SOUND_HZ < 10.2 + BURST_S + 0.1
    assert max(len(part) for part in listener.parts) <= MAX_FILL_S * SOUND_HZ


def test_a_network_that_stood_still_loses_nothing() -> None:
    listener = Listener()
    listener.send(0)
    listener.now_s += 3
    for n in range(1, 151):
        listener.send(n, wait_s=0)
    for n in range(151, 200):
        listener.send(n)
    assert len(listener.sound) == 200 * 960


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=60)
        ),
        max_size=80,
    )
)
def test_whatever_arrives_little_is_kept(packets: list[tuple[int, int, int, bytes]]) -> None:
    listener = Listener()
    for source, sequence, timestamp, payload in packets:
        listener.now_s += 0.001
        listener.microphone.push(source, sequence, timestamp, payload, listener.now_s)
        assert len(listener.microphone._held) <= MAX_HELD
        if listener.microphone.due_s is not None:
            listener.microphone.expire(listener.now_s)
    listener.microphone.expire(listener.now_s + HOLD_S)
    assert listener.microphone.due_s is None
    assert len(listener.sound) <= (BURST_S + 0.3 + MAX_FILL_S) * SOUND_HZ


def test_any_order_within_the_window_gives_the_same_sound() -> None:
    straight = Listener()
    for n in range(40):
        straight.send(n)
    for seed in range(10):
        jitter = [n + delay for n, delay in enumerate(random.Random(seed).choices(range(6), k=40))]
        order = sorted(range(1, 40), key=jitter.__getitem__)
        shuffled = Listener()
        for n in (0, *order):
            shuffled.send(n, wait_s=0.001)
        assert np.array_equal(shuffled.sound, straight.sound)
