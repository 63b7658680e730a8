"""Whole conversations against golden files; `UPDATE_GOLDEN=1 pytest …` writes them anew, to be read."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve_app.agents.base import ToolCall, TranscriptDelta, Usage
from serve_app.conversation.spec import Dialect
from tests.unit.conversation.scene import DIALECTS, Scene, pcm, settle, speech, tone
from tests.unit.conversation.transcript import transcript_of
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden"


def with_transcription(scene: Scene) -> None:
    if scene.dialect == "ga":
        scene.update(audio={"input": {"transcription": {"model": "whisper-1"}}})
    else:
        scene.update(input_audio_transcription={"model": "whisper-1"})


def manual(scene: Scene) -> None:
    if scene.dialect == "ga":
        scene.update(audio={"input": {"turn_detection": None}})
    else:
        scene.update(turn_detection=None)


async def spoken_turn(scene: Scene) -> None:
    with_transcription(scene)
    go_on = asyncio.Event()
    scene.agent.answers = [
        [speech(0.5), go_on, TranscriptDelta("Hello ", 0.0), TranscriptDelta("you.", 0.3), Usage(10, 20)]
    ]
    scene.speak()
    await settle()
    scene.speaker.play(0.2)
    go_on.set()
    await settle()
    scene.speaker.play()


async def text_turn(scene: Scene) -> None:
    modalities = "output_modalities" if scene.dialect == "ga" else "modalities"
    scene.agent.answers = [[TranscriptDelta("Written "), TranscriptDelta("words.")]]
    scene.text("Write to me.")
    scene.send("response.create", response={modalities: ["text"], "metadata": {"topic": "letters"}})
    await settle()


async def tool_call_turn(scene: Scene) -> None:
    scene.agent.answers = [
        [ToolCall("get_weather", '{"location":"Rome"}', "call_1")],
        [TranscriptDelta("Sunny.", 0.0), speech(0.5)],
    ]
    scene.text("How is the weather?")
    scene.send("response.create")
    await settle()
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny in Rome"}
    scene.send("conversation.item.create", item=output)
    scene.send("response.create")
    await settle()
    scene.speaker.play()


async def barge_in(scene: Scene) -> None:
    never = asyncio.Event()
    scene.agent.answers = [
        [TranscriptDelta("One ", 0.0), speech(1.0), TranscriptDelta("two ", 1.0), speech(1.0), never],
        [TranscriptDelta("Yes?", 0.0), speech(0.3)],
    ]
    scene.speak()
    await settle()
    scene.speaker.play(0.75)
    scene.speak()
    await settle()
    scene.speaker.play()


async def manual_turn(scene: Scene) -> None:
    manual(scene)
    scene.send("input_audio_buffer.append", audio=pcm(tone(0.05)))
    scene.send("input_audio_buffer.commit")
    scene.send("input_audio_buffer.append", audio=pcm(tone(0.5)))
    scene.send("input_audio_buffer.commit")
    scene.agent.answers = [[TranscriptDelta("Heard.", 0.0), speech(0.3)]]
    scene.send("response.create")
    await settle()


async def cancel(scene: Scene) -> None:
    never = asyncio.Event()
    scene.agent.answers = [[TranscriptDelta("A long ", 0.0), speech(0.5), never]]
    scene.text("Tell me a story.")
    scene.send("response.create")
    await settle()
    scene.speaker.play(0.1)
    scene.send("response.create", event_id="too_soon")
    scene.send("response.cancel")
    scene.send("response.cancel", event_id="too_late")
    scene.send("output_audio_buffer.clear")
    await settle()


SCENARIOS: dict[Callable[[Scene], Awaitable[None]], tuple[str, str]] = {
    spoken_turn: ("track", "media"),
    text_turn: ("track", "media"),
    tool_call_turn: ("track", "media"),
    barge_in: ("track", "media"),
    manual_turn: ("events", "events"),
    cancel: ("track", "media"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_conversation_goes_as_written(scenario: Callable[[Scene], Awaitable[None]], dialect: Dialect) -> None:
    sound_in, sound_out = SCENARIOS[scenario]
    lines: list[str] = []

    async def play(clock: VirtualClock) -> None:
        scene = Scene(clock, dialect, sound_in=sound_in, sound_out=sound_out)
        await scenario(scene)
        lines.extend(transcript_of(scene.events))
        await scene.conversation.close()

    run_virtual(play)
    path = GOLDEN / f"{scenario.__name__}.{dialect}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    assert [json.loads(line) for line in lines] == json.loads(path.read_text())
