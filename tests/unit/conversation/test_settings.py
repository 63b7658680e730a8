"""What doors ask of session settings: checking them before a key is minted, and showing the session."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.beta.realtime.session_create_response import SessionCreateResponse
from openai.types.realtime.client_secret_create_response import ClientSecretCreateResponse

from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.settings import check_session, session_object
from serve_app.conversation.spec import ConversationSpec, Dialect

pytestmark = pytest.mark.unit


def ga(**session: Any) -> dict[str, Any]:
    return {"type": "realtime", **session}


def audio_in(**input_: Any) -> dict[str, Any]:
    return ga(audio={"input": input_})


def test_checked_settings_are_a_copy_of_the_clients() -> None:
    session = ga(model="gpt-realtime-9", audio={"output": {"voice": {"id": "voice_1"}}})
    checked = check_session("ga", session)
    assert checked == session
    assert checked is not session
    assert checked["audio"] is not session["audio"]


@pytest.mark.parametrize(
    ("dialect", "session", "code", "param"),
    [
        ("ga", None, "invalid_type", "session"),
        ("ga", {}, "missing_required_parameter", "session.type"),
        ("ga", {"type": "transcription"}, "invalid_value", "session.type"),
        ("ga", ga(voice="alloy"), "unknown_parameter", "session.voice"),
        ("ga", ga(turn_detection=None), "unknown_parameter", "session.turn_detection"),
        ("ga", ga(temperature=0.8), "unknown_parameter", "session.temperature"),
        ("ga", ga(output_modalities=["audio", "text"]), "invalid_value", "session.output_modalities"),
        ("ga", ga(instructions=1), "invalid_type", "session.instructions"),
        ("ga", ga(instructions="x" * 300_000), "string_above_max_length", "session.instructions"),
        ("ga", ga(max_output_tokens=0), "integer_below_min_value", "session.max_output_tokens"),
        ("ga", ga(max_output_tokens="lots"), "invalid_type", "session.max_output_tokens"),
        ("ga", audio_in(format="pcm16"), "invalid_type", "session.audio.input.format"),
        ("ga", audio_in(format={"type": "audio/opus"}), "invalid_value", "session.audio.input.format.type"),
        (
            "ga",
            audio_in(format={"type": "audio/pcm", "rate": 16000}),
            "integer_below_min_value",
            "session.audio.input.format.rate",
        ),
        (
            "ga",
            audio_in(turn_detection={}),
            "missing_required_parameter",
            "session.audio.input.turn_detection.type",
        ),
        (
            "ga",
            audio_in(turn_detection={"type": "server_vad", "threshold": 1.5}),
            "decimal_above_max_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            "ga",
            audio_in(turn_detection={"type": "semantic_vad", "threshold": 0.5}),
            "unknown_parameter",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            "ga",
            audio_in(transcription={"enabled": True}),
            "unknown_parameter",
            "session.audio.input.transcription.enabled",
        ),
        ("ga", ga(audio={"output": {"speed": 4}}), "decimal_above_max_value", "session.audio.output.speed"),
        ("ga", ga(tools=[{}] * 129), "array_above_max_length", "session.tools"),
        ("ga", ga(tools=[{"type": "function"}]), "missing_required_parameter", "session.tools[0].name"),
        ("ga", ga(tools=[{"type": "mcp", "server_label": "x"}]), "invalid_value", "session.tools[0].type"),
        (
            "ga",
            ga(tools=[{"name": "f", "parameters": {"x": "y" * 70_000}}]),
            "string_above_max_length",
            "session.tools[0].parameters",
        ),
        ("ga", ga(tool_choice="sometimes"), "invalid_value", "session.tool_choice"),
        ("beta", [], "invalid_type", "session"),
        ("beta", {"modalities": ["video"]}, "invalid_value", "session.modalities"),
        ("beta", {"input_audio_format": "mp3"}, "invalid_value", "session.input_audio_format"),
        ("beta", {"temperature": "hot"}, "invalid_type", "session.temperature"),
        (
            "beta",
            {"turn_detection": {"type": "crystal_ball"}},
            "invalid_value",
            "session.turn_detection.type",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    dialect: Dialect, session: object, code: str, param: str
) -> None:
    with pytest.raises(RealtimeFault) as caught:
        check_session(dialect, session)
    fault = caught.value
    assert (fault.type, fault.code, fault.param) == ("invalid_request_error", code, param)
    assert fault.message


@pytest.mark.parametrize(
    ("dialect", "session"),
    [
        ("ga", ga()),
        ("ga", ga(tracing={"workflow_name": "w", "group_id": "g", "metadata": {"a": 1}})),
        ("ga", ga(tracing=None, prompt=None, include=None, reasoning=None)),
        (
            "ga",
            ga(
                truncation={
                    "type": "retention_ratio",
                    "retention_ratio": 0.8,
                    "token_limits": {"post_instructions": 9},
                }
            ),
        ),
        ("ga", ga(include=["item.input_audio_transcription.logprobs"])),
        ("ga", ga(tool_choice={"type": "function", "name": "f"}, max_output_tokens="inf")),
        (
            "ga",
            audio_in(noise_reduction={"type": "near_field"}, transcription={"model": "m", "language": "de"}),
        ),
        ("beta", {}),
        ("beta", {"model": "m", "voice": "alloy"}),
        ("beta", {"turn_detection": {"type": "none"}, "max_response_output_tokens": 4096, "speed": 1.5}),
        (
            "beta",
            {
                "tool_choice": "get_weather",
                "tools": [{"type": "function", "name": "get_weather", "strict": True}],
            },
        ),
        ("beta", {"input_audio_noise_reduction": {"type": "far_field"}, "tracing": {"anything": []}}),
    ],
)
def test_settings_that_clients_send_are_shown_in_the_types_of_the_mint_responses(
    dialect: Dialect, session: dict[str, Any]
) -> None:
    spec = ConversationSpec(dialect, check_session(dialect, session))
    shown = session_object(spec, "sess_1", 1_700_000_000)
    assert shown["id"] == "sess_1"
    if dialect == "ga":
        ClientSecretCreateResponse.model_validate({"expires_at": 1, "value": "ek_1", "session": shown})
    else:
        SessionCreateResponse.model_validate({**shown, "client_secret": {"value": "ek_1", "expires_at": 1}})


def test_a_session_shows_what_was_asked_for_and_defaults_for_the_rest() -> None:
    shown = session_object(
        ConversationSpec("beta", {"instructions": "Hi."}, model="any"), "sess_1", 9, voice="verse"
    )
    assert shown == {
        "id": "sess_1",
        "object": "realtime.session",
        "model": "any",
        "expires_at": 9,
        "modalities": ["audio", "text"],
        "instructions": "Hi.",
        "voice": "verse",
        "input_audio_format": "pcm16",
        "output_audio_format": "pcm16",
        "input_audio_transcription": None,
        "input_audio_noise_reduction": None,
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
            "create_response": True,
            "interrupt_response": True,
        },
        "tools": [],
        "tool_choice": "auto",
        "temperature": 0.8,
        "max_response_output_tokens": "inf",
        "speed": 1.0,
        "tracing": None,
    }


def test_an_empty_array_of_properties_becomes_an_object() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": []}}
    for dialect, session in (("ga", ga(tools=[tool])), ("beta", {"tools": [tool]})):
        shown = session_object(ConversationSpec(dialect, session), "s", 1)  # type: ignore[arg-type]
        assert shown["tools"][0]["parameters"] == {"type": "object", "properties": {}}


def test_numbers_that_json_does_not_have_are_refused_in_schemas() -> None:
    session = ga(tools=[{"name": "f", "parameters": {"minimum": float("nan")}}])
    with pytest.raises(RealtimeFault, match="expected JSON"):
        check_session("ga", session)
