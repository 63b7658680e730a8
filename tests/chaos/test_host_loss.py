"""A session host is killed: its clients come back by themselves, and those of another notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from serve_app.client.a2v import A2vClient
from serve_app.nouns import SPEECH_HZ
from serve_app.session.registry import session_tag
from tests.chaos.conftest import House
from tests.integration.listener import next_event, session, speech
from tests.server import HOST

pytestmark = pytest.mark.chaos

BACK_S = 5.0
"""The aim is 2 s; a shared machine takes longer now and then."""
AFTERWARDS_S = 5.0
"""How long the neighbours are watched: the new host starts meanwhile."""

MAX_GAP_S = 0.25
"""The aim is 60 ms; a shared machine also waits for its processors while the new host starts."""


async def back(client: A2vClient, session_id: str, since_s: float) -> float:
    """Return when the client shows a picture of another session."""
    async with asyncio.timeout(20):
        with client.inbox() as inbox:
            while client.session_id == session_id:
                await inbox.get()
        while (client.moments.media_s or 0.0) < since_s:  # noqa: ASYNC110 - a moment, not an event
            await asyncio.sleep(0.01)
    return client.moments.media_s or 0.0


async def test_clients_of_a_dead_host_are_back_and_neighbours_notice_nothing(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    server, said, after = house.server, speech(9.0, seed=70), speech(1.5, seed=71)
    async with (
        session(server.url()) as (one, one_listener, one_inbox),
        session(server.url()) as (other, other_listener, other_inbox),
    ):
        await one.speak(said, SPEECH_HZ)
        await other.speak(said, SPEECH_HZ)
        await next_event(one_inbox, "generation.started")
        await next_event(other_inbox, "generation.started")
        before_s = time.monotonic()
        await asyncio.sleep(1.5)
        dead = server.kill(HOST)
        killed_s = time.monotonic()
        ids = one.session_id, other.session_id
        tasks = [asyncio.create_task(back(c, i, killed_s)) for c, i in zip((one, other), ids, strict=True)]
        returned, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(returned) == 1, "expected one client on each host"
        for task in waiting:
            task.cancel()
        is_one = tasks[0] in returned
        victim, listener = (one, one_listener) if is_one else (other, other_listener)
        neighbour = other_listener if is_one else one_listener
        back_s = returned.pop().result() - killed_s
        await asyncio.sleep(AFTERWARDS_S)
        calm_s = neighbour.worst_picture_gap_s(before_s, killed_s)
        gap_s = neighbour.worst_picture_gap_s(killed_s)
        listener.clear()
        with victim.inbox() as inbox:
            await victim.speak(after, SPEECH_HZ)
            await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        heard = listener.find(after)
        resumes = (one.resumes, other.resumes)
    assert session_tag(victim.session_id) == session_tag(ids[1 if is_one else 0])
    await asyncio.to_thread(server.wait_for, HOST, 2, without=dead)
    record_property("client back after", f"{back_s:.2f} s")
    record_property("neighbour's longest wait for a picture", f"{gap_s * 1000:.0f} ms")
    record_property("and before the fault", f"{calm_s * 1000:.0f} ms")
    assert back_s < BACK_S
    assert sorted(resumes) == [0, 1]
    assert heard.is_whole
    assert gap_s <= MAX_GAP_S
