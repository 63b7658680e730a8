from __future__ import annotations

from typing import Any

import pytest

from serve_app.agents.mirror import Answer, Event, Mirror, shaped_item
from tests.unit.agents.fake_voice import spoken, tool_call, tool_output, user

pytestmark = pytest.mark.unit

COMMIT: Event = {"type": "input_audio_buffer.commit"}


def update(mirror: Mirror, *items: dict[str, Any], turn: str | None = None) -> list[Event]:
    def commit() -> list[Event]:
        assert turn is not None
        mirror.committing(turn)
        return [COMMIT]

    return mirror.update(items, turn, commit, {"old": "old words"}.get)


def assistant(item_id: str, words: str) -> dict[str, Any]:
    content = [{"type": "output_audio", "transcript": words}]
    return {"id": item_id, "type": "message", "role": "assistant", "content": content}


def created(events: list[Event]) -> list[tuple[str | None, str | None]]:
    assert {event["type"] for event in events} <= {"conversation.item.create"}
    return [(event["item"].get("id"), event.get("previous_item_id")) for event in events]


def test_new_items_are_appended_and_known_ones_are_not_told_again() -> None:
    mirror = Mirror()
    assert created(update(mirror, user("a", "i1"), user("b", "i2"))) == [("i1", None), ("i2", None)]
    assert update(mirror, user("a", "i1"), user("b", "i2")) == []
    assert created(update(mirror, user("a", "i1"), user("b", "i2"), user("c", "i3"))) == [("i3", None)]


def test_items_put_between_known_ones_name_their_predecessor() -> None:
    mirror = Mirror()
    update(mirror, user("b", "i2"), user("d", "i4"))
    events = update(mirror, *(user("x", f"i{number}") for number in range(1, 6)))
    assert created(events) == [("i1", "root"), ("i3", "i2"), ("i5", None)]


def test_items_that_are_gone_are_deleted() -> None:
    mirror = Mirror()
    update(mirror, user("a", "i1"), user("b", "i2"))
    assert update(mirror, user("b", "i2")) == [{"type": "conversation.item.delete", "item_id": "i1"}]
    assert update(mirror, user("b", "i2")) == []


def test_a_turn_is_committed_in_its_place_and_known_by_the_upstreams_id() -> None:
    mirror = Mirror()
    events = update(mirror, user("a", "i1"), spoken("s1"), turn="s1")
    assert [event["type"] for event in events] == ["conversation.item.create", "input_audio_buffer.commit"]
    assert mirror.committed("up1") == "s1"
    assert mirror.item_of("up1") == "s1"
    assert update(mirror, user("a", "i1"), spoken("s1"), turn="s1") == []
    assert update(mirror, user("a", "i1")) == [{"type": "conversation.item.delete", "item_id": "up1"}]


def test_a_turn_that_is_not_among_the_items_is_committed_at_the_end() -> None:
    assert update(Mirror(), user("a", "i1"), turn="s1")[-1] == COMMIT


def test_commits_get_their_ids_in_order_and_refused_ones_none() -> None:
    mirror = Mirror()
    mirror.committing("s1")
    mirror.committing("s2")
    mirror.commit_refused()
    assert mirror.committed("up2") == "s2"
    assert mirror.committed("up3") is None


def test_answers_and_calls_of_the_upstream_are_recognized() -> None:
    mirror = Mirror()
    update(mirror, user("a", "i1"))
    mirror.answered(Answer("up_a", text="Hello there."))
    mirror.called("call_1", "up_c")
    items = user("a", "i1"), assistant("a1", "Hello"), tool_call("f"), tool_output("x")
    assert created(update(mirror, *items)) == [("r1", None)]
    assert mirror.item_of("up_a") == "a1"
    assert mirror.item_of("up_c") == "c1"


def test_an_assistants_item_of_a_client_is_not_taken_for_the_upstreams() -> None:
    mirror = Mirror()
    mirror.answered(Answer("up_a", text="Hello there."))
    events = update(mirror, assistant("old1", "History."), assistant("a1", "Hello there."))
    assert created(events) == [("old1", "root")]


def test_the_newest_answer_is_known_before_it_is_an_item() -> None:
    mirror = Mirror()
    answer = Answer("up_a", samples=48_000)
    mirror.answered(answer)
    assert mirror.answer_of("a1") is answer
    assert mirror.answer_of("a1") is answer
    assert mirror.answer_of("other") is None


@pytest.mark.parametrize(("played_s", "end_ms"), [(0.0, 0), (0.4567, 456), (9.0, 2_000), (-1.0, 0)])
def test_a_truncation_lies_within_the_sound(played_s: float, end_ms: int) -> None:
    assert Answer("up", 1, samples=48_000).truncation(played_s) == {
        "type": "conversation.item.truncate",
        "item_id": "up",
        "content_index": 1,
        "audio_end_ms": end_ms,
    }


def test_ids_that_an_upstream_may_refuse_are_left_to_it() -> None:
    mirror = Mirror()
    items = user("a", "x" * 33), user("b", "ü")
    assert created(update(mirror, *items)) == [(None, None), (None, None)]
    assert update(mirror, *items) == []


def test_a_new_connection_is_told_the_newest_items_only() -> None:
    items = [user("a", f"i{number}") for number in range(300)]
    mirror = Mirror()
    assert created(update(mirror, *items))[0] == ("i100", None)


def test_a_new_connection_is_told_spoken_turns_by_their_transcripts() -> None:
    events = update(Mirror(), spoken("old"), spoken("unknown"), spoken("s1", "said"))
    assert [event["item"]["content"][0]["text"] for event in events] == ["old words", "said"]


@pytest.mark.parametrize(
    ("item", "shaped"),
    [
        (user("hi"), {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}),
        (
            assistant("a", "hi"),
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        ),
        (
            user("") | {"content": [{"type": "input_image", "image_url": "data:,", "x": 1}, "y", {}]},
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]},
        ),
        (
            tool_call("f"),
            {"type": "function_call", "name": "f", "call_id": "call_1", "arguments": "{}"},
        ),
        (tool_output("x"), {"type": "function_call_output", "call_id": "call_1", "output": "x"}),
        (spoken("s1"), None),
        ({"id": "x", "type": "mcp_call"}, None),
        ({"id": "x", "type": "message", "role": "user", "content": "text"}, None),
    ],
)
def test_items_reach_the_upstream_as_text(item: dict[str, Any], shaped: dict[str, Any] | None) -> None:
    assert shaped_item(item) == shaped
