"""NavTalk's words against the real conversation: what goes in is understood, and what comes out is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_app.agents.base import ToolCall, TranscriptDelta
from serve_app.gateway.navtalk.dialogue import Dialogue
from serve_app.gateway.navtalk.door import SESSION
from serve_app.gateway.navtalk.messages import (
    Answer,
    Candidate,
    Offer,
    parse_message,
)
from serve_app.session.events import ConversationEvent
from tests.unit.conversation.scene import Scene, pcm, speech, tone
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit


class Talk:
    """A NavTalk client's socket, a dialogue and a conversation behind it.

    Attributes:
        told: everything the client was told.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.scene = Scene(clock, "beta", session=SESSION, sound_in="events", is_started=False)
        self.dialogue = Dialogue(self.scene.conversation.receive)
        self.told: list[dict[str, Any]] = []
        self._num_told = 0

    async def start(self) -> None:
        self.scene.conversation.start()
        await self.settle()

    async def send(self, kind: str, **data: object) -> None:
        message = parse_message(json.dumps({"type": kind, "data": data}), 1_000_000)
        assert not isinstance(message, Answer | Offer | Candidate)
        self.told += await self.dialogue.receive(message)
        await self.settle()

    async def settle(self) -> None:
        await asyncio.sleep(0.01)
        for event in self.scene.events[self._num_told :]:
            self.told += self.dialogue.tell(ConversationEvent(event))
        self._num_told = len(self.scene.events)

    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("realtime.") for event in self.told]


def play(scenario: Callable[[Talk], Awaitable[None]]) -> Talk:
    talks: list[Talk] = []

    async def run(clock: VirtualClock) -> None:
        talks.append(Talk(clock))
        await scenario(talks[0])

    run_virtual(run)
    return talks[0]


def test_a_conversation_begins_with_one_open_microphone() -> None:
    async def scenario(talk: Talk) -> None:
        content = json.dumps({"voice": "cedar", "prompt": "be kind", "tools": []})
        await talk.send("realtime.input_config", content=content)
        await talk.start()

    talk = play(scenario)

    assert talk.kinds() == ["session.created", "session.updated"]


def test_settings_reach_the_agent() -> None:
    tool = {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": [], "required": []},
    }

    async def scenario(talk: Talk) -> None:
        await talk.start()
        await talk.send("realtime.input_config", content=json.dumps({"voice": "sage", "prompt": "be kind"}))
        await talk.send("realtime.input_function_call", content=json.dumps([tool]))
        await talk.send("realtime.input_text", content="good day")

    talk = play(scenario)
    [request] = talk.scene.agent.requests

    assert "error" not in talk.kinds()
    assert (request.instructions, request.voice) == ("be kind", "sage")
    assert request.tools[0]["parameters"]["properties"] == {}
    assert request.items[-1]["content"][0]["text"] == "good day"


def test_an_answer_is_told_as_it_is_said() -> None:
    async def scenario(talk: Talk) -> None:
        await talk.start()
        talk.scene.agent.answers = [[speech(0.5), TranscriptDelta("Good "), TranscriptDelta("day.")]]
        await talk.send("realtime.input_text", content="hello")
        talk.scene.speaker.play()
        await talk.settle()
        await asyncio.sleep(5)
        await talk.settle()

    talk = play(scenario)
    deltas = [event["data"] for event in talk.told if event["type"].endswith("audio_transcript.delta")]
    [done] = [event["data"] for event in talk.told if event["type"].endswith("audio_transcript.done")]

    assert "".join(delta["content"] for delta in deltas) == done["content"] == "Good day."
    assert {delta["id"] for delta in deltas} == {done["id"]}
    assert "response.audio.done" in talk.kinds()
    assert "error" not in talk.kinds()


def test_typed_text_cuts_an_answer_short_and_is_answered() -> None:
    async def scenario(talk: Talk) -> None:
        await talk.start()
        talk.scene.agent.answers = [[speech(5.0), asyncio.Event()], [speech(0.1)]]
        await talk.send("realtime.input_text", content="tell me a long story")
        talk.scene.speaker.play(0.5)
        await talk.send("realtime.input_text", content="stop")

    talk = play(scenario)

    assert len(talk.scene.agent.requests) == 2
    assert talk.scene.speaker.interrupts >= 1
    assert "error" not in talk.kinds()


def test_a_picture_waits_for_a_question() -> None:
    async def scenario(talk: Talk) -> None:
        await talk.start()
        await talk.send("realtime.input_image", content="data:image/jpeg;base64,/9j/", reply=0)
        await talk.send("realtime.input_text", content="what do you see")

    talk = play(scenario)
    [request] = talk.scene.agent.requests

    assert [part["type"] for item in request.items for part in item["content"]] == [
        "input_image",
        "input_text",
    ]
    assert "error" not in talk.kinds()


def test_functions_are_called_and_their_results_answered_together() -> None:
    async def scenario(talk: Talk) -> None:
        await talk.start()
        talk.scene.agent.answers = [
            [ToolCall("f", '{"a":1}', "call_1"), ToolCall("g", "{}", "call_2")],
            [speech(0.1)],
        ]
        await talk.send("realtime.input_text", content="hello")
        await talk.send("realtime.function_call_output", call_id="call_1", output="1")
        assert len(talk.scene.agent.requests) == 1
        await talk.send("realtime.function_call_output", call_id="call_2", output="2")
        await talk.send("response.create")

    talk = play(scenario)
    calls = [event for event in talk.told if event["type"].endswith("function_call_arguments.done")]

    assert [(call["data"]["function_name"], call["data"]["arguments"]) for call in calls] == [
        ("f", '{"a":1}'),
        ("g", "{}"),
    ]
    assert [call["raw_data"]["name"] for call in calls] == ["f", "g"]
    assert len(talk.scene.agent.requests) == 2
    assert "error" not in talk.kinds()


def test_sound_in_slices_reaches_the_agent() -> None:
    sound = pcm(tone(8_192 / 24_000))

    async def scenario(talk: Talk) -> None:
        await talk.start()
        for start in range(0, len(sound), 4_096):
            await talk.send("realtime.input_audio_buffer.append", audio=sound[start : start + 4_096])

    talk = play(scenario)

    assert talk.scene.agent.heard == 8_192
    assert "error" not in talk.kinds()
