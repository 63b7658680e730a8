"""A call whose host, gateway or caller is suddenly gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from serve_app.session.lifetime import PEER_GRACE_S
from tests.integration.echoes import assert_echoed
from tests.integration.listener import listening
from tests.realtime_call import calling, hang_up, joining, mint, spoken
from tests.server import GATEWAY, HOST, Server, animator, running

pytestmark = pytest.mark.chaos

CONSENT_S = 36.0
"""A peer without answers to its consent checks is given up after about half a minute (RFC 7675)."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Nothing on a call's way but room for one, so that a place which is not given back is missed.
    args = {
        "model": "tracer",
        "animators": {"tracer": animator()},
        "session": {"max_sessions_per_host": 1, "retry_after_s": 1.0},
    }
    with running(args) as server:
        yield server


async def reconnected(server: Server, timeout_s: float) -> float:
    """Return after how long a new call was answered and spoken to."""
    began_s = time.monotonic()
    while True:
        try:
            async with calling(server.http, with_microphone=False) as call:
                call.type_text("Hello again.")
                await call.until("output_audio_buffer.stopped")
                return time.monotonic() - began_s
        except (httpx.HTTPError, AssertionError):
            assert time.monotonic() - began_s < timeout_s, "expected a new call, found none"
            await asyncio.sleep(0.2)


async def test_a_call_goes_on_without_the_gateway_that_opened_it(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    said = spoken("Good morning, can you hear me?")
    secret = await mint(server.http)
    async with (
        listening() as (listener, receiver),
        joining(f"{server.http}/v1/realtime/calls", secret, receiver=receiver) as call,
    ):
        gone = server.kill(GATEWAY)
        await call.say(said)
        await call.until("output_audio_buffer.stopped")
        assert_echoed(listener, said)
        record_property("longest wait for a picture", f"{listener.worst_picture_gap_s() * 1000:.0f} ms")
        await asyncio.to_thread(server.wait_for, GATEWAY, 1, without=gone)
        await asyncio.to_thread(server.wait_until_ready)
        assert call.peer.connectionState == "connected"
        assert await hang_up(server.http, call.call_id) == 200
        await call.lost(5)
    await reconnected(server, 10)


async def test_dead_hosts_are_noticed_and_places_of_dead_callers_given_back(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    async with calling(server.http, with_microphone=False) as call:
        call.type_text("This is a long answer, which goes on and on. " * 3)
        await call.until("output_audio_buffer.started")
        server.kill(HOST)
        record_property("new call after", f"{await reconnected(server, 30):.2f} s")
        # A killed process closes nothing: its caller goes by its own consent checks. They take half a
        # minute, and so does the other direction, which is waited for meanwhile.
        async with asyncio.TaskGroup() as both:
            both.create_task(call.lost(CONSENT_S))
            given_back = both.create_task(place_given_back(server))
        record_property("session ended after", f"{given_back.result():.0f} s")
    await reconnected(server, 10)


async def place_given_back(server: Server) -> float:
    """Call, and return how long after a loss of power the server had forgotten the call."""
    secret = await mint(server.http)
    async with joining(f"{server.http}/v1/realtime/calls", secret, with_microphone=False) as call:
        call.vanish()
        vanished_s = time.monotonic()
        session_id = call.call_id.replace("rtc_", "sess_")
        async with httpx.AsyncClient(base_url=server.http) as http:
            await asyncio.sleep(2)
            assert (await http.get(f"/v1/sessions/{session_id}")).status_code == 200
            while (await http.get(f"/v1/sessions/{session_id}")).status_code == 200:
                assert time.monotonic() - vanished_s < CONSENT_S + PEER_GRACE_S + 5
                await asyncio.sleep(0.5)
        return time.monotonic() - vanished_s
