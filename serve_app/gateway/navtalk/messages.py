"""What goes over the wire of the NavTalk door: document 002 and its current API pages. Sans-I/O.

A message is known by its `type` alone, wherever its fields stand: in `data`, as NavTalk wraps them, or
beside `type`, as its pages send the unwrapped ones. With or without the prefix "realtime." it is the same.

Conversations of this door speak the beta dialect of OpenAI Realtime. NavTalk's events are beta events with a
prefix, its pages send flat beta sessions, and `raw_data` of a function call is a beta event, so what is
passed on needs no translation.

Nothing a client sent is repeated in an error, so speech, prompts and SDP cannot reach a log that way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic_core import from_json

from serve_app.errors import AvatarError, InvalidMessage

PREFIX = "realtime."

MAX_MESSAGE_CHARS = 1_048_576
"""Longest message that is neither sound nor a picture."""

MAX_IMAGE_CHARS = 6 * 1_048_576
"""Longest `realtime.input_image`; a 1080p photograph as JPEG has about a third of that."""

MAX_TEXT_CHARS = 32_768
MAX_TOOLS = 128
MAX_CALL_ID_CHARS = 256

PASSED_ON = frozenset(
    {
        "session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.delete",
        "conversation.item.truncate",
        "response.create",
        "response.cancel",
    }
)
"""Client events of OpenAI Realtime that the conversation takes as they are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's answer to the server's offer."""

    sdp: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A client's own offer: it renegotiates, restarts ICE, or begins."""

    sdp: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """W3C RTCIceCandidateInit; None says that no more will come."""

    init: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """An OpenAI Realtime event of the client's, in the beta dialect."""

    event: dict[str, Any]

    @property
    def kind(self) -> str:
        """The event's type."""
        return str(self.event["type"])


@dataclass(frozen=True, slots=True)
class Settings:
    """Session settings in NavTalk's own words, as a beta session; confirmed by nothing."""

    session: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Say:
    """An item of the user's; with `reply` it interrupts and is answered at once."""

    item: dict[str, Any]
    reply: bool


@dataclass(frozen=True, slots=True)
class CallOutput:
    """The result of a function call in NavTalk's own words."""

    call_id: str
    output: str

    @property
    def item(self) -> dict[str, Any]:
        """The conversation item it becomes."""
        return {"type": "function_call_output", "call_id": self.call_id, "output": self.output}


Signal: TypeAlias = Answer | Offer | Candidate
ClientMessage: TypeAlias = Signal | ClientEvent | Settings | Say | CallOutput


def parse_message(text: str, max_sound_chars: int) -> ClientMessage:
    """Read one client message.

    Args:
        text: a text frame.
        max_sound_chars: longest base64 of `input_audio_buffer.append`.

    Raises:
        InvalidMessage: it is not a JSON object of a known type with its fields, or too long.
    """
    if len(text) > max(MAX_IMAGE_CHARS, max_sound_chars + 1024):
        raise InvalidMessage(f"expected at most {MAX_IMAGE_CHARS} characters, found {len(text)}")
    try:
        message = from_json(text, allow_inf_nan=False)
    except ValueError:
        raise InvalidMessage("expected a JSON object, found text that is not JSON") from None
    if not isinstance(message, dict):
        raise InvalidMessage(f"expected a JSON object, found {_named(message)}")
    kind = _required(message, "type").removeprefix(PREFIX)
    if len(text) > MAX_MESSAGE_CHARS and kind not in ("input_image", "input_audio_buffer.append"):
        raise InvalidMessage(f"expected at most {MAX_MESSAGE_CHARS} characters, found {len(text)}")
    data = message.get("data")
    if not isinstance(data, dict | None):
        raise InvalidMessage(f"data: expected an object, found {_named(data)}")
    fields = {key: value for key, value in message.items() if key not in ("type", "data")} | (data or {})
    return _parse(kind, fields, max_sound_chars)


def _parse(kind: str, fields: dict[str, Any], max_sound_chars: int) -> ClientMessage:
    own = _PARSERS.get(kind)
    if own is not None:
        return own(fields)
    if kind not in PASSED_ON:
        known = ", ".join((*_OWN, *sorted(PASSED_ON)))
        raise InvalidMessage(f"type: expected one of {known}; found another")
    if kind == "input_audio_buffer.append":
        _required(fields, "audio", max_sound_chars)
    session = fields.get("session")
    if kind == "session.update" and isinstance(session, dict) and "tools" in session:
        fields = fields | {"session": session | {"tools": _tools(session["tools"])}}
    return ClientEvent({"type": kind, **fields})


def _description(fields: dict[str, Any]) -> str:
    """Return the text of a description: `sdp` is W3C's RTCSessionDescriptionInit or the text itself."""
    sdp = fields.get("sdp")
    if isinstance(sdp, dict):
        return _required(sdp, "sdp")
    return _required(fields, "sdp")


