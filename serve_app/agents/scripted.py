"""The agent that follows a script: rules in a YAML file, spoken by the synthesizer."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from serve_app.agents.base import Heard, Output, Request, ToolCall
from serve_app.agents.items import (
    has_part,
    is_message,
    last_tool_output,
    last_user_message,
    offered,
    output_of,
    tool_of,
    words_of,
)
from serve_app.agents.script import MAX_TEXT_CHARS, Call, Reply, Script, When, filled, load_script
from serve_app.agents.voice import Voice, say
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16


@dataclass(frozen=True, slots=True)
class _Turn:
    """What rules look at: `tool` is None unless a function's result is to be answered."""

    text: str
    number: int
    is_heard: bool
    tool: str | None
    output: str


class ScriptedAgent:
    """Answers by a script, see agents.script.

    Spoken turns are answered by rules with `heard`, `turn`, or by the default: their words are not known.
    `tool_choice` "none" keeps it from calling; "required" and names of functions do not bind a script.

    Args:
        path: the script; None fails at `open`.
        voice: speaks its texts.
    """

    def __init__(self, path: Path | None, voice: Voice) -> None:
        self._path = path
        self._voice = voice
        self._script: Script | None = None

    async def open(self) -> None:
        """Read the script.

        Raises:
            AgentFailed: there is none, or it is wrong; says where.
        """
        if self._path is None:
            raise AgentFailed("agents.script: expected the path of a YAML file, got none")
        self._script = await asyncio.to_thread(load_script, self._path)

    def hear(self, samples: Int16) -> None:
        """Sound is not looked at."""

    def forget_heard(self) -> None:
        """There is nothing to forget."""

    async def transcribe(self, heard: Heard) -> str | None:
        """Return None: a script does not know what was spoken."""
        return None

    async def heard_until(self, item_id: str, played_s: float) -> None:
        """Nothing depends on what was heard of an answer."""

    async def close(self) -> None:
        """Nothing is held."""

    async def respond(self, request: Request) -> AsyncGenerator[Output, None]:
        """Yield what the first rule that fits says and calls.

        Raises:
            AgentFailed: the script was never read.
        """
        script = self._script
        if script is None:
            raise AgentFailed("scripted: expected a script, got none that was read")
        reply, fields = _reply(script, request)
        call = _tool_call(reply.call, fields, request)
        text = reply.say
        if text is None and call is None:
            text = script.default.say
        if text is not None:
            async with aclosing(say(filled(text, fields), request, self._voice)) as outputs:
                async for output in outputs:
                    yield output
        if call is not None:
            yield call


def _reply(script: Script, request: Request) -> tuple[Reply, dict[str, str]]:
    """Return the reply and the values of its templates' fields."""
    turn = _turn(request)
    fields = {"text": turn.text, "output": turn.output}
    if turn.number == 0 and turn.tool is None:
        return Reply(say=script.greeting), fields
    for rule in script.rules:
        groups = _fits(rule.when, turn)
        if groups is not None:
            return rule, groups | fields
    if turn.tool is not None and turn.output:
        return Reply(say="{output}"), fields
    return script.default, fields


def _turn(request: Request) -> _Turn:
    result = last_tool_output(request.items) if request.heard is None else None
    message = last_user_message(request.items)
    is_heard = request.heard is not None or (message is not None and has_part(message, "input_audio"))
    outputs = [output_of(item) for item in request.items if item.get("type") == "function_call_output"]
    return _Turn(
        text=words_of(message)[:MAX_TEXT_CHARS] if message is not None else "",
        number=sum(is_message(item, "user") for item in request.items),
        is_heard=is_heard,
        tool=None if result is None else tool_of(result, request.items) or "",
        output=outputs[-1][:MAX_TEXT_CHARS] if outputs else "",
    )


def _fits(when: When, turn: _Turn) -> dict[str, str] | None:
    """Return the groups of the rule's expression when the rule fits, None when it does not."""
    # A result is answered only by rules that ask for it: what the user said was answered with the call.
    if when.result != turn.tool or when.turn not in (None, turn.number):
        return None
    if when.heard not in (None, turn.is_heard):
        return None
    if when.pattern is None:
        return {}
    match = when.pattern.search(turn.text) if turn.text else None
    if match is None:
        return None
    numbered = {str(number): match[number] or "" for number in range(match.re.groups + 1)}
    return numbered | {name: value or "" for name, value in match.groupdict().items()}


def _tool_call(call: Call | None, fields: dict[str, str], request: Request) -> ToolCall | None:
    if call is None or request.tool_choice == "none" or call.name not in offered(request.tools):
        return None
    arguments = json.dumps(_filled_in(call.arguments, fields), ensure_ascii=False)
    return ToolCall(call.name, arguments, f"call_{uuid.uuid4().hex[:16]}")


def _filled_in(value: object, fields: dict[str, str]) -> object:
    """Return `value` with every string in it filled as a template."""
    if isinstance(value, str):
        return filled(value, fields)
    if isinstance(value, list):
        return [_filled_in(inner, fields) for inner in value]
    if isinstance(value, dict):
        return {key: _filled_in(inner, fields) for key, inner in value.items()}
    return value
