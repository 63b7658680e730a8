from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import AvatarError, InvalidMessage
from serve_app.gateway.navtalk import messages
from serve_app.gateway.navtalk.messages import (
    Answer,
    CallOutput,
    Candidate,
    ClientEvent,
    Offer,
    Say,
    Settings,
    parse_message,
)

pytestmark = pytest.mark.unit

LIMIT = 4_096

CANDIDATE = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}
IMAGE = "data:image/jpeg;base64,/9j/"


def parse(message: Any) -> Any:
    return parse_message(json.dumps(message), LIMIT)


def both(kind: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message wrapped and bare, with and without NavTalk's prefix."""
    bare = kind.removeprefix("realtime.")
    return [
        {"type": kind, "data": data},
        {"type": kind, **data},
        {"type": bare, "data": data},
        {"type": bare, **data},
    ]


ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
FLAT = {"instructions": "be kind", "voice": "cedar", "turn_detection": None}

MEANINGS: list[tuple[str, dict[str, Any], Any]] = [
    (
        "realtime.input_config",
        {"content": json.dumps({"voice": "cedar", "prompt": "be kind", "tools": [TOOL]})},
        Settings({"voice": "cedar", "instructions": "be kind", "tools": [TOOL]}),
    ),
    ("realtime.input_config", {"content": {"prompt": "be kind"}}, Settings({"instructions": "be kind"})),
    ("realtime.input_config", {"content": "{}"}, Settings({})),
    ("realtime.input_function_call", {"content": json.dumps([TOOL])}, Settings({"tools": [TOOL]})),
    ("realtime.input_function_call", {"content": [TOOL]}, Settings({"tools": [TOOL]})),
    (
        "realtime.input_audio_buffer.append",
        {"audio": "AAAA"},
        ClientEvent({"type": "input_audio_buffer.append", "audio": "AAAA"}),
    ),
    ("realtime.input_text", {"content": "hello"}, Say(ITEM, reply=True)),
    (
        "realtime.input_image",
        {"content": IMAGE, "reply": 1},
        Say(
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
            reply=True,
        ),
    ),
    (
        "realtime.input_image",
        {"content": IMAGE, "reply": 0},
        Say(
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
            reply=False,
        ),
    ),
    ("realtime.function_call_output", {"call_id": "c", "output": "42"}, CallOutput("c", "42")),
    ("realtime.function_call_output", {"call_id": "c", "output": {"a": 1}}, CallOutput("c", '{"a": 1}')),
    ("realtime.function_call_output", {"call_id": "c", "content": "42"}, CallOutput("c", "42")),
    (
        "conversation.item.create",
        {"item": ITEM},
        ClientEvent({"type": "conversation.item.create", "item": ITEM}),
    ),
    (
        "conversation.item.create",
        {"item": {"type": "function_call_output", "call_id": "c", "output": "42"}},
        ClientEvent(
            {
                "type": "conversation.item.create",
                "item": {"type": "function_call_output", "call_id": "c", "output": "42"},
            }
        ),
    ),
    ("response.create", {}, ClientEvent({"type": "response.create"})),
    ("session.update", {"session": FLAT}, ClientEvent({"type": "session.update", "session": FLAT})),
    ("input_audio_buffer.clear", {}, ClientEvent({"type": "input_audio_buffer.clear"})),
    ("response.cancel", {}, ClientEvent({"type": "response.cancel"})),
    ("webrtc.signaling.answer", {"sdp": {"type": "answer", "sdp": "v=0"}}, Answer("v=0")),
    ("webrtc.signaling.answer", {"sdp": "v=0"}, Answer("v=0")),
    ("webrtc.signaling.offer", {"sdp": {"type": "offer", "sdp": "v=0"}}, Offer("v=0")),
    ("webrtc.signaling.iceCandidate", {"candidate": CANDIDATE}, Candidate(dict(CANDIDATE))),
    ("webrtc.signaling.iceCandidate", dict(CANDIDATE), Candidate(dict(CANDIDATE))),
    ("webrtc.signaling.iceCandidate", {"candidate": None}, Candidate(None)),
    ("webrtc.signaling.iceCandidate", {"candidate": {"candidate": "", "sdpMid": "0"}}, Candidate(None)),
]


@pytest.mark.parametrize(("kind", "data", "meaning"), MEANINGS)
def test_a_message_means_the_same_wrapped_and_bare(kind: str, data: dict[str, Any], meaning: object) -> None:
    assert [parse(message) for message in both(kind, data)] == [meaning] * 4


def test_a_list_of_properties_becomes_an_object() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": [], "required": []}}
    mended = {
        "type": "function",
        "name": "f",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }

    config = parse({"type": "realtime.input_config", "data": {"content": json.dumps({"tools": [tool]})}})
    functions = parse({"type": "realtime.input_function_call", "data": {"content": json.dumps([tool])}})
    update = parse({"type": "session.update", "session": {"voice": "sage", "tools": [tool]}})

    assert config == Settings({"tools": [mended]})
    assert functions == Settings({"tools": [mended]})
    assert update.event["session"] == {"voice": "sage", "tools": [mended]}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([], "expected a JSON object, found an array"),
        (None, "expected a JSON object, found null"),
        ({}, "expected a field type, found none"),
        ({"type": 3}, "type: expected a string, found a number"),
        ({"type": "agent.speak"}, "type: expected one of webrtc.signaling.answer"),
        ({"type": "realtime.input_text"}, "expected a field content, found none"),
        ({"type": "realtime.input_text", "data": []}, "data: expected an object, found an array"),
        (
            {"type": "realtime.input_text", "data": {"content": 7}},
            "content: expected a string, found a number",
        ),
        ({"type": "realtime.input_text", "data": {"content": "x" * 32_769}}, "at most 32768 characters"),
        ({"type": "realtime.input_config", "data": {"content": "{"}}, "found text that is not JSON"),
        ({"type": "realtime.input_config", "data": {"content": "[]"}}, "expected an object of voice"),
        ({"type": "realtime.input_config", "data": {"content": {"voice": 1}}}, "voice: expected a string"),
        ({"type": "realtime.input_function_call", "data": {}}, "expected a field content"),
        (
            {"type": "realtime.input_function_call", "data": {"content": "[1]"}},
            "expected an array of objects",
        ),
        ({"type": "realtime.input_function_call", "data": {"content": [{}] * 129}}, "expected at most 128"),
        ({"type": "realtime.input_image", "data": {"content": "https://a/b.png"}}, "expected a data: URL"),
        ({"type": "realtime.input_image", "data": {"content": IMAGE, "reply": 2}}, "reply: expected 0 or 1"),
        ({"type": "realtime.input_image", "data": {"content": IMAGE, "reply": []}}, "reply: expected 0 or 1"),
        ({"type": "realtime.input_audio_buffer.append", "data": {}}, "expected a field audio"),
        ({"type": "input_audio_buffer.append", "audio": "A" * 4_097}, "audio: expected at most 4096"),
        ({"type": "realtime.function_call_output", "data": {"call_id": "c"}}, "expected a field output"),
        ({"type": "realtime.function_call_output", "data": {"output": "c"}}, "expected a field call_id"),
        ({"type": "webrtc.signaling.answer", "data": {}}, "expected a field sdp"),
        ({"type": "webrtc.signaling.answer", "data": {"sdp": {"type": "answer"}}}, "expected a field sdp"),
        ({"type": "webrtc.signaling.offer", "data": {"sdp": 1}}, "sdp: expected a string"),
        (
            {"type": "webrtc.signaling.iceCandidate", "data": {"candidate": 1}},
            "candidate: expected an object",
        ),
        ({"type": "response.create", "response": {"instructions": "x" * 1_048_576}}, "at most 1048576"),
    ],
)
def test_what_cannot_be_used_is_named(message: object, expected: str) -> None:
    with pytest.raises(InvalidMessage, match=expected.replace("[", r"\[")):
        parse(message)


