"""Calls of the Realtime door over WebRTC: a microphone and a data channel in, a talking face out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI

from serve_app.client.received import Receiver
from serve_app.nouns import SOUND_HZ
from serve_app.session.lifetime import PEER_GRACE_S
from tests.integration.echoes import assert_echoed, assert_heard
from tests.integration.keys import ADA, BOB, BRIEF, BRIEF_S, ONE
from tests.integration.listener import Listener, is_voiced
from tests.realtime_call import RealtimeCall, bearer, calling, hang_up, joining, mint, spoken
from tests.server import Server
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.integration

GREETING = "Good morning, can you hear me?"
STORY = "Once upon a time there was a fisherman, who lived with his wife in a hut by the sea. " * 3

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
}

TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
"""A spoken turn (protocols, section 4.8); how fast it is played has its own events."""


@asynccontextmanager
async def listened(
    server: Server, key: str = ADA, **options: Any
) -> AsyncIterator[tuple[RealtimeCall, Listener]]:
    """Call, and keep what comes back."""
    listener = Listener()
    receiver = Receiver(on_video=listener.see, on_sound=listener.hear)
    async with calling(server.http, key=key, receiver=receiver, **options) as call:
        yield call, listener


async def admitted(attempt: Callable[[], Awaitable[int]], timeout_s: float) -> float:
    """Return after how long there was room."""
    began_s = time.monotonic()
    while (status := await attempt()) not in {200, 201}:
        assert status == 429, f"expected a session or no room for one, found {status}"
        assert time.monotonic() - began_s < timeout_s, "expected room, found none"
        await asyncio.sleep(0.2)
    return time.monotonic() - began_s


async def create(server: Server, key: str) -> int:
    """Try to open a session over REST; end it when there was room. Return the status."""
    async with httpx.AsyncClient(base_url=server.http, headers=bearer(key)) as http:
        answer = await http.post("/v1/sessions", json={})
        if answer.status_code == 200:
            await http.post(f"/v1/sessions/{answer.json()['session']['session_id']}/end")
        return answer.status_code


# --- turns ---------------------------------------------------------------------------------------------


async def test_a_spoken_turn_is_answered_in_sound_and_picture(doors: Server) -> None:
    said = spoken(GREETING)
    async with listened(doors) as (call, listener):
        await call.say(said)
        await call.until("output_audio_buffer.stopped")
    told = [kind for kind in call.types() if kind not in {"session.created", "rate_limits.updated"}]
    playing = ["output_audio_buffer.started", "output_audio_buffer.stopped"]
    assert [kind for kind in told if kind in playing] == playing
    assert [kind for kind in told if kind not in playing] == TURN
    [created], [done] = call.of("response.created"), call.of("response.done")
    response_id = created["response"]["id"]
    assert done["response"]["id"] == response_id
    assert done["response"]["status"] == "completed"
    assert {event["response_id"] for kind in playing for event in call.of(kind)} == {response_id}
    [started], [stopped] = (call.of(f"input_audio_buffer.speech_{what}") for what in ("started", "stopped"))
    user, assistant = (event["item"] for event in call.of("conversation.item.added"))
    assert started["item_id"] == stopped["item_id"] == user["id"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert_echoed(listener, said)


async def test_callers_hear_themselves_and_nobody_else(doors: Server) -> None:
    words = ("The first caller talks about trains.", "Nobody knows what the second one wants.")
    said = [spoken(text, voice) for text, voice in zip(words, ("en", "en-us+f3"), strict=True)]
    async with listened(doors) as one, listened(doors, BOB) as other:
        await asyncio.gather(*(call.say(sound) for (call, _), sound in zip((one, other), said, strict=True)))
        await asyncio.gather(*(call.until("output_audio_buffer.stopped") for call, _ in (one, other)))
    for (_, listener), sound in zip((one, other), said, strict=True):
        assert_heard(listener.sound(), sound)


async def test_speaking_over_the_avatar_silences_it_and_cuts_what_it_said(doors: Server) -> None:
    interruption = spoken("Wait, stop that please.")
    async with listened(doors) as (call, listener):
        call.type_text(STORY)
        started = await call.until("output_audio_buffer.started")
        await until(lambda: len(set(listener.indices())) > 45)
        onset_s, seen = await call.say(interruption), len(call.events)
        truncated = await call.until("conversation.item.truncated", seen)
        [cleared] = call.of("output_audio_buffer.cleared")
        await until(lambda: listener.pictures[-1].index is None)
        last_s = listener.last_voiced_s()
        first_s = next(packet.arrived_s for packet in listener.packets if is_voiced(packet))
        call.send({"type": "conversation.item.retrieve", "item_id": truncated.body["item_id"]})
        retrieved = await call.until("conversation.item.retrieved", seen)
        # The interruption is a turn of its own, and is answered.
        listener.clear()
        await call.until("output_audio_buffer.stopped", seen)
    assert call.types(seen)[:1] == ["input_audio_buffer.speech_started"]
    assert cleared["response_id"] == started.body["response_id"]
    assert last_s - onset_s < 0.5
    heard_ms = (last_s - first_s) * 1000
    assert abs(truncated.body["audio_end_ms"] - heard_ms) < 200
    [part] = retrieved.body["item"]["content"]
    assert 0 < len(part["transcript"]) < len(STORY) / 2
    assert STORY.startswith(part["transcript"])
    assert_heard(listener.sound(), interruption)


async def test_a_turn_is_over_when_its_client_says_so(doors: Server) -> None:
    said = spoken(GREETING)
    manual = {"audio": {"input": {"turn_detection": None}}}
    async with listened(doors, session=manual) as (call, listener):
        assert call.microphone is not None
        await call.say(np.pad(said, (0, SOUND_HZ // 3)))
        await until(lambda: not call.microphone.is_speaking)  # type: ignore[union-attr]
        call.send({"type": "input_audio_buffer.commit"})
        committed = await call.until("input_audio_buffer.committed")
        assert "response.created" not in call.types()
        call.send({"type": "response.create"})
        await call.until("output_audio_buffer.stopped")
    assert not [kind for kind in call.types() if "speech_st" in kind]
    assert call.of("conversation.item.added")[0]["item"]["id"] == committed.body["item_id"]
    assert_echoed(listener, said)


async def test_what_is_typed_is_spoken(doors: Server) -> None:
    text = "This was typed and is spoken."
    async with listened(doors, with_microphone=False) as (call, listener):
        call.type_text(text)
        await call.until("output_audio_buffer.stopped")
        await until(lambda: listener.pictures[-1].index is None)
    [done] = call.of("response.output_audio_transcript.done")
    assert done["transcript"] == text
    deltas = [event["delta"] for event in call.of("response.output_audio_transcript.delta")]
    assert "".join(deltas) == text
    voiced_s = listener.last_voiced_s() - next(p.arrived_s for p in listener.packets if is_voiced(p))
    assert abs(len(set(listener.indices())) / 30 - voiced_s) < 0.3


async def test_a_function_is_called_and_its_result_spoken(doors: Server) -> None:
    async with listened(doors, session={"tools": [WEATHER]}) as (call, listener):
        call.type_text('/call get_weather {"location": "Rome"}')
        await call.until("response.done")
        [item] = (event["item"] for event in call.of("response.output_item.done"))
        assert (item["type"], item["status"], item["name"]) == ("function_call", "completed", "get_weather")
        assert item["arguments"] == '{"location": "Rome"}'
        [arguments] = call.of("response.function_call_arguments.done")
        assert (arguments["call_id"], arguments["name"]) == (item["call_id"], "get_weather")
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": "It rains."}
        call.send({"type": "conversation.item.create", "item": output})
        call.send({"type": "response.create"})
        await call.until("output_audio_buffer.stopped")
    [done] = call.of("response.output_audio_transcript.done")
    assert done["transcript"] == "get_weather says: It rains."
    assert listener.indices()


async def test_a_call_without_picture_is_answered_in_sound(doors: Server) -> None:
    said = spoken(GREETING)
    async with listened(doors, with_picture=False) as (call, listener):
        await call.say(said)
        await call.until("output_audio_buffer.stopped")
    assert listener.pictures == []
    assert_heard(listener.sound(), said)


async def test_settings_are_changed_and_errors_told_on_the_data_channel(doors: Server) -> None:
    async with listened(doors, with_microphone=False) as (call, _):
        call.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief."}})
        updated = await call.until("session.updated")
        assert updated.body["session"]["instructions"] == "Be brief."
        call.send({"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "mine"})
        refused = (await call.until("error")).body["error"]
        assert (refused["code"], refused["event_id"]) == ("invalid_event_for_transport", "mine")


# --- the beta ------------------------------------------------------------------------------------------


async def test_a_beta_call_speaks_the_beta_dialect(doors: Server) -> None:
    said = spoken(GREETING)
    options = {"dialect": "beta", "query": "?model=gpt-4o-realtime-preview"}
    settings = {"model": "gpt-4o-realtime-preview", "voice": "ash"}
    async with listened(doors, session=settings, **options) as (call, listener):
        await call.say(said)
        await call.until("output_audio_buffer.stopped")
    [created] = call.of("session.created")
    assert (created["session"]["voice"], created["session"]["modalities"]) == ("ash", ["audio", "text"])
    told = call.types()
    assert "conversation.item.created" in told
    assert "response.audio_transcript.done" in told
    assert not [kind for kind in told if ".output_audio." in kind or kind == "conversation.item.added"]
    assert_echoed(listener, said)


# --- keys and avatars ----------------------------------------------------------------------------------


async def test_an_ephemeral_key_opens_one_call(doors: Server) -> None:
    secret = await mint(doors.http, key=ADA)
    url = f"{doors.http}/v1/realtime/calls"
    async with joining(url, secret, with_microphone=False) as call:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            async with joining(url, secret):
                pass
    assert refused.value.response.status_code == 401
    assert await hang_up(doors.http, call.call_id, ADA) == 200


async def test_the_query_picks_the_avatar_and_a_key_survives_a_wrong_one(doors: Server) -> None:
    secret = await mint(doors.http, key=ADA)
    url = f"{doors.http}/v1/realtime/calls?avatar="
    with pytest.raises(httpx.HTTPStatusError) as refused:
        async with joining(f"{url}nobody", secret):
            pass
    assert refused.value.response.status_code == 404
    async with joining(f"{url}default", secret, with_microphone=False) as call:
        session_id = call.call_id.replace("rtc_", "sess_")
        async with httpx.AsyncClient(base_url=doors.http, headers=bearer(ADA)) as http:
            shown = await http.get(f"/v1/sessions/{session_id}")
        assert shown.json()["session"]["avatar"] == "default"
    assert await hang_up(doors.http, call.call_id, ADA) == 200


async def test_a_call_is_found_and_ended_by_its_own_key_alone(doors: Server) -> None:
    async with calling(doors.http, key=ADA, with_microphone=False) as call:
        assert await hang_up(doors.http, call.call_id, BOB) == 404
        assert call.peer.connectionState == "connected"
        assert await hang_up(doors.http, call.call_id, ADA) == 200
        await call.lost(5)
        assert await hang_up(doors.http, call.call_id, ADA) == 404


# --- the end -------------------------------------------------------------------------------------------


async def test_hanging_up_gives_the_place_back(doors: Server) -> None:
    async with calling(doors.http, key=ONE, with_microphone=False) as call:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            async with calling(doors.http, key=ONE):
                pass
        assert refused.value.response.status_code == 429
        assert await hang_up(doors.http, call.call_id, ONE) == 200
        await call.lost(5)
        assert await admitted(lambda: create(doors, ONE), 3) < 2


async def test_a_caller_who_leaves_without_a_word_gives_the_place_back_after_a_grace(doors: Server) -> None:
    secret = await mint(doors.http, key=ONE)
    async with joining(f"{doors.http}/v1/realtime/calls", secret, with_microphone=False):
        pass
    assert await create(doors, ONE) == 429
    assert await admitted(lambda: create(doors, ONE), PEER_GRACE_S + 5) > 1


async def test_a_call_is_warned_of_its_end_and_told_at_its_end(doors: Server) -> None:
    began_s = time.monotonic()
    async with calling(doors.http, key=BRIEF, with_microphone=False) as call:
        ending = await call.until("session.ending", timeout_s=BRIEF_S + 2)
        assert (ending.body["reason"], ending.body["ends_in_ms"] <= 2000) == ("expired", True)
        expired = await call.until("error", timeout_s=BRIEF_S)
        assert expired.body["error"]["code"] == "session_expired"
        await call.lost(5)
    assert abs(expired.at_s - began_s - BRIEF_S) < 3


# --- the sideband --------------------------------------------------------------------------------------


async def test_a_server_joins_a_call_beside_its_client(doors: Server) -> None:
    address = f"{doors.http}/v1"
    async with (
        listened(doors, with_microphone=False) as (call, listener),
        AsyncOpenAI(api_key=ADA, base_url=address, websocket_base_url=address.replace("http", "ws")) as made,
    ):
        async with made.realtime.connect(call_id=call.call_id) as connection:
            await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
            told = [await connection.recv()]
            while told[-1].type != "session.updated":
                told.append(await connection.recv())
            await call.until("session.updated")
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "From the side."}],
                }
            )
            await connection.response.create()
            while (event := await connection.recv()).type != "output_audio_buffer.stopped":
                told.append(event)
        assert "response.done" in [event.type for event in told]
        await call.until("output_audio_buffer.stopped")
        assert listener.indices()
        # The call goes on without it.
        seen = len(call.events)
        call.type_text("Still here.")
        await call.until("output_audio_buffer.stopped", seen)
