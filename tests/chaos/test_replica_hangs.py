"""A replica that hangs instead of dying: others make its windows, and Serve replaces it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serve_app.nouns import SPEECH_HZ
from tests.chaos.conftest import House
from tests.chaos.watching import lips_still_s
from tests.integration.listener import find_pieces, in_order, next_event, session, speech
from tests.server import TRACER

pytestmark = pytest.mark.chaos

REPLACED_S = 60.0
"""Three health checks of 5 s fail, then the replica has 5 s to end; a busy machine takes longer."""


async def test_sound_is_unbroken_while_a_replica_hangs(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    server, said = house.server, speech(8.0, seed=80)
    async with session(server.url()) as (client, listener, inbox):
        streaming = asyncio.create_task(client.stream(said, SPEECH_HZ, chunk_ms=40))
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.0)
        hung = server.workers(TRACER)[0]
        hung.suspend()
        hung_s = time.monotonic()
        try:
            await streaming
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
            heard = find_pieces(said, listener.sound())
            lips, indices = lips_still_s(listener), listener.indices()
            await asyncio.to_thread(server.wait_for, TRACER, 2, without=hung, timeout_s=REPLACED_S)
            replaced_s = time.monotonic() - hung_s
        finally:
            # Serve's own end of it is a SIGKILL, which reaches a suspended process too.
            await asyncio.to_thread(hung.wait, 30)
        assert client.resumes == 0
    record_property("lips still for", f"{lips:.2f} s")
    record_property("sound late by", f"{heard.paused_s:.2f} s")
    record_property("replica replaced after", f"{replaced_s:.1f} s")
    assert heard.is_whole, heard.alike
    assert heard.paused_s < 1.0
    assert in_order(indices)
    assert lips <= 2.5, "two seconds pass before a call counts as lost"
