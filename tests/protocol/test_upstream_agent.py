from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from serve_app.agents import upstream, upstream_response
from serve_app.agents.base import (
    AGENT_HZ,
    Heard,
    Output,
    Request,
    SpeechDelta,
    ToolCall,
    TranscriptDelta,
    Usage,
)
from serve_app.agents.upstream import RealtimeAgent
from serve_app.config import AgentsConfig, RealtimeUpstream
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16
from tests.protocol.realtime_server import (
    KEY,
    Calls,
    Fails,
    Hangup,
    Raw,
    RealtimeServer,
    Speech,
    Stall,
)

pytestmark = pytest.mark.protocol

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def noise(seconds: float, seed: int = 0, loudness: int = 8_000) -> Int16:
    made = np.random.default_rng(seed).integers(-loudness, loudness, round(seconds * AGENT_HZ))
    return made.astype(np.int16)


def user(item_id: str, text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def spoken(item_id: str, transcript: str | None = None) -> dict[str, Any]:
    content = [{"type": "input_audio", "transcript": transcript}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def assistant(item_id: str, transcript: str) -> dict[str, Any]:
    content = [{"type": "output_audio", "transcript": transcript}]
    return {"id": item_id, "type": "message", "role": "assistant", "content": content}


@asynccontextmanager
async def agent_of(server: RealtimeServer, **changes: Any) -> AsyncIterator[RealtimeAgent]:
    config = AgentsConfig(upstream=RealtimeUpstream(base_url=server.url, connect_timeout_s=5), **changes)
    agent = RealtimeAgent(config, {"OPENAI_API_KEY": KEY})
    await agent.open()
    try:
        yield agent
    finally:
        await agent.close()


async def answer(agent: RealtimeAgent, request: Request) -> list[Output]:
    async with asyncio.timeout(10):
        return [output async for output in agent.respond(request)]


def said(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, TranscriptDelta))


def sound(outputs: list[Output]) -> Int16:
    return np.concatenate([output.samples for output in outputs if isinstance(output, SpeechDelta)])


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [part.get("text") or "(sound)" for item in items for part in item.get("content", [])]


async def test_a_spoken_turn_makes_the_round_trip_and_is_committed_as_it_was_heard() -> None:
    turn, reply = noise(1.3), noise(0.7, seed=1)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("I heard you.", reply))
        for at in range(0, len(turn), 480):
            agent.hear(turn[at : at + 480])
        request = Request(items=(spoken("item_a"),), heard=Heard("item_a", turn), instructions="Be kind.")
        outputs = await answer(agent, request)

        np.testing.assert_array_equal(sound(outputs), reply)
        assert {output.hz for output in outputs if isinstance(output, SpeechDelta)} == {AGENT_HZ}
        assert said(outputs) == "I heard you."
        assert outputs[-1] == Usage(20, 10, {"output_token_details": {"audio_tokens": 7}})
        (committed,) = server.sounds.values()
        np.testing.assert_array_equal(committed, turn)
        assert not server.sent("input_audio_buffer.clear")
        assert len(server.sent("input_audio_buffer.append")) > 5, "the turn was not streamed while spoken"
        path, headers = server.handshakes[0]
        assert path == "/v1/realtime?model=gpt-realtime"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert "OpenAI-Beta" not in headers


async def test_the_session_hears_no_turns_and_is_told_instructions_tools_and_voice() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.extend([Speech("a", noise(0.1))] * 3)
        first = Request(
            items=(user("u1", "hi"),), instructions="One.", tools=(WEATHER,), voice="verse", speed=1.2
        )
        await answer(agent, first)
        assert server.session["audio"] == {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "turn_detection": None,
                "transcription": {"model": "gpt-4o-mini-transcribe"},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "verse", "speed": 1.2},
        }
        assert server.session["instructions"] == "One."
        assert server.session["tools"] == [WEATHER]
        updates = len(server.sent("session.update"))

        again = Request(items=first.items, instructions="One.", tools=(WEATHER,), voice="verse", speed=1.2)
        await answer(agent, again)
        assert len(server.sent("session.update")) == updates, "what did not change is not told again"

        await answer(agent, Request(items=first.items, instructions="Two.", voice="ash", speed=1.2))
        change = server.sent("session.update")[-1]["session"]
        assert change == {"type": "realtime", "instructions": "Two.", "tools": []}


