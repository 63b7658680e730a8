"""The Gateway or the SessionHost is killed in mid-utterance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serve_app.client.a2v import A2vClient
from serve_app.errors import AvatarError
from serve_app.nouns import SPEECH_HZ, Int16
from tests.integration.listener import Listener, find, in_order, next_event, session, speech
from tests.server import GATEWAY, HOST, REGISTRY, Server

pytestmark = pytest.mark.chaos

RESCUES = "ray_avatar_window_rescues_total"


async def test_long_utterance_plays_to_its_end_without_the_gateway_that_took_it(
    single: Server, record_property: Callable[[str, object], None]
) -> None:
    server, said, after = single, speech(10.0, seed=60), speech(1.5, seed=61)
    rescued = await asyncio.to_thread(server.metric, RESCUES)
    async with session(server.url()) as (client, listener, inbox):
        session_id = client.session_id
        spoken = await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.0)
        killed_s = time.monotonic()
        server.kill(GATEWAY)
        established = await next_event(inbox, "connection.established")
        resumed_s = established.received_s - killed_s
        completed = await next_event(inbox, "generation.completed")
        rescues = await asyncio.to_thread(server.metric, RESCUES) - rescued
        await client.speak(after, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    record_property("session resumed after", f"{resumed_s:.2f} s")
    record_property("longest wait for a picture", f"{listener.worst_picture_gap_s() * 1000:.0f} ms")
    assert established.message["resumed"] is True
    assert client.session_id == session_id
    assert client.resumes == 1
    assert completed.message["chunk_index"] == spoken.chunk_index
    assert completed.message["played_ms"] == 10_000
    sound = listener.sound()
    assert find(said, sound).is_whole
    assert find(after, sound).is_whole
    ending = next(n for n, index in enumerate(listener.indices()) if index > 290)
    shown = listener.indices()[:ending]
    assert in_order(shown)
    assert len(set(shown)) > 0.9 * 290
    assert listener.worst_picture_gap_s() < 0.5
    assert rescues > 0
    assert resumed_s < 5.0


async def test_sessions_go_on_and_open_without_the_registry_that_counted_them(
    single: Server, record_property: Callable[[str, object], None]
) -> None:
    server, said, after = single, speech(4.0, seed=64), speech(1.5, seed=65)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        killed_s = time.monotonic()
        server.kill(REGISTRY)
        async with asyncio.timeout(20):
            fresh, fresh_listener = await a_new_session(server, after)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == 0
    assert fresh.moments.media_s is not None
    record_property("new session after", f"{fresh.moments.media_s - killed_s:.2f} s")
    assert listener.find(said).is_whole
    assert fresh_listener.find(after).is_whole


async def test_client_of_a_dead_host_is_told_and_a_new_session_opens(
    single: Server, record_property: Callable[[str, object], None]
) -> None:
    server, said = single, speech(1.5, seed=62)
    async with session(server.url()) as (client, _, inbox):
        client._may_resume = False
        await client.speak(speech(6.0, seed=63), SPEECH_HZ)
        await next_event(inbox, "generation.started")
        killed_s = time.monotonic()
        server.kill(HOST)
        errors = []
        async with asyncio.timeout(20):
            while (event := await inbox.get()) is not None:
                errors += [event.message["details"]["code"]] if event.type == "error" else []
        told_s = time.monotonic() - killed_s
        assert client._socket is not None
        assert client._socket.close_code == 1012
        assert errors[-1:] == ["WS_1001"]
        async with asyncio.timeout(20):
            fresh, listener = await a_new_session(server, said)
        assert fresh.moments.media_s is not None
        opened_s = fresh.moments.media_s - killed_s
        assert fresh.session_id != client.session_id
    record_property("client told after", f"{told_s:.2f} s")
    record_property("new session after", f"{opened_s:.2f} s")
    assert listener.find(said).is_whole
    assert told_s < 5.0
    assert opened_s < 5.0


async def a_new_session(server: Server, said: Int16) -> tuple[A2vClient, Listener]:
    """Speak in a new session, as soon as there is room for one."""
    while True:
        try:
            async with session(server.url()) as (client, listener, inbox):
                await client.speak(said, SPEECH_HZ)
                await next_event(inbox, "generation.completed")
                await asyncio.sleep(0.3)
                return client, listener
        except AvatarError:
            await asyncio.sleep(0.2)
