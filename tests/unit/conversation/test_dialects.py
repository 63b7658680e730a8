"""How the two dialects respell what is GA inside."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.conversation.dialects import beta, ga, shape_of
from serve_app.conversation.model import Settings

pytestmark = pytest.mark.unit


def test_each_dialect_has_its_shape() -> None:
    assert shape_of("ga") is ga
    assert shape_of("beta") is beta


@pytest.mark.parametrize(
    ("type_", "shown"),
    [
        ("conversation.item.added", "conversation.item.created"),
        ("conversation.item.done", None),
        ("response.output_text.delta", "response.text.delta"),
        ("response.output_audio.done", "response.audio.done"),
        ("response.output_audio_transcript.done", "response.audio_transcript.done"),
        ("input_audio_buffer.timeout_triggered", None),
        ("input_audio_buffer.committed", "input_audio_buffer.committed"),
    ],
)
def test_beta_has_other_names_for_some_events_and_lacks_others(type_: str, shown: str | None) -> None:
    event = beta.show_event({"type": type_, "event_id": "event_1"})
    assert (event and event["type"]) == shown


def test_beta_names_parts_otherwise_and_leaves_images_out() -> None:
    content = [{"type": "output_text", "text": "a"}, {"type": "input_image", "detail": "auto"}]
    item = {"id": "i", "type": "message", "role": "assistant", "content": content}
    event = beta.show_event({"type": "conversation.item.retrieved", "item": item})
    assert event is not None
    assert event["item"]["content"] == [{"type": "text", "text": "a"}]
    assert item["content"] == content, "what is inside stays as it is"


def test_beta_flattens_a_response() -> None:
    settings = Settings(voice={"id": "voice_1"}, output_format="audio/pcmu")
    response: dict[str, Any] = {"id": "r", "output": [], **ga.show_response_settings(settings)}
    event = beta.show_event({"type": "response.created", "response": response})
    assert event is not None
    assert event["response"] == {
        "id": "r",
        "output": [],
        "modalities": ["audio", "text"],
        "max_output_tokens": "inf",
        "voice": "voice_1",
        "output_audio_format": "g711_ulaw",
    }


def test_beta_takes_the_names_of_early_clients() -> None:
    settings = beta.read_session({"turn_detection": {"type": "none"}, "tool_choice": "f"}, Settings())
    assert settings.turn_detection is None
    assert settings.tool_choice == {"type": "function", "name": "f"}
    assert beta.show_session(settings, "s", "m", None)["tool_choice"] == "f"


def test_ga_clears_what_is_null_and_keeps_what_is_absent() -> None:
    first = {"audio": {"input": {"transcription": {"model": "m"}, "noise_reduction": {"type": "near_field"}}}}
    settings = ga.read_session({"type": "realtime", **first}, Settings())
    settings = ga.read_session({"type": "realtime", "audio": {"input": {"transcription": None}}}, settings)
    assert settings.transcription is None
    assert settings.noise_reduction == {"type": "near_field"}
    assert settings.turn_detection is not None
