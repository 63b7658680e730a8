from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.agents.base import AGENT_HZ, Heard, Request, ToolCall
from serve_app.agents.scripted import ScriptedAgent
from serve_app.errors import AgentFailed
from tests.unit.agents.fake_voice import (
    FakeVoice,
    called,
    outputs_of,
    said,
    spoken,
    tool,
    tool_call,
    tool_output,
    user,
)

pytestmark = pytest.mark.unit

SCRIPT = r"""
greeting: Welcome.
rules:
  - when: 'my name is (?P<name>\w+)( \w+)?'
    say: 'Hello {name}, or {1}. You said: {0}.'
  - when: 'weather in (\w+)'
    say: Let me look.
    call: {name: get_weather, arguments: {place: '{1}', days: 2, tags: ['{text}', {deep: '{{x}}'}]}}
  - when: 'only call'
    call: {name: get_weather}
  - when: {result: get_weather}
    say: 'It is {output} after you asked {text}.'
  - when: {text: again, turn: 3}
    say: 'Third again; before: {output}.'
  - when: {turn: 2, heard: false}
    say: Second in writing.
  - when: {heard: true}
    say: I hear.
default: {say: 'Not understood: {text}.'}
"""
WEATHER = (tool("get_weather"),)


@pytest.fixture
async def agent(tmp_path: Path) -> ScriptedAgent:
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    agent = ScriptedAgent(path, FakeVoice())
    await agent.open()
    return agent


def heard(item_id: str = "s1") -> Heard:
    return Heard(item_id, np.ones(AGENT_HZ // 10, np.int16))


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        ((), "Welcome."),
        ((user("My NAME is Ada Lovelace!"),), "Hello Ada, or Ada. You said: My NAME is Ada Lovelace."),
        ((user("hm"),), "Not understood: hm."),
        ((user("hm"), user("hm")), "Second in writing."),
        ((user("a"), tool_output("sun"), user("b"), user("again")), "Third again; before: sun."),
        ((user("q"), tool_call("get_weather"), tool_output("sun")), "It is sun after you asked q."),
        ((user("q"), tool_call("other"), tool_output("42")), "42"),
        ((user("q"), tool_call("other"), tool_output("")), "Not understood: q."),
        ((user("only call"),), "Not understood: only call."),
        ((user("weather in Rome"),), "Let me look."),
        ((spoken("s1", "my name is Ada"),), "Hello Ada, or Ada. You said: my name is Ada."),
    ],
)
async def test_the_first_rule_that_fits_answers(
    agent: ScriptedAgent, items: tuple[dict[str, Any], ...], answer: str
) -> None:
    assert await said(agent, Request(items=items)) == answer


async def test_spoken_turns_are_answered_by_rules_for_them(agent: ScriptedAgent) -> None:
    items = user("my name is Ada"), spoken("s1")
    assert await said(agent, Request(items=items, heard=heard())) == "I hear."
    assert await agent.transcribe(heard()) is None


async def test_a_rule_speaks_and_calls_with_filled_arguments(agent: ScriptedAgent) -> None:
    *speech, call = await outputs_of(agent, Request(items=(user("weather in Rome"),), tools=WEATHER))
    assert speech
    assert isinstance(call, ToolCall)
    assert call.name == "get_weather"
    expected = {"place": "Rome", "days": 2, "tags": ["weather in Rome", {"deep": "{x}"}]}
    assert json.loads(call.arguments) == expected


async def test_a_rule_may_only_call(agent: ScriptedAgent) -> None:
    call = await called(agent, Request(items=(user("only call"),), tools=WEATHER))
    assert (call.name, call.arguments) == ("get_weather", "{}")


async def test_the_choice_none_keeps_a_script_from_calling(agent: ScriptedAgent) -> None:
    request = Request(items=(user("weather in Rome"),), tools=WEATHER, tool_choice="none")
    assert await said(agent, request) == "Let me look."


async def test_long_texts_are_looked_at_in_part(agent: ScriptedAgent) -> None:
    text = "x" * 3_000 + " my name is Ada"
    assert (await said(agent, Request(items=(user(text),)))).startswith("Not understood: xxx")


async def test_a_script_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(AgentFailed, match=r"agents\.script: expected the path of a YAML file, got none"):
        await ScriptedAgent(None, FakeVoice()).open()
    with pytest.raises(AgentFailed, match=r"none\.yaml"):
        await ScriptedAgent(tmp_path / "none.yaml", FakeVoice()).open()
