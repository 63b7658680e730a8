"""Production's proxy: HAProxy is killed, and its configuration reloaded while sockets are open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from serve_app.nouns import SPEECH_HZ
from tests.chaos.conftest import ENVIRON
from tests.integration.listener import in_order, next_event, session, speech
from tests.server import GATEWAY, Server, animator, running

pytestmark = pytest.mark.chaos

MAX_GAP_S = 0.5
RESUMED_S = 20.0
RELOADED_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    args = {
        "model": "tracer",
        "animators": {"tracer": animator()},
        "session": {"host_num_cpus": 0.2, "resume_grace_s": 60.0},
    }
    with contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)) as log:
        # HAProxy does not start where nobody listens to its log.
        log.bind(("127.0.0.1", 0))
        environ = {
            **ENVIRON,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_LOG_TARGET": f"127.0.0.1:{log.getsockname()[1]} local0 notice #",
            "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
        }
        with running(args, environ=environ) as server:
            yield server


def haproxies(server: Server) -> list[psutil.Process]:
    """Return the running HAProxy processes; a reload leaves one with the old sockets beside the new one."""
    return [process for process in server.processes() if process.name() == "haproxy"]


async def test_a_reload_of_haproxy_cuts_no_socket(server: Server) -> None:
    said = speech(3.0, seed=97)
    before = server.workers(GATEWAY)
    async with session(server.url()) as (client, listener, inbox):
        # Another gateway makes Serve write a new list of servers, which HAProxy takes by a reload.
        await asyncio.to_thread(server.deploy, deployments={"Gateway": {"num_replicas": 2}})
        await asyncio.to_thread(server.wait_for, GATEWAY, 1, without=before[0])
        async with asyncio.timeout(RELOADED_S):
            while len(haproxies(server)) < 2:  # noqa: ASYNC110 - the state of other processes
                await asyncio.sleep(0.2)
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == 0
    assert listener.find(said).is_whole
    assert listener.worst_picture_gap_s() < MAX_GAP_S


async def test_media_play_on_without_haproxy_and_the_session_is_found_again(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    said, after = speech(6.0, seed=98), speech(1.5, seed=99)
    await asyncio.to_thread(server.wait_until_ready)
    async with session(server.url()) as (client, listener, inbox):
        session_id = client.session_id
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(0.5)
        for process in haproxies(server):
            process.kill()
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
