from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import SpeechOverrun
from serve_app.gateway.navtalk.dialogue import Dialogue
from serve_app.gateway.navtalk.messages import CallOutput, ClientEvent, Say, Settings
from serve_app.session.events import ConversationEvent, PeerChanged

pytestmark = pytest.mark.unit

ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
SESSION = {"id": "sess_1", "object": "realtime.session", "voice": "cedar"}


class Conversation:
    """Records client events, and tells server events through a dialogue."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.dialogue = Dialogue(self.events.append)

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def say(self, message: ClientEvent | Settings | Say | CallOutput) -> None:
        assert await self.dialogue.receive(message) == []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.say(ClientEvent({"type": kind, **fields}))

    def tell(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return self.dialogue.tell(ConversationEvent({"type": kind, "event_id": "event_1", **fields}))


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


PLACE = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}

GOLDEN: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        {"type": "session.created", "session": SESSION},
        [
            {"type": "realtime.session.created", "data": {"session": SESSION}},
            {"type": "realtime.session.updated", "data": {"session": SESSION}},
        ],
    ),
    (
        {"type": "input_audio_buffer.speech_started", "item_id": "item_1", "audio_start_ms": 10},
        [{"type": "realtime.input_audio_buffer.speech_started", "data": {"id": "item_1"}}],
    ),
    (
        {"type": "input_audio_buffer.speech_stopped", "item_id": "item_1", "audio_end_ms": 900},
        [{"type": "realtime.input_audio_buffer.speech_stopped", "data": {"id": "item_1"}}],
    ),
    (
        {
            "type": "conversation.item.input_audio_transcription.completed",
            "item_id": "item_1",
            "content_index": 0,
            "transcript": "good day",
        },
        [
            {
                "type": "realtime.conversation.item.input_audio_transcription.completed",
                "data": {"content": "good day", "id": "item_1"},
            }
        ],
    ),
    (
        {"type": "response.audio_transcript.delta", **PLACE, "delta": "good"},
        [{"type": "realtime.response.audio_transcript.delta", "data": {"content": "good", "id": "resp_1"}}],
    ),
    (
        {"type": "response.audio_transcript.done", **PLACE, "transcript": "good day"},
        [
            {
                "type": "realtime.response.audio_transcript.done",
                "data": {"content": "good day", "id": "resp_1", "transcript": "good day"},
            }
        ],
    ),
    (
        {"type": "response.text.delta", **PLACE, "delta": "good"},
        [{"type": "realtime.response.audio_transcript.delta", "data": {"content": "good", "id": "resp_1"}}],
    ),
    (
        {"type": "response.text.done", **PLACE, "text": "good day"},
        [
            {
                "type": "realtime.response.audio_transcript.done",
                "data": {"content": "good day", "id": "resp_1", "transcript": "good day"},
            }
        ],
    ),
    (
        {"type": "response.audio.delta", **PLACE, "delta": "AAAA"},
        [{"type": "realtime.response.audio.delta", "data": {"delta": "AAAA", "id": "resp_1"}}],
    ),
    (
        {"type": "response.audio.done", **PLACE},
        [{"type": "realtime.response.audio.done", "data": {"id": "resp_1"}}],
    ),
    (
        {
            "type": "response.function_call_arguments.delta",
            **PLACE,
            "call_id": "call_1",
            "name": "f",
            "delta": '{"a',
        },
        [
            {
                "type": "realtime.response.function_call_arguments.delta",
                "data": {"function_name": "f", "call_id": "call_1", "delta": '{"a'},
                "raw_data": {
                    "type": "response.function_call_arguments.delta",
                    **PLACE,
                    "call_id": "call_1",
                    "name": "f",
                    "delta": '{"a',
                },
            }
        ],
    ),
    (
        {
            "type": "response.function_call_arguments.done",
            **PLACE,
            "call_id": "call_1",
            "name": "f",
            "arguments": '{"a":1}',
        },
        [
            {
                "type": "realtime.response.function_call_arguments.done",
                "data": {"function_name": "f", "call_id": "call_1", "arguments": '{"a":1}'},
                "raw_data": {
                    "type": "response.function_call_arguments.done",
                    **PLACE,
                    "call_id": "call_1",
                    "name": "f",
                    "arguments": '{"a":1}',
                },
            }
        ],
    ),
    (
        {"type": "error", "error": {"type": "invalid_request_error", "code": "c", "message": "m"}},
        [
            {
                "type": "error",
                "message": "m",
                "data": {"message": "m", "code": "c"},
                "error": {"message": "m", "code": "c"},
            }
        ],
    ),
    (
        {
            "type": "response.done",
            "response": {"status": "failed", "status_details": {"error": {"code": "c", "message": "m"}}},
        },
        [
            {
                "type": "error",
                "message": "m",
                "data": {"message": "m", "code": "c"},
                "error": {"message": "m", "code": "c"},
            }
        ],
    ),
    ({"type": "response.done", "response": {"status": "completed"}}, []),
    ({"type": "response.created", "response": {"id": "resp_1"}}, []),
    ({"type": "conversation.item.created", "item": ITEM}, []),
    ({"type": "rate_limits.updated", "rate_limits": []}, []),
    ({"type": "output_audio_buffer.stopped", "response_id": "resp_1"}, []),
]


@pytest.mark.parametrize(("event", "told"), GOLDEN)
def test_an_event_is_told_in_navtalks_words(
    conversation: Conversation, event: dict[str, Any], told: list[dict[str, Any]]
) -> None:
    assert conversation.dialogue.tell(ConversationEvent(event)) == told


def test_only_events_of_the_conversation_are_told_here(conversation: Conversation) -> None:
    assert conversation.dialogue.tell(PeerChanged("connected")) == []


def test_a_function_that_is_named_only_with_its_item_is_named_in_both_forms(
    conversation: Conversation,
) -> None:
    item = {"id": "item_1", "type": "function_call", "name": "weather", "call_id": "call_1"}
    conversation.tell("response.output_item.added", item=item)

    [told] = conversation.tell(
        "response.function_call_arguments.done", item_id="item_1", call_id="call_1", arguments="{}"
    )

    assert told["data"]["function_name"] == "weather"
    assert told["raw_data"]["name"] == "weather"


async def test_settings_are_taken_and_not_confirmed_again(conversation: Conversation) -> None:
    await conversation.say(Settings({"voice": "cedar"}))
    assert conversation.tell("session.created", session=SESSION)[1]["type"] == "realtime.session.updated"

    assert conversation.tell("session.updated", session=SESSION) == []
    assert conversation.events == [
        {"type": "session.update", "session": {"voice": "cedar"}, "event_id": "navtalk_update_1"}
    ]


async def test_empty_settings_are_not_sent(conversation: Conversation) -> None:
    await conversation.say(Settings({}))

    assert conversation.events == []


async def test_a_clients_own_update_is_confirmed(conversation: Conversation) -> None:
    await conversation.say(Settings({"voice": "cedar"}))
    await conversation.send("session.update", session={"instructions": "x"}, event_id="mine")

    assert conversation.tell("session.updated", session=SESSION) == []
    assert conversation.tell("session.updated", session=SESSION) == [
        {"type": "realtime.session.updated", "data": {"session": SESSION}}
    ]
    assert conversation.events[1]["event_id"] == "mine"


async def test_a_refused_update_waits_for_no_confirmation(conversation: Conversation) -> None:
    await conversation.say(Settings({"voice": "nobody"}))
    await conversation.send("session.update", session={})

    refused = conversation.tell("error", error={"message": "no such voice", "event_id": "navtalk_update_1"})

    assert refused[0]["message"] == "no such voice"
    assert conversation.tell("session.updated", session=SESSION)[0]["type"] == "realtime.session.updated"


async def test_typed_text_interrupts_and_is_answered(conversation: Conversation) -> None:
    await conversation.say(Say(ITEM, reply=True))

    assert conversation.kinds() == [
        "response.cancel",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "response.create",
    ]
    assert conversation.events[2]["item"] == ITEM


async def test_interrupting_an_avatar_that_is_silent_is_no_error(conversation: Conversation) -> None:
    await conversation.say(Say(ITEM, reply=True))
    event_id = conversation.events[0]["event_id"]

    error = {"code": "response_cancel_not_active", "message": "nothing to cancel", "event_id": event_id}

    assert conversation.tell("error", error=error) == []


async def test_a_picture_without_reply_is_only_added(conversation: Conversation) -> None:
    await conversation.say(Say(ITEM, reply=False))

    assert conversation.events == [{"type": "conversation.item.create", "item": ITEM}]


def called(conversation: Conversation, *call_ids: str) -> None:
    for call_id in call_ids:
        conversation.tell("response.function_call_arguments.done", call_id=call_id, name="f", arguments="{}")


async def test_an_output_in_navtalks_words_is_answered(conversation: Conversation) -> None:
    called(conversation, "c1")

    await conversation.say(CallOutput("c1", "42"))

    item = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    assert conversation.events == [
        {"type": "conversation.item.create", "item": item},
        {"type": "response.create"},
    ]


async def test_several_calls_are_answered_together(conversation: Conversation) -> None:
    called(conversation, "c1", "c2")

    await conversation.say(CallOutput("c1", "1"))
    assert conversation.kinds() == ["conversation.item.create"]
    await conversation.say(CallOutput("c2", "2"))

    assert conversation.kinds() == ["conversation.item.create", "conversation.item.create", "response.create"]


async def test_a_create_after_an_output_is_not_asked_twice(conversation: Conversation) -> None:
    called(conversation, "c1")
    await conversation.say(CallOutput("c1", "42"))
    await conversation.send("input_audio_buffer.append", audio="AAAA")
    await conversation.send("response.create")
    await conversation.send("response.create")

    assert conversation.kinds().count("response.create") == 2


async def test_an_output_in_openais_words_waits_for_its_create(conversation: Conversation) -> None:
    called(conversation, "c1")
    item = {"type": "function_call_output", "call_id": "c1", "output": "42"}

    await conversation.send("conversation.item.create", item=item)
    await conversation.send("response.create")

    assert conversation.events == [
        {"type": "conversation.item.create", "item": item},
        {"type": "response.create"},
    ]


async def test_a_session_that_takes_no_more_says_so() -> None:
    def refuse(event: dict[str, Any]) -> None:
        raise SpeechOverrun("too much", 1.0)

    dialogue = Dialogue(refuse)

    with pytest.raises(SpeechOverrun):
        await dialogue.receive(ClientEvent({"type": "input_audio_buffer.append", "audio": "AAAA"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted({str(event["type"]) for event, _ in GOLDEN} | {"response.output_item.added"})),
    st.dictionaries(
        st.sampled_from(("item", "error", "response", "session", "call_id", "item_id", "name", "delta")), JSON
    ),
)
def test_whatever_event_comes_is_told_or_passed_over(kind: str, fields: dict[str, Any]) -> None:
    dialogue = Dialogue(lambda event: None)

    told = dialogue.tell(ConversationEvent({**fields, "type": kind}))

    assert all(isinstance(event["type"], str) for event in told)