@pytest.mark.parametrize(
    "text", ["", "{", '{"type": NaN}', "[" * 100_000, "\x00", '{"type":"response.create","a":Infinity}']
)
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage, match="not JSON"):
        parse_message(text, LIMIT)


def test_an_error_never_repeats_what_was_sent() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "secret-type", "data": {"content": "secret-words"}})

    assert "secret" not in str(caught.value)


def test_a_picture_may_be_longer_than_other_messages() -> None:
    image = "data:image/jpeg;base64," + "A" * (2 * messages.MAX_MESSAGE_CHARS)

    said = parse({"type": "realtime.input_image", "data": {"content": image, "reply": 0}})

    assert said.item["content"][0]["image_url"] == image


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = sorted(messages.PASSED_ON) + [kind for kind, _, _ in MEANINGS]
NAMES = ("content", "audio", "sdp", "candidate", "reply", "call_id", "output", "item", "session", "sdpMid")


@given(
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | JSON,
)
def test_whatever_fields_arrive_the_answer_is_a_message_or_its_error(
    kind: str, beside: dict[str, Any], data: object
) -> None:
    try:
        message = parse({"type": kind, **beside, "data": data})
    except InvalidMessage:
        return
    assert isinstance(message, Answer | Offer | Candidate | ClientEvent | Settings | Say | CallOutput)


@given(st.text())
def test_whatever_text_arrives_the_answer_is_a_message_or_its_error(text: str) -> None:
    try:
        parse_message(text, LIMIT)
    except InvalidMessage:
        return


def test_an_error_event_can_be_read_in_every_place() -> None:
    shape = {"message": "too much", "code": "internal"}

    assert messages.error_event(AvatarError("too much")) == {
        "type": "error",
        "message": "too much",
        "data": shape,
        "error": shape,
    }