async def test_text_alone_is_asked_for_where_no_sound_is_wanted() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("Only words.", noise(0.1)))
        outputs = await answer(agent, Request(items=(user("u1", "hi"),), with_sound=False))
        assert said(outputs) == "Only words."
        assert not any(isinstance(output, SpeechDelta) for output in outputs)
        assert server.session["output_modalities"] == ["text"]


async def test_a_tool_call_and_its_result_go_through() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Calls("get_weather", '{"place":"Rome"}'))
        server.answers.append(Speech("Sunny.", noise(0.1)))
        asked = user("u1", "weather in Rome?")
        outputs = await answer(agent, Request(items=(asked,), tools=(WEATHER,)))
        assert outputs[0] == ToolCall("get_weather", '{"place":"Rome"}', "call_up")

        call = {"id": "c1", "type": "function_call", "name": "get_weather", "call_id": "call_up"}
        call["arguments"] = '{"place":"Rome"}'
        result = {"id": "r1", "type": "function_call_output", "call_id": "call_up", "output": "sunny"}
        outputs = await answer(agent, Request(items=(asked, call, result), tools=(WEATHER,)))
        assert said(outputs) == "Sunny."
        assert [item["type"] for item in server.items] == [
            "message",
            "function_call",
            "function_call_output",
            "message",
        ]
        assert server.items[2] == result


async def test_an_interruption_cancels_and_truncates_to_what_was_played() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(1.0)))
        server.answers.append(Speech("Next.", noise(0.2)))
        async with aclosing(agent.respond(Request(items=(user("u1", "talk"),)))) as outputs:
            first = await anext(outputs)
        assert isinstance(first, SpeechDelta)
        await agent.heard_until("local_answer", 0.4)

        assert (await server.saw("response.cancel"))["response_id"].startswith("resp_")
        truncation = await server.saw("conversation.item.truncate")
        upstream_id = server.items[1]["id"]
        assert (truncation["item_id"], truncation["audio_end_ms"]) == (upstream_id, 400)

        items = (user("u1", "talk"), assistant("local_answer", ""), user("u2", "stop"))
        assert said(await answer(agent, Request(items=items))) == "Next."
        assert texts(server.items) == ["talk", "stop"], "the cut answer was created a second time"
        assert [item["id"] for item in server.items][:3] == ["u1", upstream_id, "u2"]


async def test_more_played_than_was_made_is_cut_to_what_was_made() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("Short.", noise(0.5)))
        await answer(agent, Request(items=(user("u1", "talk"),)))
        await agent.heard_until("local_answer", 9.0)
        assert (await server.saw("conversation.item.truncate"))["audio_end_ms"] == 500


async def test_a_response_closed_before_it_began_is_cancelled_and_leaves_nothing_behind() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(1.0), begins=False))
        server.answers.append(Speech("Next.", noise(0.2)))
        pending = asyncio.ensure_future(anext(agent.respond(Request(items=(user("u1", "talk"),)))))
        await server.saw("response.create")
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        assert said(await answer(agent, Request(items=(user("u1", "talk"), user("u2", "stop"))))) == "Next."
        assert texts(server.items) == ["talk", "stop"]
        await server.saw("response.cancel")


async def test_an_answer_that_nobody_got_is_deleted_upstream() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(1.0)))
        stream = agent.respond(Request(items=(user("u1", "talk"),)))
        pending = asyncio.ensure_future(anext(stream))
        await server.saw("response.create")
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        deleted = await server.saw("conversation.item.delete")
        assert deleted["item_id"].startswith("item_up")
        server.answers.append(Speech("Next.", noise(0.2)))
        await answer(agent, Request(items=(user("u1", "talk"),)))
        assert deleted["item_id"] not in [item["id"] for item in server.items]


async def test_a_new_response_ends_one_that_is_still_running() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(0.3)))
        server.answers.append(Speech("Second.", noise(0.2)))
        first = agent.respond(Request(items=(user("u1", "one"),)))
        await anext(first)
        assert said(await answer(agent, Request(items=(user("u1", "one"),)))) == "Second."
        assert [output async for output in first if isinstance(output, SpeechDelta)] == []


