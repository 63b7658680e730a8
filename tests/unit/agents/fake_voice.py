"""A synthesizer that says a word in 10 ms, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve_app.agents.base import Agent, Output, Request, SpeechDelta, ToolCall, TranscriptDelta
from serve_app.nouns import Int16

HZ = 22_050
WORD_SAMPLES = HZ // 100


@dataclass(frozen=True)
class FakeSpoken:
    samples: Int16
    hz: int
    text: str
    at_s: float


@dataclass
class FakeVoice:
    """Notes what it was asked for, and whether its iterators were closed."""

    asked: list[tuple[str, str, float]] = field(default_factory=list)
    closed: int = 0

    async def speak(self, text: str, voice: str, speed: float = 1.0) -> AsyncIterator[FakeSpoken]:
        self.asked.append((text, voice, speed))
        try:
            words = text.split(" ")
            for number, word in enumerate(words):
                said = word if number == len(words) - 1 else word + " "
                yield FakeSpoken(np.full(WORD_SAMPLES, number + 1, np.int16), HZ, said, number / 100)
        finally:
            self.closed += 1


async def outputs_of(agent: Agent, request: Request) -> list[Output]:
    return [output async for output in agent.respond(request)]


async def said(agent: Agent, request: Request) -> str:
    outputs = await outputs_of(agent, request)
    assert not any(isinstance(output, ToolCall) for output in outputs)
    return "".join(output.text for output in outputs if isinstance(output, TranscriptDelta))


async def called(agent: Agent, request: Request) -> ToolCall:
    (output,) = await outputs_of(agent, request)
    assert isinstance(output, ToolCall)
    return output


def sound_of(outputs: list[Output]) -> Int16:
    return np.concatenate([output.samples for output in outputs if isinstance(output, SpeechDelta)])


def user(text: str, item_id: str = "u1") -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def spoken(item_id: str = "s1", transcript: str | None = None) -> dict[str, Any]:
    content = [{"type": "input_audio", "transcript": transcript}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def tool_call(name: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": "c1", "type": "function_call", "name": name, "call_id": call_id, "arguments": "{}"}


def tool_output(output: str, call_id: str = "call_1") -> dict[str, Any]:
    return {"id": "r1", "type": "function_call_output", "call_id": call_id, "output": output}


def tool(name: str, parameters: object = None) -> dict[str, Any]:
    described = {"type": "function", "name": name, "description": f"Does {name}."}
    return described if parameters is None else described | {"parameters": parameters}
