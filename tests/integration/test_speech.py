"""Speech in, a talking face out: through the proxy, on real Ray, over real WebRTC."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from serve_app.client.a2v import A2vClient
from serve_app.client.received import Received, Receiver
from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import Listener, find, find_pieces, in_order, next_event, session, speech
from tests.server import Server

pytestmark = pytest.mark.integration

SAME_S = 0.06
"""How much longer or shorter speech may be heard than it was sent: three packets."""


async def test_whole_utterance_is_heard_as_sent_and_shown_frame_by_frame(server: Server) -> None:
    said = speech(3.0)
    async with session(server.url()) as (client, listener, inbox):
        spoken = await client.speak(said, SPEECH_HZ)
        started = await next_event(inbox, "generation.started")
        completed = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    heard = listener.find(said)
    assert heard.is_whole, heard.alike
    assert abs(heard.length_s - heard.sent_s) < SAME_S
    indices = listener.indices()
    assert in_order(indices)
    assert len(set(indices)) > 0.9 * 90
    assert max(indices) < 91
    assert started.message["chunk_index"] == completed.message["chunk_index"] == spoken.chunk_index
    assert not completed.message["interrupted"]
    assert abs(completed.message["played_ms"] - 3000) < 60


async def test_portrait_moves_its_mouth_while_it_speaks_and_rests_before(server: Server) -> None:
    said = speech(3.0, seed=1)
    mouths: list[tuple[float, np.ndarray]] = []
    listener = Listener()

    def see(received: Received) -> None:
        mouths.append((received.arrived_s, received.y_plane()[290:400, 190:322].astype(np.int16)))

    media = Receiver(on_video=see, on_sound=listener.hear)
    async with session(server.url(model="portrait"), media=media) as (client, _, inbox):
        await asyncio.sleep(1.5)
        await client.speak(said, SPEECH_HZ)
        started = await next_event(inbox, "generation.started")
        await next_event(inbox, "generation.completed")

    def motion(begin_s: float, end_s: float) -> float:
        shown = [mouth for at_s, mouth in mouths if begin_s < at_s < end_s]
        return float(np.mean([np.abs(b - a).mean() for a, b in itertools.pairwise(shown)]))

    at_s = started.received_s
    idle, speaking = motion(at_s - 1.3, at_s - 0.1), motion(at_s + 0.3, at_s + 2.7)
    assert speaking > 2 * idle
    assert listener.find(said).is_whole


async def test_live_stream_is_heard_as_sent(server: Server) -> None:
    said = speech(3.0, seed=2)
    async with session(server.url()) as (client, listener, inbox):
        spoken = await client.stream(said, SPEECH_HZ, chunk_ms=40)
        completed = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    heard = find_pieces(said, listener.sound())
    assert completed.message["chunk_index"] == spoken.chunk_index
    assert heard.is_whole, heard.alike
    assert heard.paused_s < 0.3
    assert in_order(listener.indices())


async def test_stream_sent_faster_than_it_is_heard_loses_nothing(server: Server) -> None:
    said = speech(6.0, seed=3)
    async with session(server.url()) as (client, listener, inbox):
        await client.stream(said, SPEECH_HZ, pace=0)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    heard = listener.find(said)
    assert heard.is_whole, heard.alike
    assert len(set(listener.indices())) > 0.9 * 180


async def test_utterances_queue_and_follow_each_other_without_a_gap(server: Server) -> None:
    said = [speech(1.5, seed=4 + number) for number in range(3)]
    async with session(server.url()) as (client, listener, inbox):
        spoken = [await client.speak(one, SPEECH_HZ) for one in said]
        completed = [await next_event(inbox, "generation.completed") for _ in said]
        await asyncio.sleep(0.3)
    assert [event.message["chunk_index"] for event in completed] == [one.chunk_index for one in spoken]
    sound = listener.sound()
    heard = [find(one, sound) for one in said]
    assert all(one.is_whole for one in heard), [one.alike for one in heard]
    gaps_s = [b.start_s - a.start_s - 1.5 for a, b in itertools.pairwise(heard)]
    assert all(-0.001 <= gap_s <= 0.06 for gap_s in gaps_s), gaps_s


async def test_interrupt_silences_and_the_next_utterance_plays(server: Server) -> None:
    said = speech(1.5, seed=8)
    async with session(server.url()) as (client, listener, inbox):
        cut = [await client.speak(speech(6.0, seed=seed), SPEECH_HZ) for seed in (7, 9)]
        await next_event(inbox, "generation.started")
        await asyncio.sleep(0.7)
        sent_s = await client.interrupt()
        completed = [await next_event(inbox, "generation.completed") for _ in range(2)]
        await asyncio.sleep(0.7)
        sound_s, picture_s = listener.last_voiced_s() - sent_s, listener.last_speaking_s() - sent_s
        listener.clear()
        await client.speak(said, SPEECH_HZ)
        after = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert sound_s < 0.2
    assert picture_s < 0.2
    assert [event.message["chunk_index"] for event in completed] == [one.chunk_index for one in cut]
    assert [event.message["interrupted"] for event in completed] == [True, True]
    assert not after.message["interrupted"]
    heard = listener.find(said)
    assert heard.is_whole, heard.alike
    assert abs(heard.length_s - heard.sent_s) < SAME_S


async def test_interrupt_in_silence_does_no_harm(server: Server) -> None:
    said = speech(1.2, seed=10)
    async with session(server.url()) as (client, listener, inbox):
        await client.interrupt()
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert listener.find(said).is_whole


async def test_speech_sent_before_there_is_a_peer_is_heard_whole(server: Server) -> None:
    said = speech(2.0, seed=11)
    listener = Listener()
    client = A2vClient(server.url(), on_video=listener.see, on_sound=listener.hear)
    await client._open_socket()
    client._own(client._read_until_ended())
    try:
        with client.inbox() as inbox:
            await client.speak(said, SPEECH_HZ)
            await asyncio.sleep(1.0)
            await client._negotiate()
            await next_event(inbox, "generation.completed")
            await asyncio.sleep(0.3)
    finally:
        await client.close()
    heard = listener.find(said)
    assert heard.is_whole, heard.alike
    assert abs(heard.length_s - heard.sent_s) < SAME_S
