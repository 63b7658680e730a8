import asyncio
from typing import Any

import pytest
from pyee.asyncio import AsyncIOEventEmitter

from serve_app.errors import ClientError
from serve_app.rtc.channel import (
    MAX_BUFFERED_BYTES,
    MAX_QUEUED,
    MESSAGES_AT_ONCE,
    MESSAGES_PER_S,
    EventChannel,
)
from tests.clocks import SleeplessClock
from tests.unit.rtc.callers import Heard

pytestmark = pytest.mark.unit


class Wire(AsyncIOEventEmitter):
    """Stands for aiortc's RTCDataChannel, with a buffer that empties when the test says so."""

    def __init__(self, label: str = "oai-events") -> None:
        super().__init__()
        self.label = label
        self.readyState = "open"
        self.bufferedAmount = 0
        self.sent: list[str] = []

    def send(self, text: str) -> None:
        self.sent.append(text)
        self.bufferedAmount += len(text)

    def flush(self) -> None:
        self.bufferedAmount = 0
        self.emit("bufferedamountlow")

    def hang_up(self) -> None:
        self.readyState = "closed"
        self.emit("close")


class Side:
    def __init__(self) -> None:
        self.heard = Heard()
        self.failures: list[str] = []
        self.watch = SleeplessClock(0.0)
        self.events = EventChannel(self.heard, self.watch, self.failures.append)

    def take(self, label: str = "oai-events") -> Wire:
        wire = Wire(label)
        channel: Any = wire
        self.events.take(channel)
        return wire


def test_events_wait_for_the_channel_and_keep_their_order() -> None:
    side = Side()
    side.events.send("0")
    side.events.negotiated(1000)
    for n in range(1, 5):
        side.events.send(str(n))
    wire = side.take()
    side.events.send("5")
    assert wire.sent == ["0", "1", "2", "3", "4", "5"]
    assert side.heard.happened == ["opened"]


def test_messages_come_in_order_until_the_channel_closes() -> None:
    side = Side()
    wire = side.take()
    wire.emit("message", "one")
    wire.emit("message", b"two")
    wire.emit("message", "three")
    wire.hang_up()
    side.events.send("lost")
    assert side.heard.happened == ["opened", "message", "message", "closed"]
    assert side.heard.messages == ["one", "three"]
    assert not wire.sent
    again = side.take()
    side.events.send("back")
    assert again.sent == ["back"]


def test_other_channels_are_ignored_without_their_name(caplog: pytest.LogCaptureFixture) -> None:
    side = Side()
    other = side.take("secret plans")
    other.emit("message", "hello")
    first, second = side.take(), side.take()
    side.events.send("x")
    assert (first.sent, second.sent, other.sent) == (["x"], [], [])
    assert not side.heard.messages
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("limit", "size"), [(1000, 1001), (10**9, 262_145)])
def test_an_event_that_is_too_long_is_refused(limit: int, size: int) -> None:
    side = Side()
    side.events.negotiated(limit)
    wire = side.take()
    with pytest.raises(ClientError, match=str(size)):
        side.events.send("é" * (size // 2) + "e" * (size % 2))
    side.events.send("fine")
    assert wire.sent == ["fine"]
    assert not side.failures


def test_an_event_that_turns_out_too_long_fails_the_peer() -> None:
    side = Side()
    side.events.send("x" * 2000)
    side.events.negotiated(1000)
    side.take()
    assert "2000" in side.failures[0]


def test_without_data_channels_events_go_nowhere() -> None:
    side = Side()
    side.events.negotiated(None)
    for _ in range(2 * MAX_QUEUED):
        side.events.send("x")
    assert not side.failures


@pytest.mark.parametrize(("count", "size"), [(MAX_QUEUED + 1, 1), (11, 100_000)])
def test_a_channel_that_never_opens_fails_the_peer(count: int, size: int) -> None:
    side = Side()
    side.events.negotiated(262_144)
    for _ in range(count - 1):
        side.events.send("x" * size)
    assert not side.failures
    for _ in range(5):
        side.events.send("x" * size)
    assert len(side.failures) == 1
    assert "createDataChannel('oai-events')" in side.failures[0]


def test_a_client_that_does_not_read_fails_the_peer() -> None:
    side = Side()
    side.events.negotiated(0x40000)
    wire = side.take()
    for _ in range(MAX_BUFFERED_BYTES // 0x40000):
        side.events.send("x" * 0x40000)
    assert not side.failures
    side.events.send("x")
    side.events.send("x")
    assert len(side.failures) == 1
    assert "does not read" in side.failures[0]
    assert len(wire.sent) == 16


def test_a_client_may_burst_but_not_flood() -> None:
    side = Side()
    wire = side.take()
    for _ in range(MESSAGES_AT_ONCE):
        wire.emit("message", "x")
    side.watch.s += 1
    for _ in range(MESSAGES_PER_S):
        wire.emit("message", "x")
    assert not side.failures
    wire.emit("message", "x")
    wire.emit("message", "x")
    assert len(side.failures) == 1
    assert len(side.heard.messages) == MESSAGES_AT_ONCE + MESSAGES_PER_S


def test_a_listener_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    side = Side()
    side.heard.fails = True
    wire = side.take()
    wire.emit("message", "one")
    wire.emit("message", "two")
    assert side.heard.messages == ["one", "two"]
    assert "one" not in [record.getMessage() for record in caplog.records]


async def test_the_last_events_have_a_moment_to_leave() -> None:
    side = Side()
    wire = side.take()
    side.events.send("bye")
    asyncio.get_running_loop().call_later(0.02, wire.flush)
    await asyncio.wait_for(side.events.drain(), 0.15)
    side.events.send("late")
    assert wire.sent == ["bye"]
    stuck = Side()
    stuck.take()
    stuck.events.send("bye")
    await asyncio.wait_for(stuck.events.drain(), 1)
