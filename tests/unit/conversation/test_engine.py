"""What a conversation does, one behaviour at a time; whole orders of events are in test_golden."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from serve_app.agents.base import AGENT_HZ, ToolCall, TranscriptDelta, Usage
from serve_app.config import AgentsConfig
from serve_app.conversation import g711
from serve_app.conversation.answers import MAX_ASIDES
from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.spec import Dialect
from serve_app.errors import AgentFailed, SpeechOverrun
from serve_app.speech.turns import SpeechStarted, SpeechStopped
from tests.unit.conversation.scene import DIALECTS, Scene, pcm, settle, speech, tone
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit


def played(play: Callable[[VirtualClock], Awaitable[None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def test() -> None:
        run_virtual(play)

    return test


def played_in_both(play: Callable[[VirtualClock, Dialect], Awaitable[None]]) -> Callable[..., None]:
    """Run a test in virtual time and in both dialects."""

    @pytest.mark.parametrize("dialect", DIALECTS)
    def test(dialect: Dialect) -> None:
        run_virtual(lambda clock: play(clock, dialect))

    return test


def message(text: str, role: str = "user", **fields: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}


def texts(scene: Scene) -> list[str]:
    """The texts of the conversation as the newest request has them."""
    return [
        part.get("text", "") for item in scene.agent.requests[-1].items for part in item.get("content", ())
    ]


# --- the session -----------------------------------------------------------------------------------------


@played_in_both
async def test_greets_once_and_only_when_the_client_is_there(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect, is_started=False)
    scene.hear(0.5)
    assert scene.events == []
    scene.conversation.start()
    scene.conversation.start()
    assert scene.types == (
        ["session.created"] if dialect == "ga" else ["session.created", "conversation.created"]
    )


@played
async def test_an_event_before_the_start_is_answered_after_the_greeting(clock: VirtualClock) -> None:
    scene = Scene(clock, is_started=False)
    scene.update(instructions="x")
    assert scene.types == ["session.created", "session.updated"]


@played
async def test_the_session_has_the_specs_settings_and_the_configured_voice(clock: VirtualClock) -> None:
    scene = Scene(
        clock, session={"type": "realtime", "instructions": "Be kind."}, config=AgentsConfig(voice="verse")
    )
    session = scene.events[0]["session"]
    assert session["instructions"] == "Be kind."
    assert session["audio"]["output"]["voice"] == "verse"
    assert session["id"] == "sess_test"
    assert isinstance(session["expires_at"], int)


@played
async def test_settings_of_the_spec_that_cannot_be_used_are_refused(clock: VirtualClock) -> None:
    with pytest.raises(RealtimeFault, match=r"session\.nonsense"):
        Scene(clock, session={"nonsense": 1})


@played
async def test_beta_updates_merge_whatever_they_leave_out(clock: VirtualClock) -> None:
    scene = Scene(clock, "beta")
    # What ag2 0.13 sends, one after the other.
    scene.update(
        turn_detection={"type": "server_vad"}, voice="alloy", modalities=["audio", "text"], temperature=0.8
    )
    scene.update(instructions="SYS")
    scene.update(
        tools=[{"type": "function", "name": "f", "description": "", "parameters": {}}], tool_choice="auto"
    )
    session = scene.last("session.updated")["session"]
    assert session["instructions"] == "SYS"
    assert session["tools"][0]["name"] == "f"
    assert session["modalities"] == ["audio", "text"]
    assert session["turn_detection"]["silence_duration_ms"] == 500


@played
async def test_beta_passes_over_fields_it_does_not_know(clock: VirtualClock) -> None:
    scene = Scene(clock, "beta")
    scene.update(
        instructions="x", avatar={"character": "lisa"}, id="sess_other", input_audio_transcription=None
    )
    assert scene.types[-1] == "session.updated"


@played
async def test_ga_refuses_a_whole_update_with_one_unknown_field(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.send(
        "session.update",
        session={"type": "realtime", "instructions": "x", "modalities": ["text"]},
        event_id="e1",
    )
    assert scene.error() == {
        "type": "invalid_request_error",
        "code": "unknown_parameter",
        "message": "Unknown parameter: 'session.modalities'.",
        "param": "session.modalities",
        "event_id": "e1",
    }
    scene.update()
    assert scene.last("session.updated")["session"]["instructions"] == ""


@played
async def test_ga_wants_the_sessions_type(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.send("session.update", session={"instructions": "x"})
    assert scene.error()["message"] == "Missing required parameter: 'session.type'."
    assert scene.error()["code"] == "missing_required_parameter"
    assert scene.error()["param"] == "session.type"


@played
async def test_takes_the_stock_sdks_first_update(clock: VirtualClock) -> None:
    """What @openai/agents-realtime 0.20.0 sends when its data channel opens, and after session.created."""
    scene = Scene(clock)
    pcm24 = {"type": "audio/pcm", "rate": 24000}
    scene.update(
        instructions="Be brief.",
        model="gpt-realtime-2.1",
        output_modalities=["audio"],
        audio={
            "input": {
                "format": pcm24,
                "noise_reduction": None,
                "transcription": {"model": "gpt-4o-mini-transcribe"},
                "turn_detection": {"type": "semantic_vad"},
            },
            "output": {"format": pcm24, "speed": 1},
        },
        tools=[
            {
                "type": "function",
                "name": "f",
                "description": "d",
                "parameters": {"type": "object", "properties": []},
            }
        ],
        parallel_tool_calls=True,
        reasoning={"effort": "low"},
        prompt={"id": "pmpt_1", "version": "2"},
    )
    session = scene.last("session.updated")["session"]
    assert session["audio"]["input"]["turn_detection"]["eagerness"] == "auto"
    assert session["tools"][0]["parameters"]["properties"] == {}
    assert session["model"] == "gpt-realtime"
    assert scene.detectors[-1].settings.longest_wait_s == 4.0
    scene.update(tracing="auto")
    assert scene.last("session.updated")["session"]["tracing"] == "auto"


@played_in_both
async def test_the_voice_cannot_change_once_it_was_heard(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    voiced = {"audio": {"output": {"voice": "verse"}}} if dialect == "ga" else {"voice": "verse"}
    scene.update(**voiced)
    scene.send("response.create")
    await settle()
    scene.update(**voiced)
    assert scene.types[-1] == "session.updated"
    other = {"audio": {"output": {"voice": "sage"}}} if dialect == "ga" else {"voice": "sage"}
    scene.update(**other)
    assert scene.error()["code"] == "cannot_update_voice"
    scene.send("response.create", response=other)
    assert scene.error()["code"] == "cannot_update_voice"


@played
async def test_an_agent_that_cannot_open_is_the_openers_affair(clock: VirtualClock) -> None:
    scene = Scene(clock, is_started=False)
    scene.agent.opening = AgentFailed("no script")
    with pytest.raises(AgentFailed, match="no script"):
        await scene.conversation.open()


@played
async def test_closing_ends_the_agent_and_every_event(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[speech(0.2), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.clear()
    await scene.conversation.close()
    await scene.conversation.close()
    scene.send("response.create")
    scene.hear(0.1)
    scene.speaker.interrupt()
    assert scene.agent.closed
    assert scene.agent.ended == 1
    assert scene.events == []


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        (None, "invalid_type", None),
        ([], "invalid_type", None),
        ({}, "missing_required_parameter", "type"),
        ({"type": 7}, "invalid_type", "type"),
        ({"type": "dance"}, "invalid_value", "type"),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        ({"type": "session.update", "session": 1}, "invalid_type", "session"),
        ({"type": "conversation.item.create"}, "missing_required_parameter", "item"),
        ({"type": "conversation.item.delete"}, "missing_required_parameter", "item_id"),
        ({"type": "conversation.item.retrieve", "item_id": "x"}, "item_retrieve_invalid_item_id", "item_id"),
        ({"type": "conversation.item.delete", "item_id": "x"}, "item_delete_invalid_item_id", "item_id"),
        ({"type": "conversation.item.truncate", "item_id": "x"}, "item_truncate_invalid_item_id", "item_id"),
        ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "invalid_event_for_transport", "type"),
        ({"type": "response.create", "response": {"speed": 1}}, "unknown_parameter", "response.speed"),
    ],
)
def test_what_cannot_be_used_is_answered_with_an_error(event: object, code: str, param: str | None) -> None:
    async def play(clock: VirtualClock) -> None:
        scene = Scene(clock)
        scene.conversation.receive(event)
        assert scene.types == ["session.created", "error"]
        assert (scene.error()["code"], scene.error()["param"]) == (code, param)

    run_virtual(play)


# --- items -----------------------------------------------------------------------------------------------


@played_in_both
async def test_items_go_where_the_client_puts_them(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    kind = "conversation.item.added" if dialect == "ga" else "conversation.item.created"
    scene.send("conversation.item.create", item=message("b", id="B"))
    scene.send("conversation.item.create", item=message("a", id="A"), previous_item_id="root")
    scene.send("conversation.item.create", item=message("c", id="C"), previous_item_id=None)
    scene.send("conversation.item.create", item=message("ab", id="AB"), previous_item_id="A")
    assert [event["previous_item_id"] for event in scene.of(kind)] == [None, None, "B", "A"]
    scene.send("response.create")
    await settle()
    assert texts(scene) == ["a", "ab", "b", "c"]


@played
async def test_an_id_is_taken_once_and_a_place_must_exist(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.send("conversation.item.create", item=message("a", id="A"))
    scene.send("conversation.item.create", item=message("a", id="A"), event_id="agents_create_1")
    assert scene.error()["code"] == "item_create_duplicate_item_id"
    assert scene.error()["event_id"] == "agents_create_1"
    scene.send("conversation.item.create", item=message("b"), previous_item_id="nowhere")
    assert scene.error()["code"] == "item_create_invalid_previous_item_id"
    scene.send("conversation.item.delete", item_id="A")
    scene.send("conversation.item.create", item=message("a", id="A"))
    assert scene.types[-1] == "conversation.item.done"


@played_in_both
async def test_history_of_both_sides_is_taken(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    assistant = {"type": "output_text" if dialect == "ga" else "text", "text": "Hi."}
    scene.send(
        "conversation.item.create", item={"type": "message", "role": "assistant", "content": [assistant]}
    )
    call = {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"}
    scene.send("conversation.item.create", item=call)
    scene.send(
        "conversation.item.create", item={"type": "function_call_output", "call_id": "c", "output": "1"}
    )
    scene.send("conversation.item.create", item=message("Be kind.", "system"))
    scene.send("response.create")
    await settle()
    items = scene.agent.requests[-1].items
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert items[0]["content"] == [{"type": "output_text", "text": "Hi."}]
    assert not scene.of("error")


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ({"type": "message"}, "missing_required_parameter", "item.role"),
        ({"type": "message", "role": "user"}, "missing_required_parameter", "item.content"),
        (message("x", id="root"), "invalid_value", "item.id"),
        (message("x", id="i" * 129), "string_above_max_length", "item.id"),
        (message("x" * 300_000), "string_above_max_length", "item.content[0].text"),
        (message("x", mood="good"), "unknown_parameter", "item.mood"),
        ({"type": "mcp_call"}, "invalid_value", "item.type"),
        ({"type": "function_call_output", "output": ""}, "missing_required_parameter", "item.call_id"),
        ({"type": "function_call_output", "call_id": "c", "output": {}}, "invalid_type", "item.output"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "x"}]},
            "invalid_value",
            "item.content[0].type",
        ),
        (
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "http://x/y.png"}],
            },
            "invalid_value",
            "item.content[0].image_url",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "not base64"}]},
            "invalid_value",
            "item.content[0].audio",
        ),
    ],
)
def test_items_that_cannot_be_used_are_refused(item: dict[str, Any], code: str, param: str) -> None:
    async def play(clock: VirtualClock) -> None:
        scene = Scene(clock)
        scene.send("conversation.item.create", item=item)
        assert (scene.error()["code"], scene.error()["param"]) == (code, param)

    run_virtual(play)


@played_in_both
async def test_an_image_reaches_the_agent_and_no_event(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    url = "data:image/png;base64,iVBORw0KGgo="
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]}
    scene.send("conversation.item.create", item=item)
    scene.send("response.create")
    await settle()
    assert scene.agent.requests[-1].items[0]["content"][0]["image_url"] == url
    assert url not in str(scene.events)


@played
async def test_sound_in_an_item_is_heard_as_a_turn_and_never_sent_back(clock: VirtualClock) -> None:
    scene = Scene(clock)
    part = {"type": "input_audio", "audio": pcm(tone(0.5)), "transcript": None}
    scene.send(
        "conversation.item.create", item={"type": "message", "role": "user", "content": [part], "id": "A"}
    )
    scene.send("response.create")
    await settle()
    heard = scene.agent.requests[-1].heard
    assert heard is not None
    assert heard.item_id == "A"
    assert np.array_equal(heard.samples, tone(0.5))
    assert "audio" not in scene.agent.requests[-1].items[0]["content"][0]
    scene.send("conversation.item.retrieve", item_id="A")
    assert scene.last("conversation.item.retrieved")["item"]["content"] == [
        {"type": "input_audio", "transcript": None}
    ]


@played
async def test_a_turn_of_before_is_not_answered_again(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.speak()
    await settle()
    assert scene.agent.requests[-1].heard is not None
    scene.text("and now?")
    scene.send("conversation.item.create", item=message("Answer in French.", "system"))
    scene.send("response.create")
    await settle()
    assert scene.agent.requests[-1].heard is None


@played
async def test_the_oldest_items_are_forgotten_when_there_are_too_many(clock: VirtualClock) -> None:
    scene = Scene(clock)
    for number in range(2_005):
        scene.text(str(number))
        scene.clear()
    scene.send("response.create")
    await settle()
    assert texts(scene)[0] == "5"
    assert len(scene.agent.requests[-1].items) == 2_000


# --- the user's sound ------------------------------------------------------------------------------------


@played
async def test_a_turn_is_the_sound_between_its_start_and_its_stop(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.hear(5.0)
    scene.speak(1.5)
    await settle()
    heard = scene.agent.requests[-1].heard
    assert heard is not None
    assert len(heard.samples) / AGENT_HZ == pytest.approx(1.5, abs=0.002)
    assert scene.last("input_audio_buffer.speech_started")["audio_start_ms"] == pytest.approx(5_200, abs=2)
    assert scene.last("input_audio_buffer.speech_stopped")["audio_end_ms"] == pytest.approx(6_700, abs=2)
    assert scene.agent.heard / AGENT_HZ == pytest.approx(6.9, abs=0.01)


@played_in_both
async def test_a_turn_may_be_left_unanswered(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    detection = {"type": "server_vad", "create_response": False}
    scene.update(
        **(
            {"audio": {"input": {"turn_detection": detection}}}
            if dialect == "ga"
            else {"turn_detection": detection}
        )
    )
    scene.speak()
    await settle()
    assert scene.agent.requests == []
    assert scene.of("input_audio_buffer.committed")


@played
async def test_without_interruption_an_answer_goes_on_and_the_turn_stays_unanswered(
    clock: VirtualClock,
) -> None:
    scene = Scene(clock)
    scene.update(audio={"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}})
    scene.agent.answers = [[speech(1), asyncio.Event()]]
    scene.speak()
    await settle()
    scene.speak()
    await settle()
    assert scene.speaker.interrupts == 0
    assert scene.error()["code"] == "conversation_already_has_active_response"
    assert scene.error()["event_id"] is None


@played
async def test_a_silent_user_is_spoken_to_after_the_idle_timeout(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.update(audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5_000}}})
    await asyncio.sleep(20)
    assert scene.agent.requests == []
    scene.send("response.create")
    await settle()
    await asyncio.sleep(20)
    assert len(scene.agent.requests) == 1, "what was said is still being heard"
    scene.hear(1.0)
    scene.speaker.play()
    scene.hear(4.9)
    await asyncio.sleep(4.9)
    assert not scene.of("input_audio_buffer.timeout_triggered")
    await asyncio.sleep(0.2)
    triggered = scene.last("input_audio_buffer.timeout_triggered")
    assert triggered["audio_start_ms"] == pytest.approx(1_000, abs=2)
    assert triggered["audio_end_ms"] == pytest.approx(5_900, abs=2)
    assert scene.last("input_audio_buffer.committed")["item_id"] == triggered["item_id"]
    assert len(scene.agent.requests) == 2
    assert scene.agent.requests[-1].heard is None


@played
async def test_a_user_who_speaks_is_not_idle(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.update(audio={"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5_000}}})
    scene.send("response.create")
    await settle()
    scene.speaker.play()
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    await asyncio.sleep(20)
    assert not scene.of("input_audio_buffer.timeout_triggered")


@played_in_both
async def test_sound_in_events_is_heard_in_every_format(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect, sound_in="events", sound_out="events")
    names = {"mu": ("audio/pcmu", "g711_ulaw"), "a": ("audio/pcma", "g711_alaw")}
    for law, (ga, beta) in names.items():
        if dialect == "ga":
            audio = {
                "input": {"format": {"type": ga}, "turn_detection": None},
                "output": {"format": {"type": ga}},
            }
            scene.update(audio=audio)
        else:
            scene.update(input_audio_format=beta, output_audio_format=beta, turn_detection=None)
        sound = tone(1.0, 8_000)
        scene.send("input_audio_buffer.append", audio=base64.b64encode(g711.encode(sound, law)).decode())  # type: ignore[arg-type]
        scene.send("input_audio_buffer.commit")
        scene.clear()
        scene.send("response.create")
        await settle()
        heard = scene.agent.requests[-1].heard
        assert heard is not None
        assert len(heard.samples) == pytest.approx(AGENT_HZ, abs=100)
        kind = "response.output_audio.delta" if dialect == "ga" else "response.audio.delta"
        data = b"".join(base64.b64decode(event["delta"]) for event in scene.of(kind))
        assert len(data) == 1_600
        assert np.abs(g711.decode(data, law)[200:1400].astype(int)).mean() > 500  # type: ignore[arg-type]


@played
async def test_long_sound_lets_others_run_and_keeps_the_order(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", sound_out="events")
    scene.plan(SpeechStarted, 1.0)
    scene.plan(SpeechStopped, 29.0)
    scene.send("input_audio_buffer.append", audio=pcm(tone(30)))
    scene.send("input_audio_buffer.clear")
    assert scene.types == ["session.created"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert scene.agent.heard < 10 * AGENT_HZ
    await settle()
    assert scene.agent.heard == 30 * AGENT_HZ
    types = scene.types
    assert types.index("input_audio_buffer.speech_started") < types.index("input_audio_buffer.committed")
    assert types.index("input_audio_buffer.committed") < types.index("input_audio_buffer.cleared")


@played
async def test_events_behind_long_sound_are_bounded(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events")
    scene.send("input_audio_buffer.append", audio=pcm(tone(30)))
    for _ in range(300):
        scene.send("input_audio_buffer.clear")
    assert scene.error()["code"] == "rate_limit_exceeded"
    await settle()
    assert len(scene.of("input_audio_buffer.cleared")) == 256


@played
async def test_the_buffer_takes_no_more_than_the_longest_turn(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", config=AgentsConfig(max_turn_s=3))
    scene.send("input_audio_buffer.append", audio=pcm(tone(3.1)))
    assert scene.error()["code"] == "input_audio_buffer_full"
    scene.update(audio={"input": {"turn_detection": None}})
    for _ in range(4):
        scene.send("input_audio_buffer.append", audio=pcm(tone(0.9)))
    assert len(scene.of("error")) == 2
    scene.send("input_audio_buffer.commit")
    scene.send("input_audio_buffer.append", audio=pcm(tone(0.9)))
    assert len(scene.of("error")) == 2


@played
async def test_a_turn_without_end_is_cut(clock: VirtualClock) -> None:
    scene = Scene(clock, config=AgentsConfig(max_turn_s=2))
    scene.plan(SpeechStarted, 0.1)
    scene.hear(2.5)
    await settle()
    assert scene.detectors[-1].resets == 1
    heard = scene.agent.requests[-1].heard
    assert heard is not None
    assert len(heard.samples) / AGENT_HZ == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("audio", ["!", "AAA", "AA==", 3, None])
def test_sound_that_is_none_is_refused(audio: object) -> None:
    async def play(clock: VirtualClock) -> None:
        scene = Scene(clock, sound_in="events")
        scene.send("input_audio_buffer.append", audio=audio)
        assert scene.error()["param"] == "audio"

    run_virtual(play)


@played
async def test_clearing_forgets_a_turn_that_is_under_way(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.5)
    scene.send("input_audio_buffer.clear")
    assert scene.types[-1] == "input_audio_buffer.cleared"
    assert scene.agent.forgot == 1
    scene.plan(SpeechStopped, 0.1)
    scene.hear(0.5)
    await settle()
    assert not scene.of("input_audio_buffer.committed")


@played
async def test_push_to_talk_on_a_track_commits_what_was_said_since_the_clear(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.update(audio={"input": {"turn_detection": None}})
    scene.hear(10)
    scene.send("input_audio_buffer.clear")
    scene.hear(1)
    scene.send("input_audio_buffer.commit")
    scene.send("response.create")
    await settle()
    heard = scene.agent.requests[-1].heard
    assert heard is not None
    assert len(heard.samples) / AGENT_HZ == pytest.approx(1.0, abs=0.01)


@played
async def test_transcripts_are_made_when_asked_for(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.speak()
    await settle()
    kind = "conversation.item.input_audio_transcription"
    assert not [type_ for type_ in scene.types if type_.startswith(kind)]
    scene.update(audio={"input": {"transcription": {"model": "any-model-at-all"}}})
    for words, ending in (
        ("hi", "completed"),
        ("", "completed"),
        (None, "failed"),
        (AgentFailed("gone"), "failed"),
    ):
        scene.agent.words = words
        scene.clear()
        scene.speak()
        await settle()
        told = [type_.removeprefix(f"{kind}.") for type_ in scene.types if type_.startswith(kind)]
        assert told == (["delta", ending] if words == "hi" else [ending])
        if words == "hi":
            scene.send("conversation.item.retrieve", item_id=scene.last(f"{kind}.completed")["item_id"])
            assert scene.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "hi"


# --- answers ---------------------------------------------------------------------------------------------


@played_in_both
async def test_a_response_is_made_with_its_own_settings(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    scene.update(instructions="Session.", tools=[{"type": "function", "name": "f"}])
    own = {"instructions": "Response.", "tools": [], "tool_choice": "none", "metadata": {"k": "v"}}
    voice = {"audio": {"output": {"voice": "verse"}}} if dialect == "ga" else {"voice": "verse"}
    scene.send("response.create", response={**own, **voice})
    await settle()
    request = scene.agent.requests[-1]
    assert (request.instructions, request.tools, request.tool_choice, request.voice) == (
        "Response.",
        (),
        "none",
        "verse",
    )
    assert scene.last("response.done")["response"]["metadata"] == {"k": "v"}
    scene.send("response.create")
    await settle()
    assert scene.agent.requests[-1].instructions == "Session."


@played
async def test_a_response_beside_the_conversation_leaves_no_trace_in_it(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[TranscriptDelta("sports"), ToolCall("f", "{}", "c")]]
    scene.send("conversation.item.create", item=message("football", id="A"))
    inputs = [{"type": "item_reference", "id": "A"}, message("Classify.", "system")]
    response = {
        "conversation": "none",
        "input": inputs,
        "output_modalities": ["text"],
        "metadata": {"for": "me"},
    }
    scene.clear()
    scene.send("response.create", response=response)
    await settle()
    request = scene.agent.requests[-1]
    assert request.aside
    assert texts(scene) == ["football", "Classify."]
    assert not [type_ for type_ in scene.types if type_.startswith("conversation.item")]
    done = scene.last("response.done")["response"]
    assert done["conversation_id"] is None
    assert [item["type"] for item in done["output"]] == ["message", "function_call"]
    scene.send(
        "response.create", response={"conversation": "none", "input": [{"type": "item_reference", "id": "X"}]}
    )
    assert scene.error()["param"] == "response.input[0].id"


@played
async def test_responses_beside_the_conversation_run_with_it_and_are_counted(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[asyncio.Event()] for _ in range(20)]
    scene.send("response.create")
    for _ in range(MAX_ASIDES + 1):
        scene.send("response.create", response={"conversation": "none", "output_modalities": ["text"]})
    assert len(scene.of("response.created")) == MAX_ASIDES + 1
    assert scene.error()["code"] == "too_many_responses"


@played
async def test_two_spoken_responses_do_not_mix(clock: VirtualClock) -> None:
    scene = Scene(clock)
    go_on = asyncio.Event()
    scene.agent.answers = [[speech(1), go_on, speech(1)], [speech(0.5)]]
    scene.send("response.create")
    await settle()
    scene.send("response.create", response={"conversation": "none"})
    await settle()
    assert list(scene.speaker.fed_s) == [0]
    go_on.set()
    await settle()
    assert scene.speaker.fed_s == {0: pytest.approx(2), 1: pytest.approx(0.5)}
    scene.speaker.play()
    scene.speaker.play()
    order = [event["response_id"] for event in scene.of("output_audio_buffer.stopped")]
    assert order == [event["response"]["id"] for event in scene.of("response.done")]


@played_in_both
async def test_an_answer_to_a_call_may_come_before_the_response_is_done(
    clock: VirtualClock, dialect: Dialect
) -> None:
    """AG2 asks for the next response as soon as it has seen the call."""
    scene = Scene(clock, dialect)
    go_on = asyncio.Event()
    scene.agent.answers = [[ToolCall("f", "{}", "c"), go_on], [TranscriptDelta("Done."), speech(0.2)]]
    scene.send("response.create")
    await settle()
    assert scene.last("response.function_call_arguments.done")["name"] == "f"
    scene.send(
        "conversation.item.create", item={"type": "function_call_output", "call_id": "c", "output": "1"}
    )
    scene.send("response.create")
    assert not scene.of("error")
    assert len(scene.of("response.created")) == 1
    scene.send("response.create", event_id="again")
    assert scene.error()["event_id"] == "again"
    go_on.set()
    await settle()
    assert len(scene.of("response.done")) == 2
    assert [item["type"] for item in scene.agent.requests[-1].items] == [
        "function_call",
        "function_call_output",
    ]


@played
async def test_a_waiting_response_is_refused_when_the_user_speaks(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[ToolCall("f", "{}", "c"), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.send("response.create", event_id="mine")
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    await settle()
    assert scene.error()["event_id"] == "mine"
    assert len(scene.of("response.created")) == len(scene.of("response.done")) == 1


@played
async def test_a_response_can_be_cancelled_by_its_id(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[asyncio.Event()]]
    scene.send("response.create", response={"conversation": "none"})
    await settle()
    scene.send("response.cancel")
    assert scene.error()["code"] == "response_cancel_not_active"
    scene.send("response.cancel", response_id=scene.last("response.created")["response"]["id"])
    assert scene.last("response.done")["response"]["status_details"]["reason"] == "client_cancelled"
    await settle()
    assert scene.agent.ended == 1


@played
async def test_a_cancelled_answer_is_heard_as_far_as_it_was_made(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[speech(1), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.send("response.cancel")
    await settle()
    assert scene.speaker.ended == [0]
    scene.speaker.play()
    assert scene.types[-1] == "output_audio_buffer.stopped"


@played
async def test_a_failing_agent_fails_its_response_and_nothing_else(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[TranscriptDelta("Well,"), AgentFailed("upstream is gone")], [ValueError("a bug")]]
    scene.send("response.create")
    await settle()
    details = scene.last("response.done")["response"]["status_details"]
    assert details["error"]["code"] == "agent_failed"
    assert details["error"]["message"] == "upstream is gone"
    assert scene.last("response.output_item.done")["item"]["status"] == "incomplete"
    scene.send("response.create")
    await settle()
    assert scene.last("response.done")["response"]["status"] == "failed"
    assert "bug" not in str(scene.events)
    scene.send("response.create")
    await settle()
    assert scene.last("response.done")["response"]["status"] == "completed"


@played
async def test_an_answer_ends_at_the_longest_speech(clock: VirtualClock) -> None:
    scene = Scene(clock, config=AgentsConfig(max_response_s=1.5))
    scene.agent.answers = [[speech(1), speech(1), speech(1)], [speech(3)]]
    scene.send("response.create")
    await settle()
    assert scene.speaker.fed_s[0] == pytest.approx(1.5)
    response = scene.last("response.done")["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"]["reason"] == "max_output_tokens"
    scene.send("response.create", response={"max_output_tokens": 10})
    await settle()
    assert scene.speaker.fed_s[1] == pytest.approx(0.5)


@played
async def test_usage_is_what_the_agent_counted(clock: VirtualClock) -> None:
    scene = Scene(clock)
    details = {"input_token_details": {"text_tokens": 7, "cached_tokens": 2}}
    scene.agent.answers = [[TranscriptDelta("Hi."), Usage(7, 5, details)]]
    scene.send("response.create")
    await settle()
    usage = scene.last("response.done")["response"]["usage"]
    assert usage["total_tokens"] == 12
    assert usage["input_token_details"] == {"text_tokens": 7, "audio_tokens": 0, "cached_tokens": 2}


@played
async def test_speech_waits_for_room_and_outlasts_an_overrun(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.speaker.has_room.clear()
    scene.speaker.overruns = [SpeechOverrun("full", 0.5)]
    scene.send("response.create")
    await settle()
    assert scene.speaker.fed_s == {}
    scene.speaker.has_room.set()
    await settle()
    assert scene.speaker.fed_s == {0: 0}
    await asyncio.sleep(0.6)
    assert scene.speaker.fed_s == {0: pytest.approx(0.2)}
    assert scene.types[-2] == "response.done"


@played
async def test_sound_goes_to_the_face_only_when_somebody_watches(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", sound_out="events")
    scene.send("response.create")
    await settle()
    assert scene.speaker.fed_s == {}
    assert not [type_ for type_ in scene.types if type_.startswith("output_audio_buffer")]
    scene.speaker.is_watched = True
    scene.send("response.create")
    await settle()
    scene.speaker.play()
    assert scene.speaker.fed_s == {0: pytest.approx(0.2)}
    assert scene.types[-1] == "output_audio_buffer.stopped"
    assert len(scene.of("response.output_audio.delta")) == 2


@played
async def test_sound_leaves_in_short_pieces_that_join_to_the_speech(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", sound_out="events")
    scene.agent.answers = [[speech(0.33, 22_050), speech(1.7, 22_050)]]
    scene.send("response.create")
    await settle()
    pieces = [base64.b64decode(event["delta"]) for event in scene.of("response.output_audio.delta")]
    assert max(map(len, pieces)) <= 9_600
    assert sum(map(len, pieces)) / 2 == pytest.approx(2.03 * 24_000, abs=2)


# --- interruptions ---------------------------------------------------------------------------------------


@played_in_both
async def test_barge_in_keeps_the_words_that_were_heard(clock: VirtualClock, dialect: Dialect) -> None:
    scene = Scene(clock, dialect)
    scene.agent.answers = [
        [TranscriptDelta("The quick ", 0.0), speech(1), TranscriptDelta("brown fox.", 1.0), speech(1)]
    ]
    scene.speak()
    await settle()
    scene.speaker.play(0.9)
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    await settle()
    truncated = scene.last("conversation.item.truncated")
    assert truncated["audio_end_ms"] == 900
    assert scene.agent.told == [(truncated["item_id"], 0.9)]
    assert len(scene.of("response.done")) == 1
    scene.send("conversation.item.retrieve", item_id=truncated["item_id"])
    assert scene.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "The quick"
    scene.send("response.create")
    await settle()
    assert scene.agent.requests[-1].items[1]["content"][0]["transcript"] == "The quick"


@played
async def test_barge_in_before_the_first_sound_leaves_no_words(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[TranscriptDelta("Hello.", 0.0), speech(1)]]
    scene.speak()
    await settle()
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    assert scene.last("conversation.item.truncated")["audio_end_ms"] == 0
    scene.send("conversation.item.retrieve", item_id=scene.last("conversation.item.truncated")["item_id"])
    assert scene.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == ""


@played
async def test_barge_in_on_a_silent_response_cancels_it(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[asyncio.Event()]]
    scene.speak()
    await settle()
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    assert scene.last("response.done")["response"]["output"] == []
    assert scene.speaker.interrupts == 0
    assert not scene.of("conversation.item.truncated")


@played
async def test_barge_in_falls_silent_within_the_call(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[speech(1), asyncio.Event()]]
    scene.speak()
    await settle()
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    assert scene.speaker.interrupts == 1
    assert scene.types[-1] == "conversation.item.truncated"
    await settle()
    assert scene.agent.ended == 1


@played
async def test_barge_in_on_an_answer_that_waits_for_room_leaves_nothing_of_it(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.speaker.has_room.clear()
    scene.agent.answers = [[speech(1)]]
    scene.speak()
    await settle()
    scene.plan(SpeechStarted, 0.1)
    scene.hear(0.2)
    assert scene.last("conversation.item.truncated")["audio_end_ms"] == 0
    scene.speaker.has_room.set()
    scene.clear()
    await settle()
    assert scene.events == []
    assert scene.speaker.fed_s == {}


@played
async def test_the_user_may_be_cut_off_by_others_who_interrupt_the_session(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[TranscriptDelta("a b c", 0.0), speech(1), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.speaker.play(0.5)
    scene.speaker.interrupt()
    assert scene.last("response.done")["response"]["status"] == "cancelled"
    assert scene.types[-1] == "conversation.item.truncated"


@played
async def test_a_client_that_plays_the_sound_truncates_itself(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", sound_out="events")
    scene.agent.answers = [[TranscriptDelta("one two three four", 0.0), speech(2)]]
    scene.send("response.create")
    await settle()
    item_id = scene.last("response.output_item.done")["item"]["id"]
    scene.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=2_001)
    assert scene.error()["message"] == "Audio content of 2000ms is already shorter than 2001ms"
    scene.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=500)
    assert scene.types[-1] == "conversation.item.truncated"
    scene.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1_500)
    assert scene.last("conversation.item.truncated")["audio_end_ms"] == 500
    scene.send("conversation.item.retrieve", item_id=item_id)
    assert scene.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == "one two"
    await settle()
    assert scene.agent.told[0] == (item_id, 0.5)


@played
async def test_only_spoken_answers_are_truncated(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.send("conversation.item.create", item=message("x", id="A"))
    scene.send("conversation.item.truncate", item_id="A", content_index=0, audio_end_ms=0)
    assert scene.error()["message"] == "Only assistant message items can be truncated."
    scene.send("conversation.item.create", item=message("x", "assistant", id="B"))
    scene.send("conversation.item.truncate", item_id="B", content_index=0, audio_end_ms=1)
    assert scene.error()["code"] == "invalid_value"


@played
async def test_clearing_the_output_is_for_those_who_hear_it_here(clock: VirtualClock) -> None:
    scene = Scene(clock, sound_in="events", sound_out="events")
    scene.send("output_audio_buffer.clear")
    assert scene.error()["code"] == "invalid_event_for_transport"
    scene = Scene(clock)
    scene.send("output_audio_buffer.clear")
    assert scene.types == ["session.created"]


@played
async def test_clearing_the_output_stops_an_answer_that_goes_on(clock: VirtualClock) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[speech(1), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.speaker.play(0.2)
    scene.send("output_audio_buffer.clear")
    assert scene.last("response.done")["response"]["status_details"]["reason"] == "client_cancelled"
    scene.send("response.create")
    await settle()
    assert scene.last("response.done")["response"]["status"] == "completed"


@played
async def test_a_deleted_answer_is_neither_truncated_nor_finished_in_the_conversation(
    clock: VirtualClock,
) -> None:
    scene = Scene(clock)
    scene.agent.answers = [[speech(1), asyncio.Event()]]
    scene.send("response.create")
    await settle()
    scene.send("conversation.item.delete", item_id=scene.last("conversation.item.added")["item"]["id"])
    scene.send("output_audio_buffer.clear")
    assert scene.last("response.done")["response"]["status"] == "cancelled"
    assert not scene.of("conversation.item.done")
    assert not scene.of("conversation.item.truncated")
