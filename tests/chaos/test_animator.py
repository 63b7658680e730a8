"""An Animator replica is killed in mid-utterance: its windows are made again, and the sound never notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
import pytest

from serve_app.nouns import SPEECH_HZ
from tests.chaos.conftest import House
from tests.chaos.watching import lips_still_s
from tests.integration.listener import (
    find,
    find_pieces,
    in_order,
    next_event,
    session,
    speech,
)
from tests.server import TRACER, Server

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module", params=[1, 2], ids=["one replica", "two replicas"])
def num_replicas(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def server(num_replicas: int, request: pytest.FixtureRequest) -> Server:
    if num_replicas == 1:
        single: Server = request.getfixturevalue("single")
        return single
    house: House = request.getfixturevalue("house")
    return house.server


async def replaced(server: Server, killed: psutil.Process, num_replicas: int) -> None:
    """Wait until as many replicas run as before."""
    await asyncio.to_thread(server.wait_for, TRACER, num_replicas, without=killed)
    await asyncio.to_thread(server.wait_until_ready)


async def test_sound_is_unbroken_and_lips_come_back(
    server: Server, num_replicas: int, record_property: Callable[[str, object], None]
) -> None:
    said, after = speech(8.0, seed=50), speech(1.5, seed=51)
    async with session(server.url()) as (client, listener, inbox):
        spoken = await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.0)
        killed = server.kill(TRACER)
        completed = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        lips, indices = lips_still_s(listener), listener.indices()
        await replaced(server, killed, num_replicas)
        await client.speak(after, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == 0
    record_property("lips still for", f"{lips:.2f} s")
    assert completed.message["chunk_index"] == spoken.chunk_index
    assert completed.message["played_ms"] == 8000
    sound = listener.sound()
    assert find(said, sound).is_whole
    assert find(after, sound).is_whole
    assert in_order(indices)
    assert lips <= 1.0


async def test_live_stream_goes_on(
    server: Server, num_replicas: int, record_property: Callable[[str, object], None]
) -> None:
    said = speech(6.0, seed=52)
    async with session(server.url()) as (client, listener, inbox):
        streaming = asyncio.create_task(client.stream(said, SPEECH_HZ, chunk_ms=40))
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.5)
        killed = server.kill(TRACER)
        await streaming
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        heard = find_pieces(said, listener.sound())
        lips, indices = lips_still_s(listener), listener.indices()
        await replaced(server, killed, num_replicas)
    record_property("sound late by", f"{heard.paused_s:.2f} s")
    record_property("lips still for", f"{lips:.2f} s")
    assert heard.is_whole, heard.alike
    assert heard.paused_s < 1.0
    assert in_order(indices)