def _candidate(fields: dict[str, Any]) -> dict[str, object] | None:
    """Return a candidate; null, or one with empty text, ends them (W3C webrtc-pc, 4.8.1)."""
    candidate = fields.get("candidate")
    if isinstance(candidate, str):
        # An iOS page puts the text where others put the object.
        candidate = fields
    if candidate is None:
        return None
    if not isinstance(candidate, dict):
        raise InvalidMessage(f"candidate: expected an object or null, found {_named(candidate)}")
    names = ("candidate", "sdpMid", "sdpMLineIndex", "usernameFragment")
    init = {name: candidate[name] for name in names if candidate.get(name) is not None}
    return init if init.get("candidate") else None


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    config = _content(fields, "an object of voice, prompt and tools") if "content" in fields else fields
    if not isinstance(config, dict):
        raise InvalidMessage(
            f"content: expected an object of voice, prompt and tools, found {_named(config)}"
        )
    session: dict[str, Any] = {}
    for name, setting in (("voice", "voice"), ("prompt", "instructions"), ("instructions", "instructions")):
        value = config.get(name)
        if not isinstance(value, str | None):
            raise InvalidMessage(f"{name}: expected a string, found {_named(value)}")
        if value:
            session[setting] = value
    if config.get("tools") is not None:
        session["tools"] = _tools(config["tools"])
    return session


def _content(fields: dict[str, Any], expected: str) -> object:
    """Return `content`: JSON in a string, or already the value."""
    content = fields.get("content")
    if content is None:
        raise InvalidMessage(f"expected a field content: {expected}, found none", missing="content")
    if not isinstance(content, str):
        return content
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError:
        raise InvalidMessage(f"content: expected JSON of {expected}, found text that is not JSON") from None


def _tools(value: object) -> list[dict[str, Any]]:
    """Return function tools; a schema with `"properties": []`, as the JavaScript SDK makes it, gets `{}`."""
    tools = [value] if isinstance(value, dict) else value
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidMessage("tools: expected an array of objects, found something else")
    if len(tools) > MAX_TOOLS:
        raise InvalidMessage(f"tools: expected at most {MAX_TOOLS}, found {len(tools)}")
    return [_tool(tool) for tool in tools]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters")
    if isinstance(parameters, dict) and parameters.get("properties") == []:
        tool = tool | {"parameters": parameters | {"properties": {}}}
    return {"type": "function", **tool}


def _image(fields: dict[str, Any]) -> Say:
    image = _required(fields, "content", MAX_IMAGE_CHARS)
    if not image.startswith("data:image/"):
        raise InvalidMessage("content: expected a data: URL of an image, found other text")
    reply = fields.get("reply", 0)
    if reply not in (0, 1, "0", "1"):
        raise InvalidMessage("reply: expected 0 or 1, found something else")
    return Say(_user_item({"type": "input_image", "image_url": image}), reply=bool(int(reply)))


def _text(text: str) -> dict[str, Any]:
    return _user_item({"type": "input_text", "text": text})


def _output(fields: dict[str, Any]) -> str:
    output = fields.get("output", fields.get("content"))
    if output is None:
        raise InvalidMessage("expected a field output, found none", missing="output")
    return output if isinstance(output, str) else json.dumps(output)


def _user_item(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [part]}


def _required(fields: dict[str, Any], name: str, max_chars: int | None = None) -> str:
    value = fields.get(name)
    if value is None:
        raise InvalidMessage(f"expected a field {name}, found none", missing=name)
    if not isinstance(value, str):
        raise InvalidMessage(f"{name}: expected a string, found {_named(value)}")
    if max_chars is not None and len(value) > max_chars:
        raise InvalidMessage(f"{name}: expected at most {max_chars} characters, found {len(value)}")
    return value


def _named(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")


_PARSERS: dict[str, Callable[[dict[str, Any]], ClientMessage]] = {
    "webrtc.signaling.answer": lambda fields: Answer(_description(fields)),
    "webrtc.signaling.offer": lambda fields: Offer(_description(fields)),
    "webrtc.signaling.iceCandidate": lambda fields: Candidate(_candidate(fields)),
    "input_config": lambda fields: Settings(_config(fields)),
    "input_function_call": lambda fields: Settings({"tools": _tools(_content(fields, "an array of tools"))}),
    "input_text": lambda fields: Say(_text(_required(fields, "content", MAX_TEXT_CHARS)), reply=True),
    "input_image": _image,
    "function_call_output": lambda fields: CallOutput(
        _required(fields, "call_id", MAX_CALL_ID_CHARS), _output(fields)
    ),
}

_OWN = tuple(kind if kind.startswith("webrtc.") else PREFIX + kind for kind in _PARSERS)


# Server to client.


def connected(outcome: str, text: str | None = None, **data: object) -> dict[str, Any]:
    """Return `conversation.connected.<outcome>`; its message stands at the top, as the documents show it."""
    event: dict[str, Any] = {"type": f"conversation.connected.{outcome}", "data": data}
    return event if text is None else event | {"message": text}


def warning(text: str, **data: object) -> dict[str, Any]:
    """Return `conversation.connected.warning`; clients read its message at the top or in `data`."""
    return connected("warning", text, message=text, **data)


def signalled(kind: str, sdp: str) -> dict[str, Any]:
    """Return `webrtc.signaling.offer` or `.answer`; all of the server's candidates are inside."""
    return {"type": f"webrtc.signaling.{kind}", "data": {"sdp": {"type": kind, "sdp": sdp}}}


def told(kind: str, **data: object) -> dict[str, Any]:
    """Return an event of the conversation in NavTalk's shape."""
    return {"type": PREFIX + kind, "data": data}


def error_event(error: AvatarError) -> dict[str, Any]:
    """Return what a client is told of an error that leaves its socket open."""
    return refused(str(error) or error.code, error.code)


def refused(message: str, code: str) -> dict[str, Any]:
    """Return an error event; clients look for the message at the top, in `data` or in `error`."""
    shape = {"message": message, "code": code}
    return {"type": "error", "data": shape, "message": message, "error": shape}
