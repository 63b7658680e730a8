"""The beta dialect: flat, and forgiving: fields it does not know are passed over.

Shapes as in openai.types.beta.realtime (protocols 4.5 to 4.7). Every `session.update` is partial and merges
(Decision 4.4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serve_app.conversation import faults
from serve_app.conversation.dialects import parts
from serve_app.conversation.fields import Fields
from serve_app.conversation.model import ResponseSettings, Settings, SoundFormat, voice_name

IS_STRICT = False

_TO_GA: dict[str, SoundFormat] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_FROM_GA = {ga: beta for beta, ga in _TO_GA.items()}

_TYPES = {
    "conversation.item.added": "conversation.item.created",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
}
_UNKNOWN = frozenset({"conversation.item.done", "input_audio_buffer.timeout_triggered"})

_PARTS_TO_GA = {
    "assistant": {"text": "output_text", "input_text": "output_text", "audio": "output_audio"},
    "user": {"text": "input_text", "audio": "input_audio"},
    "system": {"text": "input_text"},
}
_PARTS_FROM_GA = {"output_text": "text", "output_audio": "audio"}


def read_session(value: object, settings: Settings, *, needs_type: bool = True) -> Settings:
    """Return `settings` with the changes of a client's flat session object.

    Raises:
        RealtimeFault: a known field is not as expected.
    """
    fields = Fields(value, "session", is_strict=False)
    settings = replace(
        _read_common(fields, settings, "max_response_output_tokens"),
        input_format=_read_format(fields, "input_audio_format", settings.input_format),
        speed=fields.number("speed", settings.speed, low=0.25, high=4),
        noise_reduction=parts.nullable(
            fields, "input_audio_noise_reduction", settings.noise_reduction, parts.read_noise_reduction
        ),
        transcription=parts.nullable(
            fields, "input_audio_transcription", settings.transcription, parts.read_transcription
        ),
    )
    return _read_turn_detection(fields, _read_tracing(fields, settings))


def read_response(value: object, settings: Settings) -> ResponseSettings:
    """Return what a `response.create` asks for, given the session's settings.

    Raises:
        RealtimeFault: a known field is not as expected.
    """
    fields = Fields({} if value is None else value, "response", is_strict=False)
    tokens = "max_output_tokens" if fields.has("max_output_tokens") else "max_response_output_tokens"
    return ResponseSettings(
        session=_read_common(fields, settings, tokens),
        in_conversation=parts.read_in_conversation(fields),
        input=parts.read_input(fields),
        metadata=parts.read_metadata(fields),
    )


def show_session(settings: Settings, session_id: str, model: str, expires_at: int | None) -> dict[str, Any]:
    """Return the session object (openai.types.beta.realtime.Session)."""
    detection = None if settings.turn_detection is None else settings.turn_detection.shown()
    if detection is not None:
        detection.pop("idle_timeout_ms", None)
    return {
        "id": session_id,
        "object": "realtime.session",
        "model": model,
        "expires_at": expires_at,
        "modalities": ["audio", "text"] if settings.with_sound else ["text"],
        "instructions": settings.instructions,
        "voice": voice_name(settings.voice),
        "input_audio_format": _FROM_GA[settings.input_format],
        "output_audio_format": _FROM_GA[settings.output_format],
        "input_audio_transcription": settings.transcription,
        "input_audio_noise_reduction": settings.noise_reduction,
        "turn_detection": detection,
        "tools": list(settings.tools),
        "tool_choice": _show_tool_choice(settings.tool_choice),
        "temperature": settings.temperature,
        "max_response_output_tokens": settings.max_output_tokens,
        "speed": settings.speed,
        "tracing": settings.extras.get("tracing"),
    }


def read_part_type(role: str, type_: str) -> str:
    """Return GA's name of a content part's type."""
    return _PARTS_TO_GA.get(role, {}).get(type_, type_)


def show_event(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return a GA server event in this dialect; None when it has no such event."""
    type_ = event["type"]
    if type_ in _UNKNOWN:
        return None
    shown = {**event, "type": _TYPES.get(type_, type_)}
    if "item" in shown:
        shown["item"] = _show_item(shown["item"])
    if "response" in shown:
        shown["response"] = _show_response(shown["response"])
    return shown


def _show_item(item: dict[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return item
    content = [
        {**part, "type": _PARTS_FROM_GA.get(part["type"], part["type"])}
        for part in item["content"]
        if part["type"] != "input_image"  # beta's types have no image; the item keeps it
    ]
    return {**item, "content": content}


def _show_response(response: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in response.items() if name not in ("output_modalities", "audio")}
    output = response["audio"]["output"]
    return {
        **shown,
        "output": [_show_item(item) for item in response["output"]],
        "modalities": ["audio", "text"] if response["output_modalities"] == ["audio"] else ["text"],
        "voice": output["voice"],
        "output_audio_format": _FROM_GA[output["format"]["type"]],
    }


def _show_tool_choice(choice: str | dict[str, Any]) -> str:
    return choice if isinstance(choice, str) else str(choice["name"])


def _read_common(fields: Fields, settings: Settings, tokens: str) -> Settings:
    return replace(
        settings,
        instructions=parts.read_instructions(fields, settings),
        with_sound=_read_modalities(fields, settings.with_sound),
        voice=parts.read_voice(fields, settings.voice),
        output_format=_read_format(fields, "output_audio_format", settings.output_format),
        tools=parts.read_tools(fields, settings.tools),
        tool_choice=_read_tool_choice(fields, settings.tool_choice),
        temperature=fields.number("temperature", settings.temperature, low=0, high=2),
        max_output_tokens=parts.read_max_tokens(fields, tokens, settings.max_output_tokens),
    )


def _read_modalities(fields: Fields, default: bool) -> bool:
    modalities = fields.array("modalities", most=2)
    if modalities is None:
        return default
    path = fields.at("modalities")
    for modality in modalities:
        if modality not in ("text", "audio"):
            raise faults.wrong_value(path, modality, ("text", "audio"))
    if not modalities:
        raise faults.wrong_value(path, "[]", ("text", "audio"))
    return "audio" in modalities


def _read_format(fields: Fields, name: str, default: SoundFormat) -> SoundFormat:
    format_ = fields.choice(name, None, tuple(_TO_GA))
    return default if format_ is None else _TO_GA[format_]


def _read_tool_choice(fields: Fields, default: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return `tool_choice`; a string that is none of the three words names a function in this dialect."""
    value = fields.optional("tool_choice") if isinstance(fields.raw("tool_choice"), str) else None
    if value is not None and value not in parts.TOOL_CHOICES:
        return {"type": "function", "name": value[: parts.MAX_TOOL_NAME_CHARS]}
    return parts.read_tool_choice(fields, default)


def _read_turn_detection(fields: Fields, settings: Settings) -> Settings:
    value = fields.raw("turn_detection")
    # Early clients wrote "none" for manual turns.
    if fields.is_null("turn_detection") or (isinstance(value, dict) and value.get("type") == "none"):
        return replace(settings, turn_detection=None)
    detection = fields.object("turn_detection")
    if detection is None:
        return settings
    return replace(settings, turn_detection=parts.read_turn_detection(detection))


def _read_tracing(fields: Fields, settings: Settings) -> Settings:
    """Keep tracing where it has a shape that can be echoed; it changes nothing here."""
    if fields.raw("tracing") == "auto":
        return replace(settings, extras={**settings.extras, "tracing": "auto"})
    return settings
