"""Several nodes: replicas and hosts come and go with the load, each on the nodes that are meant for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from serve_app.client.a2v import A2vClient, DoorError
from serve_app.nouns import SPEECH_HZ
from tests.benchmarks.load import CountingMedia
from tests.cluster import Nodes, NodeSpec
from tests.integration.listener import find_pieces, next_event, session, speech
from tests.server import GATEWAY, HOST, TRACER, Server, running

pytestmark = pytest.mark.integration

SESSIONS = 4
SPOKEN_S = 3.0
SCALED_S = 45.0
"""Longest wait for replicas to come or go; ten seconds on a free machine."""

ENVIRON = {
    # Serve looks at the load every ten seconds otherwise.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # A node without power is noticed after so many lost beats.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
}


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    return Nodes(
        [
            NodeSpec("head", num_cpus=2),
            NodeSpec("media", num_cpus=2, labels={"role": "media"}),
            NodeSpec("gpu one", num_cpus=1, num_gpus=2),
            NodeSpec("gpu two", num_cpus=1, num_gpus=2),
        ]
    )


@pytest.fixture(scope="module")
def server(nodes: Nodes) -> Iterator[Server]:
    args = {
        "model": "tracer",
        "animators": {
            "tracer": {
                "device": "cpu",
                "num_replicas": None,
                "sessions_per_replica": 1,
                "ray_actor_options": {"num_cpus": 0.1, "num_gpus": 1},
                "autoscaling": {
                    "min_replicas": 1,
                    "max_replicas": 4,
                    "look_back_period_s": 2,
                    "upscale_delay_s": 0,
                    "downscale_delay_s": 2,
                },
            }
        },
        "session": {
            "hosts": 1,
            "max_hosts": 2,
            "max_sessions_per_host": 3,
            "spare_places": 2,
            "shrink_after_s": 2.0,
            "host_num_cpus": 0.2,
            "host_labels": {"role": "media"},
            "resume_grace_s": 60.0,
            "retry_after_s": 1.0,
        },
    }
    with running(args, environ=ENVIRON, cluster=nodes.start) as server:
        yield server


async def until(server: Server, title: str, number: int) -> float:
    """Return after how long exactly so many workers with a title ran."""
    began_s = time.monotonic()
    while (found := len(server.workers(title))) != number:
        assert time.monotonic() < began_s + SCALED_S, f"expected {number} of {title}, found {found}"
        await asyncio.sleep(0.2)
    return time.monotonic() - began_s


async def speak_until(server: Server, done: asyncio.Event, seed: int) -> tuple[int, int]:
    """Speak sentence after sentence; return how many were begun and how many were heard to their ends."""
    begun = ended = 0
    async with contextlib.AsyncExitStack() as stack:
        client = await admitted(server, stack)
        inbox = stack.enter_context(client.inbox())
        while not done.is_set():
            begun += 1
            await client.speak(speech(SPOKEN_S, seed=seed), SPEECH_HZ)
            completed = await next_event(inbox, "generation.completed")
            ended += completed.message["played_ms"] == SPOKEN_S * 1000
        assert client.resumes == 0
    return begun, ended


async def admitted(server: Server, stack: contextlib.AsyncExitStack) -> A2vClient:
    """Open a session; one that is refused comes again when it is told to, while a host starts."""
    began_s = time.monotonic()
    while True:
        try:
            return await stack.enter_async_context(
                A2vClient(server.url(), media=CountingMedia(), timeout_s=60)
            )
        except DoorError as refused:
            if refused.retry_after_s is None or time.monotonic() > began_s + SCALED_S:
                raise
            await asyncio.sleep(refused.retry_after_s)


async def speak_and_listen(server: Server, done: asyncio.Event) -> float:
    """Speak sentence after sentence, and hear each of them whole; return the longest pause within one."""
    paused_s = 0.0
    async with session(server.url()) as (client, listener, inbox):
        while not done.is_set():
            said = speech(SPOKEN_S, seed=7)
            await client.speak(said, SPEECH_HZ)
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
            heard = find_pieces(said, listener.sound())
            assert heard.is_whole, heard.alike
            paused_s = max(paused_s, heard.paused_s)
            listener.clear()
        assert client.resumes == 0
    return paused_s


async def test_replicas_and_hosts_follow_the_load_and_no_session_is_hurt(
    server: Server, nodes: Nodes, record_property: Callable[[str, object], None]
) -> None:
    assert (len(server.workers(TRACER)), len(server.workers(HOST))) == (1, 1)
    assert nodes.where(server.workers(HOST)[0]) == "media"
    done = asyncio.Event()
    listening = asyncio.create_task(speak_and_listen(server, done))
    counting = []
    for seed in range(1, SESSIONS):
        await asyncio.sleep(1.0)
        counting.append(asyncio.create_task(speak_until(server, done, seed)))
    try:
        record_property("four replicas after", f"{await until(server, TRACER, 4):.1f} s")
        await until(server, HOST, 2)
        assert {nodes.where(worker) for worker in server.workers(TRACER)} == {"gpu one", "gpu two"}
        assert {nodes.where(worker) for worker in server.workers(HOST)} == {"media"}
    finally:
        done.set()
        await asyncio.wait([listening, *counting])
    record_property("longest pause in speech", f"{await listening * 1000:.0f} ms")
    counted = [await task for task in counting]
    record_property("one replica after", f"{await until(server, TRACER, 1):.1f} s")
    await until(server, HOST, 1)
    for begun, ended in counted:
        assert begun == ended


async def test_a_host_that_drains_keeps_its_sessions_and_takes_no_new_ones(server: Server) -> None:
    async with (
        session(server.url()),
        session(server.url()),
        session(server.url()),
    ):
        await until(server, HOST, 2)
    # All have gone but none is missed: the pool shrinks under a session that stays.
    said = speech(SPOKEN_S, seed=8)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(said, SPEECH_HZ)
        await until(server, HOST, 1)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == 0
    assert listener.find(said).is_whole


async def test_a_node_dies_under_its_replica_and_the_sound_is_whole(
    server: Server, nodes: Nodes, record_property: Callable[[str, object], None]
) -> None:
    said = speech(8.0, seed=9)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        name = nodes.where(server.workers(TRACER)[0])
        has_gateway = nodes.where(server.workers(GATEWAY)[0]) == name
        await asyncio.to_thread(nodes.remove, name)
        gone_s = time.monotonic()
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        # Gateways run on any node; one that dies with the replica costs its clients a resume.
        assert has_gateway or client.resumes == 0
        while not server.workers(TRACER) or nodes.where(server.workers(TRACER)[0]) == name:
            assert time.monotonic() < gone_s + SCALED_S
            await asyncio.sleep(0.2)
    record_property("a replica on another node after", f"{time.monotonic() - gone_s:.1f} s")
    assert listener.find(said).is_whole


async def test_the_media_node_dies_and_its_clients_come_back_elsewhere(
    server: Server, nodes: Nodes, record_property: Callable[[str, object], None]
) -> None:
    said = speech(SPOKEN_S, seed=10)
    async with session(server.url()) as (client, listener, inbox):
        session_id = client.session_id
        await asyncio.to_thread(nodes.remove, "media")
        gone_s = time.monotonic()
        while client.session_id == session_id or (client.moments.media_s or 0) < gone_s:
            assert time.monotonic() < gone_s + SCALED_S, "expected the client to come back"
            await asyncio.sleep(0.05)
        record_property("picture of a new session after", f"{time.monotonic() - gone_s:.1f} s")
        listener.clear()
        while not inbox.empty():
            inbox.get_nowait()
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert {nodes.where(worker) for worker in server.workers(HOST)} != {"media"}
    assert listener.find(said).is_whole
