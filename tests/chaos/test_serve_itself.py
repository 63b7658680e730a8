"""Serve's own processes are killed: media never pass through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serve_app.nouns import SPEECH_HZ
from tests.chaos.conftest import House
from tests.integration.listener import in_order, next_event, session, speech
from tests.server import CONTROLLER, PROXY

pytestmark = pytest.mark.chaos

MAX_GAP_S = 0.5
"""Longest time without a picture that still counts as media that never stopped."""

RESUMED_S = 15.0
"""Some two seconds on a free machine: three checks of a third of a second, and the start of a proxy."""


async def test_nothing_notices_that_the_controller_dies(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    server, said, after = house.server, speech(4.0, seed=90), speech(1.5, seed=91)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        dead = server.kill(CONTROLLER)
        killed_s = time.monotonic()
        # A new session is opened while nobody controls.
        async with session(server.url()) as (fresh, fresh_listener, fresh_inbox):
            assert fresh.moments.media_s is not None
            opened_s = fresh.moments.media_s - killed_s
            await fresh.speak(after, SPEECH_HZ)
            await next_event(fresh_inbox, "generation.completed")
            await asyncio.sleep(0.3)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == fresh.resumes == 0
    await asyncio.to_thread(server.wait_for, CONTROLLER, 1, without=dead)
    record_property("new session after", f"{opened_s:.2f} s")
    record_property("longest wait for a picture", f"{listener.worst_picture_gap_s() * 1000:.0f} ms")
    assert listener.find(said).is_whole
    assert fresh_listener.find(after).is_whole
    assert listener.worst_picture_gap_s() < MAX_GAP_S


async def test_media_play_on_without_the_proxy_and_the_session_is_found_again(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    server, said, after = house.server, speech(6.0, seed=92), speech(1.5, seed=93)
    async with session(server.url()) as (client, listener, inbox):
        session_id = client.session_id
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(0.5)
        server.kill(PROXY)
        killed_s = time.monotonic()
        established = await next_event(inbox, "connection.established", RESUMED_S)
        await next_event(inbox, "generation.completed")
        indices = listener.indices()
        await client.speak(after, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    record_property("session resumed after", f"{established.received_s - killed_s:.2f} s")
    record_property("longest wait for a picture", f"{listener.worst_picture_gap_s() * 1000:.0f} ms")
    assert established.message["resumed"] is True
    assert client.session_id == session_id
    assert listener.find(said).is_whole
    assert listener.find(after).is_whole
    assert in_order(indices)
    assert listener.worst_picture_gap_s() < MAX_GAP_S