async def test_a_lost_connection_fails_the_answer_and_the_next_turn_replays_the_conversation() -> None:
    turn = noise(0.5)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.transcripts.append("what I said")
        server.answers.append(Speech("First.", noise(0.2)))
        heard = Heard("s1", turn)
        await answer(agent, Request(items=(user("u1", "hi"), spoken("s1")), heard=heard))
        assert await agent.transcribe(heard) == "what I said"
        server.answers.append(Hangup(1001, f"Your session with {KEY} hit the maximum duration."))
        history = (user("u1", "hi"), spoken("s1"), assistant("a1", "First."))
        with pytest.raises(AgentFailed, match=r"closed with 1001.*next turn connects again") as failed:
            await answer(agent, Request(items=(*history, user("u2", "more"))))
        assert KEY not in str(failed.value)

        server.answers.append(Speech("Back.", noise(0.2)))
        outputs = await answer(agent, Request(items=(*history, user("u2", "more"), user("u3", "again"))))
        assert said(outputs) == "Back."
        assert texts(server.items) == ["hi", "what I said", "First.", "more", "again"]
        assert len(server.handshakes) == 2


async def test_a_turn_heard_while_the_connection_was_gone_is_sent_whole() -> None:
    turn = noise(0.8)
    async with RealtimeServer() as server, agent_of(server) as agent:
        agent.hear(turn[:9_600])
        await server.saw("input_audio_buffer.append")
        await server.hang_up()
        agent.hear(turn[9_600:])
        server.answers.append(Speech("Yes.", noise(0.2)))
        await answer(agent, Request(items=(spoken("s1"),), heard=Heard("s1", turn)))
        (committed,) = server.sounds.values()
        np.testing.assert_array_equal(committed, turn)


async def test_an_upstream_that_is_down_fails_each_turn_until_it_is_back() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.refuse_with = 503
        await server.hang_up()
        server.answers.append(Speech("Back.", noise(0.2)))
        request = Request(items=(user("u1", "hi"),))
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(AgentFailed):
                await answer(agent, request)
        server.refuse_with = None
        assert said(await answer(agent, request)) == "Back."


async def test_a_refused_key_is_told_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with RealtimeServer(refuse_with=401) as server:
        agent = RealtimeAgent(
            AgentsConfig(upstream=RealtimeUpstream(base_url=server.url)), {"OPENAI_API_KEY": KEY}
        )
        with pytest.raises(AgentFailed, match="HTTP 401; OPENAI_API_KEY may not be its key") as failed:
            await agent.open()
        await agent.close()
        assert KEY not in str(failed.value)
        assert failed.value.__cause__ is None
        assert KEY not in caplog.text


async def test_the_base_url_of_the_environment_takes_the_place_of_the_configured_one() -> None:
    async with RealtimeServer() as server:
        config = AgentsConfig(upstream=RealtimeUpstream(base_url="http://127.0.0.1:9/v1"))
        agent = RealtimeAgent(config, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url})
        await agent.open()
        await agent.close()
        assert len(server.handshakes) == 1


@pytest.mark.parametrize(
    "address", ["ftp://user:hunter2@host/v1", "no-address", "http://[hunter2", "http://a:hunter2"]
)
async def test_an_unusable_base_url_is_refused_without_being_shown(address: str) -> None:
    agent = RealtimeAgent(AgentsConfig(upstream=RealtimeUpstream(base_url=address)), {"OPENAI_API_KEY": KEY})
    with pytest.raises(AgentFailed, match="expected a base URL") as failed:
        await agent.open()
    assert "hunter2" not in str(failed.value)


