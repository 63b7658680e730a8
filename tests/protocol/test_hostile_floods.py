"""Floods that keep to the limit of messages: what they may hold in memory is bounded, and speech goes on."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from serve_app.gateway.door_socket import SocketLimits
from tests.fakes import FakeSessionLink, FakeSessionOpener
from tests.protocol.test_a2v import CANDIDATE, ID, OFFER, RawSocket, b64
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.protocol

NUMBER = 3_000
WIDE = SocketLimits(messages_per_s=1e6, burst_messages=NUMBER * 4)
SOUND = bytes(range(256)) * 125
"""One second of PCM."""


class Flooded:
    """A socket at the door whose client sends as fast as it can."""

    def __init__(self, link: FakeSessionLink) -> None:
        self.link = link
        self.socket = RawSocket()
        self.task = self.socket.serve(FakeSessionOpener(link), WIDE)
        self.marks = 0

    def send(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"type": kind, "session_id": ID, **fields})
        self.socket.inbound.put_nowait({"type": "websocket.receive", "text": text})

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(message["text"]) for message in self.socket.outbound if "text" in message]

    async def settled(self) -> None:
        """Return when everything sent before has been handled."""
        self.mark()
        await until(lambda: self.is_handled or self.task.done(), 30)
        assert not self.task.done(), "expected an open socket"

    def mark(self) -> None:
        """Send a message that is refused by its name."""
        self.marks += 1
        self.send(f"mark {self.marks}")

    @property
    def is_handled(self) -> bool:
        """Whether the last mark was answered."""
        return any(f"'mark {self.marks}'" in message.get("text", "") for message in self.socket.outbound[-3:])

    async def speaks(self) -> None:
        """Expect the door to take speech still."""
        before = sum(utterance.num_samples for utterance in self.link.utterances)
        self.send("agent.speak", audio=b64(SOUND), format="pcm", chunk_index=10 * NUMBER)
        await self.settled()
        assert sum(utterance.num_samples for utterance in self.link.utterances) - before == len(SOUND) // 2

    async def leave(self) -> None:
        self.socket.inbound.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await asyncio.wait_for(self.task, 5)
        assert await asyncio.to_thread(self.link.detached.wait, 5)


async def test_chunks_without_sound_speak_nothing_and_hold_nothing() -> None:
    flooded = Flooded(FakeSessionLink())
    flooded.send("agent.audio.chunk", chunk="", chunk_index=0, is_first=True)
    await flooded.settled()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(1, NUMBER):
            flooded.send("agent.audio.chunk", chunk="", chunk_index=index)
        await flooded.settled()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    answered = sum(len(message.get("text", "")) for message in flooded.socket.outbound)
    assert held < 3 * answered + 1_000_000
    assert not sum(utterance.num_samples for utterance in flooded.link.utterances)
    flooded.send("agent.interrupt")
    await flooded.speaks()
    await flooded.leave()


@pytest.mark.parametrize(
    ("kind", "fields", "name"),
    [
        ("webrtc.offer", {"sdp": OFFER}, "answer"),
        ("webrtc.ice_candidate", {"candidate": CANDIDATE}, "add_candidate"),
    ],
)
async def test_signals_wait_in_a_bounded_line_while_one_is_answered(
    kind: str, fields: dict[str, Any], name: str
) -> None:
    link = FakeSessionLink()
    link.hold[name] = asyncio.Event()
    flooded = Flooded(link)
    for _ in range(NUMBER):
        flooded.send(kind, **fields)
    await flooded.settled()
    refused = [event for event in flooded.told() if "waiting signals" in event.get("error", "")]
    assert len(refused) == NUMBER - WIDE.waiting_signals - 1
    assert link.names().count(name) == 1
    await flooded.speaks()
    link.hold[name].set()
    await until(lambda: link.names().count(name) > WIDE.waiting_signals, 30)
    await flooded.leave()
    assert link.names().count(name) == WIDE.waiting_signals + 1


async def test_a_flood_does_not_keep_the_loop_from_others() -> None:
    flooded = Flooded(FakeSessionLink())
    for index in range(NUMBER):
        flooded.send("agent.audio.chunk", chunk=b64(SOUND[:640]), chunk_index=index, is_first=index == 0)
    worst_s = 0.0
    flooded.mark()
    while not flooded.is_handled:
        # The loop's own work, whatever else this machine does.
        began_s = time.thread_time()
        await asyncio.sleep(0)
        worst_s = max(worst_s, time.thread_time() - began_s)
    assert worst_s < 0.05
    assert sum(utterance.num_samples for utterance in flooded.link.utterances) == NUMBER * 320
    await flooded.leave()
