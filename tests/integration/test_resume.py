"""A socket is a control channel: it may be cut, replaced and misused while the media go on."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve_app.client.a2v import A2vClient, Inbox
from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import Listener, find, find_pieces, in_order, next_event, session, speech
from tests.server import Server

pytestmark = pytest.mark.integration

MAX_GAP_S = 0.5
"""Longest time without a picture that still counts as media that never stopped."""


def cut(client: A2vClient) -> None:
    """Cut the socket as a dead network does: no closing handshake."""
    assert client._socket is not None
    client._socket.transport.abort()


async def test_cut_socket_is_replaced_and_media_never_stop(server: Server) -> None:
    said, after = speech(4.0, seed=20), speech(1.2, seed=21)
    async with session(server.url()) as (client, listener, inbox):
        session_id = client.session_id
        spoken = await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(0.8)
        cut(client)
        established = await next_event(inbox, "connection.established")
        completed = await next_event(inbox, "generation.completed")
        later = await client.speak(after, SPEECH_HZ)
        completed_later = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        gap_s = listener.worst_picture_gap_s()
    assert established.message["resumed"] is True
    assert established.message["session_id"] == client.session_id == session_id
    assert completed.message["chunk_index"] == spoken.chunk_index
    assert completed_later.message["chunk_index"] == later.chunk_index
    assert gap_s < MAX_GAP_S
    assert in_order(listener.indices()[:100])
    sound = listener.sound()
    assert find(said, sound).is_whole
    assert find(after, sound).is_whole


async def test_stream_is_continued_on_the_new_socket(server: Server) -> None:
    said = speech(5.0, seed=22)
    async with session(server.url()) as (client, listener, inbox):
        streaming = asyncio.create_task(client.stream(said, SPEECH_HZ, chunk_ms=40))
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.5)
        cut(client)
        spoken = await streaming
        completed = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        assert client.resumes == 1
    assert completed.message["chunk_index"] == spoken.chunk_index
    sound = listener.sound()
    assert find_pieces(said[: round(1.2 * SPEECH_HZ)], sound).is_whole
    assert find_pieces(said[round(3.5 * SPEECH_HZ) :], sound).is_whole
    # Messages that were under way at the cut are lost; the stream may have run dry meanwhile.
    assert completed.message["played_ms"] > 4700
    assert in_order(listener.indices())
    assert listener.worst_picture_gap_s() < MAX_GAP_S


async def test_utterance_that_ends_while_no_socket_is_there_is_reported_to_the_next_one(
    server: Server,
) -> None:
    async with session(server.url()) as (client, listener, inbox):
        client._may_resume = False
        spoken = await client.speak(speech(1.5, seed=23), SPEECH_HZ)
        await next_event(inbox, "generation.started")
        cut(client)
        deadline_s = time.monotonic() + 10
        while listener.last_speaking_s() == 0 or time.monotonic() - listener.last_speaking_s() < 0.5:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.1)
        client._ended.clear()
        reading = asyncio.create_task(reopened(client))
        try:
            completed = await next_event(inbox_after_end(inbox), "generation.completed", 10)
        finally:
            reading.cancel()
    assert completed.message["chunk_index"] == spoken.chunk_index


async def reopened(client: A2vClient) -> None:
    await client._open_socket()
    await client._read_until_ended()


def inbox_after_end(inbox: Inbox) -> Inbox:
    while not inbox.empty():
        inbox.get_nowait()
    return inbox


async def test_second_socket_takes_the_session_over_and_the_first_is_told(server: Server) -> None:
    said = speech(1.5, seed=24)
    async with session(server.url()) as (first, _, inbox):
        url = f"{server.url()}&session_id={first.session_id}&resume_token={first._resume_token}"
        async with session(url) as (second, listener, second_inbox):
            assert second.session_id == first.session_id
            assert await asyncio.wait_for(ended(inbox), 10)
            await second.speak(said, SPEECH_HZ)
            await next_event(second_inbox, "generation.completed")
            await asyncio.sleep(0.3)
            assert listener.find(said).is_whole
        assert first._socket is not None
        assert first._socket.close_code == 4409


async def ended(inbox: Inbox) -> bool:
    while await inbox.get() is not None:
        pass
    return True


async def test_wrong_resume_token_gets_a_new_session(server: Server) -> None:
    async with session(server.url()) as (client, _, _):
        url = f"{server.url()}&session_id={client.session_id}&resume_token=guess"
        async with session(url) as (other, _, _):
            assert other.session_id != client.session_id


async def test_second_offer_replaces_the_peer_and_speech_goes_on_where_it_was(server: Server) -> None:
    said = speech(4.0, seed=25)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await asyncio.sleep(1.0)
        before = Listener()
        before.packets, before.pictures = list(listener.packets), list(listener.pictures)
        await client._negotiate()
        switched = len(listener.packets)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
        after = Listener()
        after.packets = listener.packets[switched:]
    assert before.find(said[: int(0.6 * SPEECH_HZ)]).is_whole
    assert after.find(said[int(2.5 * SPEECH_HZ) :]).is_whole
    last = max(p.index for p in before.pictures if p.index is not None)
    first = next(p.index for p in listener.pictures[len(before.pictures) :] if p.index is not None)
    assert abs(first - last) < 30
