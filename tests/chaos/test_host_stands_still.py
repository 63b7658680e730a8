"""A host whose process stands still for a while: no session hangs, and what is said goes on."""

from __future__ import annotations

import asyncio
import random

import pytest

from serve_app.client.a2v import A2vClient
from serve_app.nouns import SPEECH_HZ
from tests.benchmarks.load import CountingMedia
from tests.integration.listener import next_event, speech
from tests.server import HOST, Server

pytestmark = pytest.mark.chaos

SESSIONS = 4
STALLS = 5
STALL_S = 1.5, 2.5
"""Long enough for many deliveries to wait; Ray starts those that waited in any order."""


async def speak_until(server: Server, seed: int, quiet: asyncio.Event) -> int:
    """Stream utterances one after the other, each to its end; return how many."""
    said = speech(3.0, seed=seed)
    count = 0
    async with A2vClient(server.url(), media=CountingMedia(), timeout_s=30) as client:
        with client.inbox() as inbox:
            while not quiet.is_set():
                await client.stream(said, SPEECH_HZ, chunk_ms=40)
                ended = await next_event(inbox, "generation.completed")
                assert ended.type == "generation.completed"
                count += 1
        assert client.resumes == 0
    return count


async def test_every_utterance_ends_though_the_host_stands_still(single: Server) -> None:
    chance, quiet = random.Random(5), asyncio.Event()
    host = single.workers(HOST)[0]
    async with asyncio.TaskGroup() as group:
        spoken = [group.create_task(speak_until(single, 90 + number, quiet)) for number in range(SESSIONS)]
        for _ in range(STALLS):
            await asyncio.sleep(chance.uniform(2.0, 4.0))
            host.suspend()
            await asyncio.sleep(chance.uniform(*STALL_S))
            host.resume()
        quiet.set()
    assert min(task.result() for task in spoken) >= 2
