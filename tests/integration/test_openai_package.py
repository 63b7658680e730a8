"""The official Python package of OpenAI, with its addresses pointed here and nothing else changed."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import websockets
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from openai import AsyncOpenAI

from serve_app.media.pcm import Resampler
from serve_app.nouns import SOUND_HZ, Int16
from tests.integration.echoes import assert_heard, at_speech_rate
from tests.integration.keys import ADA, BRIEF, BRIEF_S
from tests.realtime_call import bearer, spoken
from tests.server import Server

pytestmark = pytest.mark.integration

AGENT_HZ = 24_000
CHUNK = AGENT_HZ // 10
WAIT_S = 20.0

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
}


@asynccontextmanager
async def package(server: Server, key: str = ADA) -> AsyncIterator[AsyncOpenAI]:
    """The package's client."""
    address = f"{server.http}/v1"
    # The beta's sockets go to wss unless they are told.
    sockets = address.replace("http", "ws")
    async with AsyncOpenAI(
        api_key=key, base_url=address, websocket_base_url=sockets, max_retries=0, timeout=WAIT_S
    ) as client:
        yield client


def sentence() -> Int16:
    """Return a spoken sentence at AGENT_HZ, with the silence that ends a turn."""
    resampler = Resampler(SOUND_HZ, AGENT_HZ)
    sound = np.concatenate([resampler.push(spoken("Good morning, can you hear me?")), resampler.flush()])
    return np.pad(sound, (AGENT_HZ // 4, AGENT_HZ))


async def speak(connection: Any, sound: Int16) -> None:
    """Send sound in pieces of a tenth of a second, faster than it is spoken."""
    for at in range(0, len(sound), CHUNK):
        piece = sound[at : at + CHUNK].astype("<i2").tobytes()
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())


async def until(connection: Any, kind: str) -> list[Any]:
    """Return the events up to the first of a type."""
    events: list[Any] = []
    async with asyncio.timeout(WAIT_S):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
            assert events[-1].type != "error" or kind == "error", events[-1]
    return events


def sound_of(events: list[Any], kind: str) -> Int16:
    """Return the sound of an answer, [S] int16 at AGENT_HZ."""
    pieces = [base64.b64decode(event.delta) for event in events if event.type == kind]
    return np.frombuffer(b"".join(pieces), "<i2").astype(np.int16)


def text_item(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_a_spoken_turn_over_the_socket_comes_back_in_deltas(doors: Server) -> None:
    said = sentence()
    async with package(doors) as client, client.realtime.connect(model="gpt-realtime") as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        assert created.session.model == "gpt-realtime"
        await speak(connection, said)
        events = await until(connection, "response.done")
    kinds = [event.type for event in events]
    assert kinds[:3] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
    assert kinds.index("response.output_audio.delta") < kinds.index("response.output_audio.done")
    assert events[-1].response.status == "completed"
    back = sound_of(events, "response.output_audio.delta")
    assert_heard(np.pad(at_speech_rate(back, AGENT_HZ), 8000), said, AGENT_HZ)


async def test_the_beta_client_is_answered_in_the_beta_dialect(doors: Server) -> None:
    said = sentence()
    model: Any = "gpt-4o-realtime-preview"
    async with package(doors) as client, client.beta.realtime.connect(model=model) as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        assert created.session.modalities == ["audio", "text"]
        await connection.session.update(session={"voice": "ash"})
        *_, updated = await until(connection, "session.updated")
        assert updated.session.voice == "ash"
        await speak(connection, said)
        events = await until(connection, "response.done")
    assert events[-1].response.status == "completed"
    back = sound_of(events, "response.audio.delta")
    assert_heard(np.pad(at_speech_rate(back, AGENT_HZ), 8000), said, AGENT_HZ)


async def test_a_minted_key_opens_a_socket_with_its_settings_once(doors: Server) -> None:
    async with package(doors) as client:
        minted = await client.realtime.client_secrets.create(
            session={"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."}
        )
    assert minted.value.startswith("ek_")
    async with package(doors, minted.value) as client:
        async with client.realtime.connect() as connection:
            created = await connection.recv()
            assert created.session.to_dict()["instructions"] == "Be brief."
        async with client.realtime.connect() as connection:
            [refused] = await until(connection, "error")
            assert refused.error.code == "invalid_api_key"


async def test_beta_sessions_are_minted(doors: Server) -> None:
    async with package(doors) as client:
        minted = await client.beta.realtime.sessions.create(model="gpt-4o-realtime-preview", voice="ash")
        assert minted.client_secret.value.startswith("ek_")
        assert (minted.voice, minted.modalities) == ("ash", ["audio", "text"])


async def test_a_call_is_opened_by_the_package_and_hung_up(doors: Server) -> None:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    opened = asyncio.Event()
    try:
        peer.addTransceiver("audio", direction="recvonly")
        peer.createDataChannel("oai-events").on("message", lambda text: opened.set())
        await peer.setLocalDescription(await peer.createOffer())
        async with package(doors) as client:
            answer = await client.realtime.calls.create(
                sdp=peer.localDescription.sdp, session={"type": "realtime", "model": "gpt-realtime"}
            )
            await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            await asyncio.wait_for(opened.wait(), WAIT_S)
            call_id = answer.response.headers["location"].rpartition("/")[2]
            await client.realtime.calls.hangup(call_id)
            with pytest.raises(openai.NotFoundError):
                await client.realtime.calls.hangup(call_id)
    finally:
        await peer.close()


async def test_a_function_is_called_and_its_result_told(doors: Server) -> None:
    async with package(doors) as client, client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "tools": [WEATHER]})
        await until(connection, "session.updated")
        await connection.conversation.item.create(item=text_item('/call get_weather {"location": "Rome"}'))
        await connection.response.create()
        events = await until(connection, "response.done")
        [call] = [event.item for event in events if event.type == "response.output_item.done"]
        assert (call.type, call.status, call.arguments) == (
            "function_call",
            "completed",
            '{"location": "Rome"}',
        )
        await connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
        )
        await connection.response.create()
        events = await until(connection, "response.done")
    [words] = [event for event in events if event.type == "response.output_audio_transcript.done"]
    assert words.transcript == "get_weather says: It rains."
    assert len(sound_of(events, "response.output_audio.delta")) > AGENT_HZ


