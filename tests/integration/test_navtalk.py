"""Document 002's client against a real server: its order of events, its shapes, its sound."""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest

from serve_app.media.pcm import Resampler
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16
from tests.integration.echoes import assert_echoed
from tests.integration.keys import ADA, BRIEF, ONE
from tests.integration.listener import speech
from tests.integration.navtalk_client import NAVTALK_HZ, NavTalkClient, navtalk
from tests.realtime_call import spoken
from tests.server import Server
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.integration

NAME = "navtalk.Leo"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
}
RAIN = '/call get_weather {"location": "Rome"}'


def at_navtalk_rate(sound: Int16, hz: int) -> Int16:
    resampler = Resampler(hz, NAVTALK_HZ)
    return np.concatenate([resampler.push(sound), resampler.flush()])


async def silence(client: NavTalkClient, begun: int = 1) -> None:
    """Return when the avatar has spoken, and its face rests again."""
    listener = client.listener
    await until(lambda: len(listener.indices()) >= begun, 15)
    await until(lambda: listener.pictures[-1].index is None, 30)


async def test_a_spoken_turn_comes_back_over_webrtc(doors: Server) -> None:
    said = spoken("Good morning, can you hear me?")
    async with navtalk(doors, ADA, name=NAME) as client:
        await client.until("realtime.session.updated")
        await until(lambda: bool(client.listener.pictures))
        await client.speak(np.pad(at_navtalk_rate(said, SOUND_HZ), (NAVTALK_HZ // 4, NAVTALK_HZ)))
        await client.until("realtime.response.audio.done")
        await silence(client)
    told = client.types()
    assert told[0] == "conversation.connected.success"
    assert client.events[0]["data"]["iceServers"] == []
    order = [
        "webrtc.signaling.offer",
        "realtime.session.created",
        "realtime.session.updated",
        "realtime.input_audio_buffer.speech_started",
        "realtime.input_audio_buffer.speech_stopped",
        "realtime.response.audio_transcript.done",
    ]
    assert [kind for kind in told if kind in order] == order
    assert_echoed(client.listener, said)


async def test_what_is_written_is_spoken_and_transcribed(doors: Server) -> None:
    text = "This was written and is spoken."
    async with navtalk(doors, ADA, name=NAME) as client:
        await client.until("realtime.session.updated")
        await client.send("realtime.input_text", content=text)
        done = await client.until("realtime.response.audio_transcript.done")
        await silence(client, 30)
    assert done["data"]["content"] == done["data"]["transcript"] == text
    deltas = client.of("realtime.response.audio_transcript.delta")
    assert "".join(event["data"]["content"] for event in deltas) == text
    assert {event["data"]["id"] for event in deltas} == {done["data"]["id"]}


async def test_what_is_written_over_the_avatar_silences_it(doors: Server) -> None:
    async with navtalk(doors, ADA, name=NAME) as client:
        await client.until("realtime.session.updated")
        await client.send("realtime.input_text", content="This is a long answer that goes on and on. " * 4)
        await until(lambda: len(client.listener.indices()) > 20, 15)
        await client.send("realtime.input_text", content="Short.")
        await client.when(lambda event: event.get("data", {}).get("content") == "Short.", "the short answer")
        await silence(client)
        spoken_frames = len(client.listener.indices())
    assert spoken_frames < 120


@pytest.mark.parametrize("is_wrapped", [True, False])
async def test_a_function_is_called_and_its_result_spoken(doors: Server, *, is_wrapped: bool) -> None:
    async with navtalk(doors, ADA, name=NAME) as client:
        await client.until("realtime.session.updated")
        content = {"voice": "ash", "prompt": "Be brief.", "tools": [WEATHER]}
        await client.send("realtime.input_config", content=json.dumps(content))
        await client.send("realtime.input_text", content=RAIN)
        call = await client.until("realtime.response.function_call_arguments.done")
        raw, data = call["raw_data"], call["data"]
        assert (raw["type"], raw["name"]) == ("response.function_call_arguments.done", "get_weather")
        assert (data["function_name"], data["arguments"]) == ("get_weather", '{"location": "Rome"}')
        assert raw["call_id"] == data["call_id"]
        if is_wrapped:
            await client.send("realtime.function_call_output", call_id=data["call_id"], output="It rains.")
        else:
            output = {"type": "function_call_output", "call_id": data["call_id"], "output": "It rains."}
            await client.send_bare({"type": "conversation.item.create", "item": output})
            await client.send_bare({"type": "response.create"})
        done = await client.until("realtime.response.audio_transcript.done")
        await silence(client, 10)
    assert done["data"]["content"] == "get_weather says: It rains."
    assert client.of("error") == []


async def test_transparency_speaks_exactly_the_sound_that_was_sent(doors: Server) -> None:
    said = speech(2.0, seed=70)
    async with navtalk(doors, ADA, name=NAME, model="transparency") as client:
        await client.until("realtime.session.updated")
        await until(lambda: bool(client.listener.pictures))
        await client.speak(at_navtalk_rate(said, SPEECH_HZ), "input_audio_buffer.append")
        await client.until("realtime.response.audio.done")
        await silence(client)
    heard = client.listener.find(said)
    assert heard.is_whole, heard.alike
    assert abs(heard.length_s - heard.sent_s) < 0.06
    assert len(set(client.listener.indices())) > 0.75 * 60


async def test_an_offer_of_the_clients_takes_another_connection(doors: Server) -> None:
    said = speech(1.5, seed=71)
    async with navtalk(doors, ADA, name=NAME, model="transparency") as client:
        await client.until("realtime.session.updated")
        await until(lambda: bool(client.listener.pictures))
        await client.offer_again()
        await client.until("webrtc.signaling.answer")
        client.listener.clear()
        await until(lambda: bool(client.listener.pictures))
        await client.speak(at_navtalk_rate(said, SPEECH_HZ), "input_audio_buffer.append")
        await client.until("realtime.response.audio.done")
    assert client.listener.find(said).is_whole
    assert client.of("error") == []


async def test_wrong_messages_are_told_and_the_socket_lives_on(doors: Server) -> None:
    async with navtalk(doors, ADA, name=NAME) as client:
        await client.until("realtime.session.updated")
        await client.send("realtime.no_such_thing")
        assert "type" in (await client.until("error"))["message"]
        await client.send("realtime.input_text", content="Still here.")
        await client.until("realtime.response.audio_transcript.done")


@pytest.mark.parametrize(
    ("licence", "query", "event", "code"),
    [
        ("sk_navtalk_guessed_0123456789", {"name": NAME}, "conversation.connected.fail", 4401),
        (None, {"name": NAME}, "conversation.connected.fail", 4401),
        (ADA, {"avatarId": "nobody"}, "conversation.connected.fail", 4404),
    ],
)
async def test_who_may_not_enter_is_told_why(
    doors: Server, licence: str | None, query: dict[str, str], event: str, code: int
) -> None:
    async with navtalk(doors, licence, **query) as client:
        assert (await client.closed())[0] == code
    assert client.types() == [event]
    assert client.events[0]["message"]


async def test_a_licence_with_one_session_is_told_of_its_limit(doors: Server) -> None:
    async with navtalk(doors, ONE, name=NAME) as first:
        await first.until("conversation.connected.success")
        async with navtalk(doors, ONE, name=NAME) as second:
            await second.until("conversation.connected.connection_limit_exceeded")
            assert "Maximum concurrent connections (1) exceeded" in second.events[0]["message"]
            assert (await second.closed())[0] == 1013
    # The first one's place is free as soon as its socket is closed.
    async with asyncio.timeout(5):
        while True:
            async with navtalk(doors, ONE, name=NAME) as third:
                await third.when(lambda event: event["type"].startswith("conversation.connected."), "entry")
                if third.types()[0] == "conversation.connected.success":
                    break


async def test_a_session_is_warned_of_its_end_and_closed(doors: Server) -> None:
    async with navtalk(doors, BRIEF, name=NAME) as client:
        code, reason = await client.closed()
    connected = [kind for kind in client.types() if kind.startswith("conversation.connected.")]
    assert connected[-2:] == ["conversation.connected.warning", "conversation.connected.close"]
    assert code == 4408
    assert reason
    assert reason.startswith("Session timeout")


async def test_the_sdks_look_up_finds_the_avatar_they_name(doors: Server) -> None:
    async with httpx.AsyncClient(base_url=f"{doors.http}/api/open/v1/avatar") as http:
        found = await http.get("/getByName", params={"license": ADA, "name": NAME})
        refused = await http.get("/getByName", params={"license": "guess", "name": NAME})
        body = found.json()
        picture = await http.get(body["data"]["thumbnailUrl"])
    assert (body["code"], body["data"]["name"]) == (200, NAME)
    assert picture.headers["content-type"] == "image/jpeg"
    assert refused.json()["code"] == 401
