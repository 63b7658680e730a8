"""The agent that repeats: what was said comes back in the speaker's own voice, what was written is spoken.

It needs no network and no model, and so shows whether everything around an agent works: turns, barge-in,
transcripts, tools. Tools are called by fixed rules, see `EchoAgent`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np

from serve_app.agents.arguments import arguments_for
from serve_app.agents.base import AGENT_HZ, Heard, Output, Request, ToolCall
from serve_app.agents.items import (
    Item,
    has_part,
    last_tool_output,
    last_user_message,
    offered,
    output_of,
    tool_of,
    words_of,
)
from serve_app.agents.voice import Voice, pieces, say
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16

GREETING = "Hello. I repeat what you say."
NOTHING_TO_REPEAT = "I have nothing to repeat."
IMAGE_SEEN = "I see an image."

FADE_S = 0.005
"""Cut sound begins and ends this softly, so that the cut does not click."""

_FRAME_S = 0.01
_KEPT_BEFORE_S = 0.03
_KEPT_AFTER_S = 0.08
_FLOOR = 60.0
"""Root mean square of a frame, in int16 steps (-55 dBFS), under which all is silence."""

_RELATIVE_FLOOR = 0.04
"""The same as a part of the loudest frame: -28 dB."""

_COMMAND = re.compile(r"\s*/call\s+(\S+)\s*(.*)", re.DOTALL)
MAX_COMMAND_CHARS = 16_000


def trimmed(samples: Int16, hz: int) -> Int16:
    """Return the part of [S] samples that is not silence before or after the speech, softly cut.

    Sound that is all silence comes back whole.
    """
    frame = round(_FRAME_S * hz)
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float32)  # [F, frame]
    if not len(frames):
        return samples
    loudness = np.sqrt(np.mean(np.square(frames), axis=1))  # [F]
    loud = np.flatnonzero(loudness > max(_FLOOR, _RELATIVE_FLOOR * float(loudness.max())))
    if not len(loud):
        return samples
    first = max(0, int(loud[0]) * frame - round(_KEPT_BEFORE_S * hz))
    last = min(len(samples), (int(loud[-1]) + 1) * frame + round(_KEPT_AFTER_S * hz))
    return _faded(samples[first:last], hz)


def _faded(samples: Int16, hz: int) -> Int16:
    length = min(round(FADE_S * hz), len(samples) // 2)
    ramp = np.linspace(0.0, 1.0, length, endpoint=False, dtype=np.float32)  # [length]
    faded = samples.copy()
    faded[:length] = samples[:length] * ramp
    faded[len(samples) - length :] = samples[len(samples) - length :] * ramp[::-1]
    return faded


class EchoAgent:
    """Repeats the user's turns; the default agent.

    A response is, by the first of these that fits:

    1. after a tool's result: the result, spoken;
    2. with a `tool_choice` that names a function: a call of it, its arguments made from its schema;
    3. after a text `/call NAME {json}`, or one that holds a tool's name as a whole word: a call of that tool;
       with `tool_choice` "required" after anything else: of the first tool;
    4. a spoken turn: its sound, without the silence around it. The words are not known, so there is no
       transcript, and where text is asked for it says how much was heard;
    5. a text: the text, spoken;
    6. nothing from the user yet: a greeting.

    Args:
        voice: speaks texts.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    async def open(self) -> None:
        """Nothing has to be got ready."""

    def hear(self, samples: Int16) -> None:
        """Whole turns are enough; sound on its way is not used."""

    def forget_heard(self) -> None:
        """There is nothing to forget."""

    async def transcribe(self, heard: Heard) -> str | None:
        """Return None: an echo does not know words."""
        return None

    async def heard_until(self, item_id: str, played_s: float) -> None:
        """Nothing depends on what was heard of an answer."""

    async def close(self) -> None:
        """Nothing is held."""

    async def respond(self, request: Request) -> AsyncGenerator[Output, None]:
        """Yield the echo, or a tool call.

        Raises:
            AgentFailed: `tool_choice` names a function that is not among the tools.
        """
        if call := _tool_call(request):
            yield call
        elif request.heard is not None and last_tool_output(request.items) is None and request.with_sound:
            for piece in pieces(trimmed(request.heard.samples, AGENT_HZ), AGENT_HZ):
                yield piece
        else:
            async with aclosing(say(_answer(request), request, self._voice)) as outputs:
                async for output in outputs:
                    yield output


def _answer(request: Request) -> str:
    """Return what is to be said where words are."""
    if (output := last_tool_output(request.items)) is not None:
        name = tool_of(output, request.items) or "The function"
        return f"{name} says: {_plain(output_of(output)) or 'nothing.'}"
    if request.heard is not None:
        seconds = len(trimmed(request.heard.samples, AGENT_HZ)) / AGENT_HZ
        return f"I heard {seconds:.1f} seconds of sound."
    message = last_user_message(request.items)
    if message is None:
        return GREETING
    text = words_of(message)
    if command := _COMMAND.fullmatch(text[:MAX_COMMAND_CHARS]):
        return _complaint(command, request)
    return text or (IMAGE_SEEN if has_part(message, "input_image") else NOTHING_TO_REPEAT)


def _plain(output: str) -> str:
    """Return a tool's result as text: results are often JSON strings."""
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        return output
    return value if isinstance(value, str) else output


def _tool_call(request: Request) -> ToolCall | None:
    """Return the call that this response is, by the rules of EchoAgent; None when it is none."""
    if last_tool_output(request.items) is not None or request.tool_choice == "none":
        return None
    tools = offered(request.tools)
    # A spoken turn is the newest thing the user said, and its words are unknown: an older text is not meant.
    message = None if request.heard is not None else last_user_message(request.items)
    text = words_of(message)[:MAX_COMMAND_CHARS] if message is not None else ""
    if (named := _named(request.tool_choice, tools)) is not None:
        return _call(named, tools[named], text)
    if command := _COMMAND.fullmatch(text):
        given = _object(command[2])
        if command[1] in tools and given is not None:
            return _call(command[1], tools[command[1]], "", given)
        text = ""  # the complaint about a wrong command holds names that are not meant to be called
    first = next(iter(tools), None) if request.tool_choice == "required" else None
    name = next((name for name in tools if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)), first)
    return _call(name, tools[name], text) if name is not None else None


def _complaint(command: re.Match[str], request: Request) -> str:
    """Return what is wrong with a `/call` that became no call."""
    tools = offered(request.tools)
    if command[1] not in tools:
        return f"Expected one of the functions {', '.join(tools) or '(none)'}, got {command[1]}."
    if _object(command[2]) is None:
        return f"Expected a JSON object after /call {command[1]}."
    return command[0]


def _named(choice: str | dict[str, Any], tools: dict[str, Item]) -> str | None:
    """Return the function that a `tool_choice` names; None when it names none."""
    if isinstance(choice, str):
        return None
    inner = choice.get("function")  # Chat Completions' shape, which some clients send here too
    name = choice.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    if not isinstance(name, str) or name not in tools:
        known = ", ".join(tools) or "(none)"
        raise AgentFailed(f"tool_choice: expected one of the functions {known}, got {name!r}")
    return name


def _object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in `text`, an empty one for no text, None for anything else."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"expected JSON, got {constant}")


def _call(name: str, tool: Item, text: str, given: dict[str, Any] | None = None) -> ToolCall:
    return ToolCall(name, arguments_for(tool.get("parameters"), text, given), f"call_{uuid.uuid4().hex[:16]}")
