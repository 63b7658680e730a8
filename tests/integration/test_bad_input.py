"""What is wrong gets the document's code and a sentence; the socket, the session and its speech live on."""

from __future__ import annotations

import asyncio
import base64
import io
import wave
from typing import Any

import pytest

from serve_app.client.a2v import A2vClient, Inbox
from serve_app.nouns import SPEECH_HZ, Int16
from tests.integration.listener import find, next_event, session, speech
from tests.server import Server

pytestmark = pytest.mark.integration

NO_MEDIA = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
CHUNK = base64.b64encode(bytes(3200)).decode()
SHORT = base64.b64encode(bytes(3200 * 2)).decode()


def speak(audio: str, **fields: Any) -> dict[str, Any]:
    return {"type": "agent.speak", "audio": audio, "format": "pcm", "chunk_index": 900, **fields}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": ({"type": "agent.sing"}, "WS_1002"),
    "missing field": ({"type": "agent.speak"}, "WS_1003"),
    "base64 that is not": (speak("*" * 100), "AUDIO_3001"),
    "cut WAV": (
        speak(base64.b64encode(b"RIFF\x00\x00\x00\x00WAVEfmt ").decode(), format="wav"),
        "AUDIO_3001",
    ),
    "utterance under one second": (speak(SHORT), "AUDIO_3002"),
    "chunk over 1 MB": (
        {
            "type": "agent.audio.chunk",
            "chunk": base64.b64encode(bytes(1_048_578)).decode(),
            "chunk_index": 901,
        },
        "AUDIO_3001",
    ),
    "garbage SDP": ({"type": "webrtc.offer", "sdp": "no session description"}, "RTC_2001"),
    "SDP without media": ({"type": "webrtc.offer", "sdp": NO_MEDIA}, "RTC_2001"),
    "garbage candidate": (
        {"type": "webrtc.ice_candidate", "candidate": {"candidate": "candidate:nonsense", "sdpMid": "0"}},
        "RTC_2001",
    ),
}


async def next_error(inbox: Inbox) -> dict[str, Any]:
    async with asyncio.timeout(15):
        while (event := await inbox.get()) is not None:
            if event.type == "error":
                return event.message
    raise AssertionError("expected an error, found the session ended")


async def say(client: A2vClient, text: str) -> None:
    assert client._socket is not None
    await client._socket.send(text)


async def test_wrong_messages_are_answered_by_code_while_speech_plays_on(server: Server) -> None:
    said = speech(6.0, seed=30)
    async with session(server.url()) as (client, listener, inbox):
        await client.speak_end()
        found = {"speak_end without speech": await next_error(inbox)}
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.started")
        for name, (message, _) in WRONG.items():
            await client.send(message)
            found[name] = await next_error(inbox)
        await say(client, "no JSON")
        found["not JSON"] = await next_error(inbox)
        await say(client, '{"type": "agent.interrupt", "session_id": "another"}')
        found["wrong session id"] = await next_error(inbox)
        completed = await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    expected = {name: code for name, (_, code) in WRONG.items()}
    expected |= {"speak_end without speech": "WS_1002"}
    expected |= {"not JSON": "WS_1002", "wrong session id": "WS_1001"}
    assert {name: message["details"]["code"] for name, message in found.items()} == expected
    assert all(message["error"] and message["session_id"] == client.session_id for message in found.values())
    assert client.resumes == 0
    assert not completed.message["interrupted"]
    assert listener.find(said).is_whole


async def test_what_can_be_converted_is_heard(server: Server) -> None:
    said = [speech(1.5, seed=31 + number) for number in range(2)]
    async with session(server.url()) as (client, listener, inbox):
        for samples in said[:1]:
            await client.speak_wav(wav(samples, channels=2, width=2))
        for samples in said[1:]:
            await client.speak_wav(wav(samples, channels=1, width=1))
        for _ in said:
            await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    sound = listener.sound()
    assert find(said[0], sound).is_whole
    assert find(said[1], sound).is_whole


def wav(samples: Int16, *, channels: int, width: int) -> bytes:
    data = samples if width == 2 else ((samples >> 8) + 128).astype("uint8")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(SPEECH_HZ)
        writer.writeframes(data.repeat(channels).tobytes())
    return file.getvalue()


async def test_chunks_out_of_order_are_heard_in_order(server: Server) -> None:
    said = speech(2.0, seed=35)
    step = len(said) // 5
    async with session(server.url()) as (client, listener, inbox):
        for index in (0, 2, 1, 3, 4):
            part = said[index * step : (index + 1) * step].astype("<i2").tobytes()
            await client._send_chunk(part, index, is_first=index == 0, is_final=index == 4)
        assert (await next_error(inbox))["details"]["code"] == "WS_1002"
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert listener.find(said).is_whole
