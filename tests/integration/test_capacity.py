"""A full server refuses at once, says when to come again, and takes the next one when there is room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import next_event, session, speech
from tests.integration.navtalk_client import navtalk
from tests.integration.test_resume import cut
from tests.realtime_call import bearer, mint
from tests.server import METRICS_S, Server, animator, running

pytestmark = pytest.mark.integration

GRACE_S = 3.0
LINK = "lnk_fullhouse"


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    """A server with room for two."""
    args = {
        "model": "tracer",
        "animators": {"tracer": animator()},
        "rooms": {"livekit_url": "ws://127.0.0.1:9", "livekit_api_key": "key", "links": [{"id": LINK}]},
        "session": {
            "max_sessions_per_host": 2,
            "resume_grace_s": GRACE_S,
            "negotiation_timeout_s": 6.0,
            "retry_after_s": 2.0,
        },
    }
    with running(args, environ={"LIVEKIT_API_SECRET": "a secret of a test, longer than 32"}) as server:
        yield server


async def refusal(server: Server) -> tuple[dict[str, Any], int | None]:
    """Return the first message and the close code."""
    async with websockets.connect(server.url(), open_timeout=10, proxy=None) as socket:
        message = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if message["type"] != "connection.established":
            await asyncio.wait_for(socket.wait_closed(), 5)
        return message, socket.close_code


async def admitted(server: Server, timeout_s: float) -> float:
    """Return after how long a socket was given a session."""
    began_s = time.monotonic()
    while (await refusal(server))[0]["type"] != "connection.established":
        assert time.monotonic() - began_s < timeout_s, "expected room, found none"
        await asyncio.sleep(0.2)
    return time.monotonic() - began_s


def reported_refusals(server: Server) -> float:
    """Wait for the metric to reach Ray's port."""
    deadline_s = time.monotonic() + METRICS_S
    while (
        not (refused := server.metric("ray_avatar_sessions_refused_total")) and time.monotonic() < deadline_s
    ):
        time.sleep(0.5)
    return refused


async def test_third_client_is_refused_at_once_and_the_others_do_not_notice(small_server: Server) -> None:
    said = speech(2.0, seed=40)
    async with (
        session(small_server.url()) as (client, listener, inbox),
        session(small_server.url()),
    ):
        await client.speak(said, SPEECH_HZ)
        began_s = time.monotonic()
        message, close_code = await refusal(small_server)
        took_s = time.monotonic() - began_s
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert message["type"] == "error"
    assert message["details"] == {"code": "SRV_5001", "retry_after_s": 2.0}
    assert message["session_id"] is None
    assert close_code == 1013
    assert took_s < 1.0
    assert await asyncio.to_thread(reported_refusals, small_server) >= 1
    assert listener.find(said).is_whole


async def test_every_door_refuses_in_its_own_words(small_server: Server) -> None:
    await admitted(small_server, GRACE_S + 10)
    async with (
        session(small_server.url()),
        session(small_server.url()),
        httpx.AsyncClient(base_url=small_server.http) as http,
    ):
        created = await http.post("/v1/sessions", json={})
        sdp = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
        secret = await mint(small_server.http)
        for _ in range(2):
            # The key of a call that found no room is not used up.
            called = await http.post(
                "/v1/realtime/calls",
                content=sdp,
                headers={**bearer(secret), "content-type": "application/sdp"},
            )
            assert (called.status_code, called.json()["error"]["code"]) == (503, "session_limit_reached")
        linked = await http.post("/v1/links/start-session", json={"link_id": LINK})
        offered = await http.post("/api/offer", json={"sdp": sdp, "type": "offer"})
        async with navtalk(small_server, None, name="navtalk.Leo") as client:
            assert (await client.closed())[0] == 1013
        address = f"ws://127.0.0.1:{small_server.port}/v1/realtime?model=gpt-realtime"
        async with websockets.connect(address, proxy=None) as socket:
            told = json.loads(await asyncio.wait_for(socket.recv(), 5))
            await asyncio.wait_for(socket.wait_closed(), 5)
    assert (created.status_code, created.json()["error"]["code"]) == (503, "NO_CAPACITY")
    assert (linked.status_code, linked.json()["error"]["code"]) == (503, "NO_CAPACITY")
    assert offered.status_code == 503
    for refused in (called, created, linked, offered):
        assert refused.headers["retry-after"] == "2"
    assert client.types() == ["conversation.connected.gpu_full"]
    assert (told["error"]["code"], socket.close_code) == ("session_limit_reached", 1013)


async def test_room_is_given_back_when_a_client_says_goodbye(small_server: Server) -> None:
    await admitted(small_server, GRACE_S + 10)
    async with session(small_server.url()), session(small_server.url()):
        assert (await refusal(small_server))[1] == 1013
    took_s = await admitted(small_server, 10)
    assert took_s < GRACE_S


async def test_room_of_a_client_that_vanished_is_given_back_after_its_grace(small_server: Server) -> None:
    await admitted(small_server, 10)
    async with session(small_server.url()), session(small_server.url()) as (gone, _, _):
        gone._may_resume = False
        cut(gone)
        await asyncio.sleep(0.3)
        assert (await refusal(small_server))[1] == 1013
        assert await admitted(small_server, GRACE_S + 10) > 0.5


async def test_room_of_a_session_that_could_not_be_opened_is_given_back(small_server: Server) -> None:
    await admitted(small_server, 10)
    for _ in range(4):
        url = small_server.url(avatar="nobody")
        async with websockets.connect(url, open_timeout=10, proxy=None) as socket:
            assert json.loads(await socket.recv())["type"] == "error"
            await asyncio.wait_for(socket.wait_closed(), 5)
            assert socket.close_code == 4404
    async with session(small_server.url()), session(small_server.url()):
        pass


async def test_client_that_never_offers_is_told_and_its_room_given_back(small_server: Server) -> None:
    await admitted(small_server, 10)
    async with websockets.connect(small_server.url(), open_timeout=10, proxy=None) as socket:
        messages = [json.loads(message) async for message in _until_closed(socket)]
        assert socket.close_code == 4408
    assert messages[-1]["details"]["code"] == "WS_1001"
    async with session(small_server.url()):
        await admitted(small_server, 10)


async def _until_closed(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    async with asyncio.timeout(20):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                yield await socket.recv()