async def test_an_unreachable_upstream_is_named() -> None:
    config = AgentsConfig(upstream=RealtimeUpstream(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(AgentFailed, match=r"127\.0\.0\.1:9: expected a connection"):
        await RealtimeAgent(config, {"OPENAI_API_KEY": KEY}).open()


async def test_a_missing_key_names_its_variable() -> None:
    with pytest.raises(AgentFailed, match="OPENAI_API_KEY"):
        await RealtimeAgent(AgentsConfig(), {}).open()


async def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(AgentFailed, match=r"serve-app\[realtime\]"):
        await RealtimeAgent(AgentsConfig(), {"OPENAI_API_KEY": KEY}).open()


async def test_a_refused_session_fails_to_open_with_the_upstreams_words() -> None:
    refusal = {"code": "invalid_model", "message": f"The model is not for {KEY}."}
    async with RealtimeServer(refuse={"session.update": refusal}) as server:
        agent = RealtimeAgent(
            AgentsConfig(upstream=RealtimeUpstream(base_url=server.url)), {"OPENAI_API_KEY": KEY}
        )
        with pytest.raises(AgentFailed, match=r"The model is not for \(key\)"):
            await agent.open()
        await agent.close()


async def test_refused_settings_fail_the_answer_and_are_tried_again() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.refuse["session.update"] = {"code": "invalid_value", "message": "no such voice"}
        server.answers.append(Stall(noise(0.2), begins=False))
        request = Request(items=(user("u1", "hi"),), voice="nobody")
        with pytest.raises(AgentFailed, match="no such voice"):
            await answer(agent, request)
        server.refuse.clear()
        server.answers.append(Speech("Now.", noise(0.2)))
        assert said(await answer(agent, request)) == "Now."
        assert server.session["audio"]["output"]["voice"] == "nobody"


async def test_a_refused_or_failed_response_fails_with_the_upstreams_words() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        request = Request(items=(user("u1", "hi"),))
        server.refuse["response.create"] = {"code": "rate_limit_exceeded", "message": "Slow down."}
        with pytest.raises(AgentFailed, match=r"Slow down\."):
            await answer(agent, request)
        server.refuse.clear()
        server.answers.append(Fails("The model fell over."))
        with pytest.raises(AgentFailed, match=r"The model fell over\."):
            await answer(agent, request)


async def test_an_upstream_that_says_nothing_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_response, "ANSWER_TIMEOUT_S", 0.1)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(0.1), begins=False))
        with pytest.raises(AgentFailed, match="expected more of its answer"):
            await answer(agent, Request(items=(user("u1", "hi"),)))
        monkeypatch.undo()
        server.answers.append(Speech("Anew.", noise(0.1)))
        assert said(await answer(agent, Request(items=(user("u1", "hi"),)))) == "Anew."
        assert len(server.handshakes) == 2


async def test_speech_without_end_is_not_kept() -> None:
    async with RealtimeServer() as server, agent_of(server, max_response_s=0.2) as agent:
        server.answers.append(Speech("Too long.", noise(0.8)))
        outputs = await answer(agent, Request(items=(user("u1", "hi"),)))
        assert len(sound(outputs)) == 0.4 * AGENT_HZ, "the piece that crosses the limit is the last"


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        '{"no": "type"}',
        '{"type": "response.output_audio.delta", "response_id": "RESPONSE", "item_id": "i", "delta": "@@"}',
        '{"type": "response.output_audio.delta", "response_id": "RESPONSE", "delta": "AAAA"}',
        '{"type": "response.output_item.done", "response_id": "RESPONSE", "item": 3}',
        '{"type": "response.done"}',
        '{"type": "error", "error": null}',
        '{"type": "input_audio_buffer.committed"}',
    ],
)
async def test_events_that_cannot_be_read_fail_the_answer_not_the_agent(message: str) -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        request = Request(items=(user("u1", "hi"),))
        server.answers.append(Raw((message,)))
        with pytest.raises(AgentFailed, match="realtime upstream: it sent"):
            await answer(agent, request)
        server.answers.append(Speech("Fine.", noise(0.1)))
        assert said(await answer(agent, request)) == "Fine."


async def test_unknown_events_are_passed_over() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        done = {"type": "response.done", "response": {"id": "RESPONSE", "status": "completed", "output": []}}
        server.answers.append(Raw(('{"type": "rate_limits.updated"}', '{"type": "x.y"}', json.dumps(done))))
        assert await answer(agent, Request(items=(user("u1", "hi"),))) == []


async def test_a_turn_is_transcribed_and_committed_once() -> None:
    turn = noise(0.5)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.transcripts.extend(["some words", None])
        server.answers.append(Speech("Yes.", noise(0.2)))
        heard = Heard("s1", turn)
        request = Request(items=(user("u1", "before"), spoken("s1")), heard=heard)
        words, outputs = await asyncio.gather(agent.transcribe(heard), answer(agent, request))
        assert (words, said(outputs)) == ("some words", "Yes.")
        assert len(server.sounds) == 1
        assert texts(server.items) == ["before", "(sound)"], "the text comes before the turn that followed it"
        assert await agent.transcribe(Heard("s2", turn)) is None, "a failed transcription is no transcript"


async def test_a_transcript_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TRANSCRIPT_TIMEOUT_S", 0.05)
    async with RealtimeServer() as server, agent_of(server) as agent:
        assert await agent.transcribe(Heard("s1", noise(0.5))) is None


