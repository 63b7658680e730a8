"""A new version is deployed under load: gateways, hosts and replicas are all replaced, and nobody is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serve_app.client.a2v import A2vClient
from serve_app.errors import AvatarError
from serve_app.nouns import SPEECH_HZ
from serve_app.session.registry import session_tag
from tests.chaos.conftest import DRAIN_S, House
from tests.chaos.watching import lips_still_s
from tests.integration.listener import find, in_order, session, speech
from tests.server import GATEWAY, HOST, TRACER, Server

pytestmark = pytest.mark.chaos

LONG_S = 20.0
ROLLED_OUT_S = 90.0


class Callers:
    """Opens a short session again and again, and keeps what was refused."""

    def __init__(self, server: Server) -> None:
        self.opened: list[str] = []
        self.refused: list[str] = []
        self.slowest_s = 0.0
        self._server = server

    async def call(self) -> None:
        """Open sessions until cancelled."""
        while True:
            began_s = time.monotonic()
            try:
                async with A2vClient(self._server.url(), timeout_s=30) as client:
                    self.opened.append(client.session_id)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            except AvatarError as error:
                self.refused.append(str(error))
            await asyncio.sleep(1.0)


async def speak_on(server: Server, seed: int, done: asyncio.Event) -> tuple[A2vClient, list[float]]:
    """Speak one long utterance after the other; return when each new socket came."""
    resumed_s: list[float] = []
    async with session(server.url()) as (client, listener, inbox):
        while not done.is_set():
            said = speech(LONG_S, seed=seed)
            await client.speak(said, SPEECH_HZ)
            while (event := await inbox.get()) is not None and event.type != "generation.completed":
                assert event.type != "error", event.message
                if event.type == "connection.established":
                    resumed_s.append(event.received_s)
            assert event is not None, "the session ended"
            await asyncio.sleep(0.3)
            heard = find(said, listener.sound())
            assert heard.is_whole, heard.alike
            assert in_order(listener.indices())
            assert lips_still_s(listener) <= 1.0
            listener.clear()
            seed += 1
    return client, resumed_s


def replaced(server: Server, title: str, before: set[int]) -> bool:
    """Return whether no process with a title is left of those before."""
    now = {worker.pid for worker in server.workers(title)}
    return bool(now) and not now & before


async def test_nobody_is_cut_before_the_drain_limit_and_nobody_is_refused(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    server = house.server
    before = {title: {w.pid for w in server.workers(title)} for title in (GATEWAY, HOST, TRACER)}
    done = asyncio.Event()
    callers = Callers(server)
    speaking = asyncio.create_task(speak_on(server, 1000, done))
    calling = asyncio.create_task(callers.call())
    try:
        await asyncio.sleep(2.0)
        deployed_s = time.monotonic()
        await asyncio.to_thread(server.deploy, {"speech": {"tick_s": 0.09}})
        async with asyncio.timeout(ROLLED_OUT_S):
            while not all(replaced(server, title, before[title]) for title in (GATEWAY, TRACER)):
                assert not speaking.done(), await speaking
                await asyncio.sleep(0.2)
        rolled_out_s = time.monotonic() - deployed_s
        await asyncio.sleep(2.0)
    finally:
        calling.cancel()
        done.set()
    client, resumed_s = await speaking
    async with asyncio.timeout(60):
        while not replaced(server, HOST, before[HOST]):  # noqa: ASYNC110 - the state of other processes
            await asyncio.sleep(0.2)
    record_property("gateways and replicas replaced after", f"{rolled_out_s:.1f} s")
    record_property("socket kept for", f"{resumed_s[0] - deployed_s:.1f} s")
    record_property("sessions opened meanwhile", len(callers.opened))
    record_property("slowest of them", f"{callers.slowest_s:.2f} s")
    assert callers.refused == []
    assert client.resumes == 1
    assert resumed_s[0] - deployed_s >= DRAIN_S
    tags = [session_tag(session_id) for session_id in callers.opened]
    assert tags[0] != tags[-1], "new sessions go to the new hosts"
    assert session_tag(client.session_id) not in tags[-1:], "a session stays where it is"
