"""Reading conversation items and tools: what was said, by whom, what may be called and what came of it.

Items have the shape of OpenAI Realtime (GA): `message`, `function_call` and `function_call_output`. They
came from clients in part, so nothing but their being dicts is taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Item = dict[str, Any]


def words_of(item: Item) -> str:
    """Return the text of a message: written parts, and transcripts of spoken ones; "" when there is none."""
    words = []
    for part in _parts(item):
        text = part.get("text") or part.get("transcript")
        if isinstance(text, str) and text:
            words.append(text)
    return " ".join(words)


def has_part(item: Item, kind: str) -> bool:
    """Return whether a message has a content part of this type, such as "input_image"."""
    return any(part.get("type") == kind for part in _parts(item))


def is_message(item: Item, role: str) -> bool:
    """Return whether this is a message of "user", "assistant" or "system"."""
    return item.get("type") == "message" and item.get("role") == role


def last_user_message(items: Sequence[Item]) -> Item | None:
    """Return the newest message of the user."""
    return next((item for item in reversed(items) if is_message(item, "user")), None)


def last_tool_output(items: Sequence[Item]) -> Item | None:
    """Return the newest item when it is a tool's result: then the response is to be about that."""
    return items[-1] if items and items[-1].get("type") == "function_call_output" else None


def output_of(item: Item) -> str:
    """Return the text of a `function_call_output`."""
    output = item.get("output")
    return output if isinstance(output, str) else ""


def tool_of(output: Item, items: Sequence[Item]) -> str | None:
    """Return the name of the function whose call `output` answers, when the call is among `items`."""
    call_id = output.get("call_id")
    for item in items:
        if item.get("type") == "function_call" and item.get("call_id") == call_id:
            name = item.get("name")
            return name if isinstance(name, str) else None
    return None


def offered(tools: tuple[dict[str, Any], ...]) -> dict[str, Item]:
    """Return the function tools that have a name, in their order."""
    return {
        tool["name"]: tool
        for tool in tools
        if tool.get("type", "function") == "function" and isinstance(tool.get("name"), str) and tool["name"]
    }


def _parts(item: Item) -> Iterator[Item]:
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield part