async def test_a_turn_too_short_for_the_upstream_is_answered_from_the_rest() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("Pardon?", noise(0.2)))
        heard = Heard("s1", noise(0.05))
        assert said(await answer(agent, Request(items=(spoken("s1"),), heard=heard))) == "Pardon?"
        assert await agent.transcribe(heard) is None


async def test_sound_that_was_thrown_away_is_taken_back() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        agent.hear(noise(0.3))
        agent.forget_heard()
        await server.saw("input_audio_buffer.clear")
        agent.forget_heard()
        turn = noise(0.4, seed=2)
        server.answers.append(Speech("Yes.", noise(0.2)))
        await answer(agent, Request(items=(spoken("s1"),), heard=Heard("s1", turn)))
        (committed,) = server.sounds.values()
        np.testing.assert_array_equal(committed, turn)
        assert len(server.sent("input_audio_buffer.clear")) == 1


async def test_deleted_and_inserted_items_are_mirrored() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.extend([Speech("A.", noise(0.1)), Speech("B.", noise(0.1))])
        await answer(agent, Request(items=(user("u1", "one"), user("u2", "two"))))
        items = (user("u0", "zero"), user("u2", "two"), user("u3", "three"), assistant("a1", "A."))
        await answer(agent, Request(items=items))
        assert [item["id"] for item in server.items[:3]] == ["u0", "u2", "u3"]
        assert len(server.items) == 5


async def test_a_response_aside_joins_nothing_and_leaves_the_running_one_alone() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.extend([Stall(noise(0.1)), Speech("B.", noise(0.1))])
        one = user("u1", "one")
        running = agent.respond(Request(items=(one,), instructions="Talk."))
        await anext(running)
        items = one, user("x1", "judge")
        aside = Request(items=items, instructions="Judge.", with_sound=False, aside=True, own_input=True)
        assert said(await answer(agent, aside)) == "B."
        assert server.sent("response.create")[-1]["response"] == {
            "conversation": "none",
            "input": [
                {"type": "item_reference", "id": "u1"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "judge"}]},
            ],
            "output_modalities": ["text"],
            "tools": [],
            "tool_choice": "auto",
            "instructions": "Judge.",
        }
        assert texts(server.items) == ["one"]
        assert server.session["instructions"] == "Talk."
        assert not server.sent("response.cancel")
        await running.aclose()


async def test_a_response_aside_from_the_whole_conversation_hears_its_spoken_turn() -> None:
    turn = noise(0.4)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("B.", noise(0.1)))
        request = Request(items=(user("u1", "one"), spoken("s1")), heard=Heard("s1", turn), aside=True)
        await answer(agent, request)
        (committed,) = server.sounds
        references = [{"type": "item_reference", "id": "u1"}]
        assert server.sent("response.create")[0]["response"]["input"][:1] == references
        assert [item["id"] for item in server.items] == ["u1", committed]


async def test_sound_in_a_responses_own_input_is_sent_with_it() -> None:
    turn = noise(0.2)
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Speech("B.", noise(0.1)))
        await answer(agent, Request(items=(spoken("s1"),), heard=Heard("s1", turn), own_input=True))
        (item,) = server.sent("response.create")[0]["response"]["input"]
        (part,) = item["content"]
        assert base64.b64decode(part["audio"]) == turn.tobytes()
        assert not server.sounds


async def test_a_response_with_its_own_input_leaves_the_conversation_as_it_is() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.extend([Speech("A.", noise(0.1)), Speech("B.", noise(0.1))])
        await answer(agent, Request(items=(user("u1", "one"),)))
        await answer(agent, Request(items=(user("x1", "other"),), own_input=True))
        assert server.sent("response.create")[-1]["response"] == {
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "other"}]}
            ]
        }
        assert server.items[0]["id"] == "u1"
        assert not server.sent("conversation.item.delete")


async def test_closing_in_the_middle_of_an_answer_ends_it() -> None:
    async with RealtimeServer() as server, agent_of(server) as agent:
        server.answers.append(Stall(noise(0.2)))
        outputs = agent.respond(Request(items=(user("u1", "hi"),)))
        await anext(outputs)
        await agent.close()
        with pytest.raises(AgentFailed, match="conversation ended"):
            await anext(outputs)
        with pytest.raises(AgentFailed, match="expected an open conversation"):
            await answer(agent, Request())