async def test_errors_are_events_of_the_package_and_the_socket_lives_on(doors: Server) -> None:
    async with package(doors) as client, client.realtime.connect(model="gpt-realtime") as connection:
        await connection.recv()
        await connection.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
        [empty] = await until(connection, "error")
        assert (empty.error.code, empty.error.event_id) == ("input_audio_buffer_commit_empty", "mine")
        bad: Any = {"type": "realtime", "modalities": ["audio"]}
        await connection.session.update(session=bad)
        [unknown] = await until(connection, "error")
        assert (unknown.error.code, unknown.error.param) == ("unknown_parameter", "session.modalities")
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await until(connection, "session.updated")
        await connection.conversation.item.create(item=text_item("Only words."))
        await connection.response.create()
        events = await until(connection, "response.done")
    [text] = [event for event in events if event.type == "response.output_text.done"]
    assert text.text == "Only words."


async def test_a_socket_is_warned_of_its_end_and_closed_with_the_sentence(doors: Server) -> None:
    events: list[Any] = []

    async def read(connection: Any) -> None:
        while True:
            events.append(await connection.recv())

    async with package(doors, BRIEF) as client, client.realtime.connect(model="gpt-realtime") as connection:
        async with asyncio.timeout(BRIEF_S + 5):
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await read(connection)
    assert [event.type for event in events] == ["session.created", "session.ending", "error"]
    assert events[-1].error.code == "session_expired"
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001
    assert ended.value.rcvd.reason == "Your session hit the maximum duration of 1 minutes."


async def test_a_session_of_a_socket_is_gone_with_it(doors: Server) -> None:
    async with package(doors) as client, client.realtime.connect(model="gpt-realtime") as connection:
        created = await connection.recv()
        path = f"/v1/sessions/{created.session.to_dict()['id']}"
        async with httpx.AsyncClient(base_url=doors.http, headers=bearer(ADA)) as http:
            assert (await http.get(path)).status_code == 200
            await connection.close()
            deadline_s = time.monotonic() + 5
            while (await http.get(path)).status_code != 404:
                assert time.monotonic() < deadline_s, "expected the session to end, found it running"
                await asyncio.sleep(0.1)
