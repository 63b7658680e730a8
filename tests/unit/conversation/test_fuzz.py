"""Whatever a client sends, in whatever order, the conversation keeps its promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.agents.base import ToolCall, TranscriptDelta
from serve_app.conversation.dialects import shape_of
from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.model import Settings
from serve_app.conversation.settings import check_session
from serve_app.conversation.spec import Dialect
from serve_app.errors import AgentFailed
from serve_app.speech.turns import SpeechStarted, SpeechStopped
from tests.unit.conversation.scene import DIALECTS, Scene, pcm, settle, speech, tone
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

TYPES = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.retrieve",
    "conversation.item.delete",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
    "output_audio_buffer.clear",
)

NAMES = st.sampled_from(
    (
        *[
            "type",
            "event_id",
            "session",
            "item",
            "item_id",
            "previous_item_id",
            "audio",
            "response",
            "input",
            "output",
            "voice",
        ],
        *[
            "speed",
            "format",
            "rate",
            "tools",
            "tool_choice",
            "instructions",
            "turn_detection",
            "transcription",
        ],
        *["noise_reduction", "threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms"],
        *[
            "eagerness",
            "output_modalities",
            "modalities",
            "max_output_tokens",
            "metadata",
            "conversation",
            "role",
        ],
        *[
            "content",
            "text",
            "transcript",
            "image_url",
            "call_id",
            "name",
            "arguments",
            "parameters",
            "id",
            "status",
            "object",
        ],
        *[
            "audio_end_ms",
            "content_index",
            "response_id",
            "tracing",
            "prompt",
            "truncation",
            "include",
            "reasoning",
        ],
        *["temperature", "input_audio_format", "output_audio_format", "max_response_output_tokens"],
    )
)
WORDS = st.sampled_from(
    (
        *TYPES,
        *[
            "realtime",
            "message",
            "user",
            "assistant",
            "system",
            "input_text",
            "input_audio",
            "output_text",
            "text",
            "audio",
        ],
        *[
            "server_vad",
            "semantic_vad",
            "auto",
            "none",
            "function",
            "function_call",
            "inf",
            "root",
            "A",
            "AAAA",
            "audio/pcm",
        ],
        *["audio/pcmu", "pcm16", "function_call_output", "item_reference", "input_image", "data:image/x"],
    )
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=8)
    ),
    max_leaves=30,
)
EVENTS = JSON | st.builds(
    lambda type_, rest: {**rest, "type": type_}, st.sampled_from(TYPES), st.dictionaries(NAMES, JSON)
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(events=st.lists(EVENTS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_json_is_taken_or_answered_with_an_error(dialect: Dialect, events: list[object]) -> None:
    async def play(clock: VirtualClock) -> None:
        scene = Scene(clock, dialect, sound_in="events", sound_out="events")
        for event in events:
            scene.clear()
            scene.conversation.receive(event)
            for error in scene.of("error"):
                assert error["error"]["type"] == "invalid_request_error"
                assert error["error"]["code"]
        await settle()
        await scene.conversation.close()

    run_virtual(play)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(session=JSON | st.dictionaries(NAMES, JSON))
@settings(max_examples=200, deadline=None)
def test_any_session_is_good_to_use_and_show_or_refused(dialect: Dialect, session: Any) -> None:
    try:
        checked = check_session(dialect, session)
    except RealtimeFault:
        return
    shape = shape_of(dialect)
    read = shape.read_session(checked, Settings())
    shape.show_session(read, "sess_x", "m", 1)
    if read.turn_detection is not None:
        read.turn_detection.settings()


ACTIONS = (
    *[
        "text",
        "text",
        "create",
        "create",
        "aside",
        "cancel",
        "clear",
        "speak",
        "start",
        "stop",
        "gate",
        "play",
        "play",
        "end",
        "settle",
    ],
    *["delete", "truncate", "retrieve", "append", "commit", "update", "tool"],
)


class Play:
    """Random events that make sense, and what has to hold after them."""

    def __init__(self, scene: Scene, draw: Any) -> None:
        self.scene = scene
        self.draw = draw
        self.gates: list[asyncio.Event] = []

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def item_id(self) -> str:
        known = [event["item"]["id"] for event in self.scene.events if "item" in event]
        return self.pick("nowhere", *known)

    def answer(self) -> None:
        gate = asyncio.Event()
        self.gates.append(gate)
        pieces = [TranscriptDelta("one ", 0.0), TranscriptDelta("two "), speech(0.4), speech(0.3), gate]
        pieces += [ToolCall("f", "{}", "c"), AgentFailed("gone")]
        self.scene.agent.answers.append(self.draw(st.lists(st.sampled_from(pieces), max_size=6)))

    async def step(self) -> None:
        scene = self.scene
        action = self.pick(*ACTIONS)
        if action == "text":
            scene.text("hi", previous_item_id=self.pick(None, "root", self.item_id()))
        elif action in ("create", "aside"):
            self.answer()
            scene.send("response.create", response={"conversation": "none"} if action == "aside" else None)
        elif action == "cancel":
            scene.send("response.cancel")
        elif action == "clear":
            scene.send(self.pick("output_audio_buffer.clear", "input_audio_buffer.clear"))
        elif action == "speak":
            self.answer()
            scene.speak(0.3)
        elif action in ("start", "stop") and scene.detectors:
            scene.plan(SpeechStarted if action == "start" else SpeechStopped, 0.05)
            scene.hear(0.1)
        elif action == "gate" and self.gates:
            self.gates.pop(0).set()
        elif action in ("play", "end") and scene.speaker._waiting:
            scene.speaker.play(0.2 if action == "play" else None)
        elif action in ("delete", "truncate", "retrieve"):
            more = (
                {"content_index": 0, "audio_end_ms": self.pick(0, 300, 9_999)} if action == "truncate" else {}
            )
            scene.send(f"conversation.item.{action}", item_id=self.item_id(), **more)
        elif action == "append":
            scene.send("input_audio_buffer.append", audio=pcm(tone(self.pick(0.05, 0.3, 2.0))))
        elif action == "commit":
            scene.send("input_audio_buffer.commit")
        elif action == "tool":
            scene.send(
                "conversation.item.create",
                item={"type": "function_call_output", "call_id": "c", "output": "1"},
            )
        elif action == "update":
            detection = self.pick(
                None, {"type": "server_vad"}, {"type": "server_vad", "interrupt_response": False}
            )
            if scene.dialect == "ga":
                scene.update(audio={"input": {"turn_detection": detection}})
            else:
                scene.update(turn_detection=detection)
        else:
            await settle()

    async def finish(self) -> None:
        for gate in self.gates:
            gate.set()
        for _ in range(30):
            await settle()
            while self.scene.speaker._waiting:
                self.scene.speaker.play()

    def check(self) -> None:
        events = self.scene.events
        ids = [event["event_id"] for event in events]
        assert len(set(ids)) == len(ids)
        created = [event["response"]["id"] for event in events if event["type"] == "response.created"]
        done = [event["response"]["id"] for event in events if event["type"] == "response.done"]
        assert len(set(created)) == len(created)
        assert sorted(created) == sorted(done)
        self.check_outputs()
        self.check_playback()

    def check_outputs(self) -> None:
        added, done = Counter[str](), Counter[str]()
        words: dict[str, str] = {}
        for event in self.scene.events:
            kind = event["type"]
            if kind == "response.output_item.added":
                added[event["item"]["id"]] += 1
            elif kind == "response.output_item.done":
                done[event["item"]["id"]] += 1
                assert event["item"]["status"] in ("completed", "incomplete")
            elif kind.endswith(("transcript.delta", "text.delta")):
                words[event["item_id"]] = words.get(event["item_id"], "") + event["delta"]
            elif kind.endswith(("transcript.done", "text.done")):
                assert event.get("transcript", event.get("text")) == words.get(event["item_id"], "")
        assert added == done
        assert set(added.values()) <= {1}

    def check_playback(self) -> None:
        state: dict[str, str] = {}
        for event in self.scene.events:
            if event["type"].startswith("output_audio_buffer."):
                now, before = event["type"].split(".")[1], state.get(event["response_id"])
                assert before in (
                    (None,) if now == "started" else ("started",) if now == "stopped" else (None, "started")
                )
                state[event["response_id"]] = now
        assert "started" not in state.values()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("sound_in", "sound_out"), [("track", "media"), ("events", "events"), ("events", "media")]
)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_order_of_events_keeps_the_promises(
    dialect: Dialect, sound_in: str, sound_out: str, data: Any
) -> None:
    async def scenario(clock: VirtualClock) -> None:
        scene = Scene(clock, dialect, sound_in=sound_in, sound_out=sound_out)
        scene.speaker.is_watched = data.draw(st.booleans())
        play = Play(scene, data.draw)
        try:
            for _ in range(data.draw(st.integers(1, 25))):
                await play.step()
            await play.finish()
            play.check()
        finally:
            # Hypothesis gives some examples up in the middle of a draw.
            await scene.conversation.close()

    run_virtual(scenario)
