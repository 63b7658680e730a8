"""The GA dialect: strict, as OpenAI's; shapes as in openai.types.realtime (protocols 4.5 to 4.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from serve_app.conversation import faults
from serve_app.conversation.dialects import parts
from serve_app.conversation.fields import Fields
from serve_app.conversation.model import ResponseSettings, Settings, SoundFormat

IS_STRICT = True

_FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")
_PCM_HZ = 24_000
_NULLABLE = ("tracing", "prompt", "include", "reasoning")
_LOGPROBS = "item.input_audio_transcription.logprobs"


def read_session(value: object, settings: Settings, *, needs_type: bool = True) -> Settings:
    """Return `settings` with the changes of a client's session object: `type` and any of its fields.

    Raises:
        RealtimeFault: a field does not exist, is not as expected, or `type` is missing.
    """
    fields = Fields(value, "session", is_strict=True)
    if fields.choice("type", None, ("realtime",)) is None and needs_type:
        raise faults.missing("session.type")
    # A session keeps the model it was opened with; stock clients repeat it in every update.
    fields.optional("model")
    settings = replace(
        settings,
        instructions=parts.read_instructions(fields, settings),
        with_sound=_read_modalities(fields, settings.with_sound),
        tools=parts.read_tools(fields, settings.tools),
        tool_choice=parts.read_tool_choice(fields, settings.tool_choice),
        max_output_tokens=parts.read_max_tokens(fields, "max_output_tokens", settings.max_output_tokens),
        extras=_read_extras(fields, settings.extras),
    )
    if (audio := fields.object("audio")) is not None:
        settings = _read_audio(audio, settings)
    fields.close()
    return settings


def read_response(value: object, settings: Settings) -> ResponseSettings:
    """Return what a `response.create` asks for, given the session's settings.

    Raises:
        RealtimeFault: a field does not exist or is not as expected.
    """
    fields = Fields({} if value is None else value, "response", is_strict=True)
    _read_extras(fields, {})
    session = replace(
        settings,
        instructions=parts.read_instructions(fields, settings),
        with_sound=_read_modalities(fields, settings.with_sound),
        tools=parts.read_tools(fields, settings.tools),
        tool_choice=parts.read_tool_choice(fields, settings.tool_choice),
        max_output_tokens=parts.read_max_tokens(fields, "max_output_tokens", settings.max_output_tokens),
    )
    if (audio := fields.object("audio")) is not None:
        if (output := audio.object("output")) is not None:
            session = _read_output(output, session)
        audio.close()
    wanted = ResponseSettings(
        session=session,
        in_conversation=parts.read_in_conversation(fields),
        input=parts.read_input(fields),
        metadata=parts.read_metadata(fields),
    )
    fields.close()
    return wanted


def show_session(settings: Settings, session_id: str, model: str, expires_at: int | None) -> dict[str, Any]:
    """Return the session object (openai.types.realtime.RealtimeSessionCreateResponse)."""
    detection = settings.turn_detection
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio" if settings.with_sound else "text"],
        "instructions": settings.instructions,
        "tools": list(settings.tools),
        "tool_choice": settings.tool_choice,
        "max_output_tokens": settings.max_output_tokens,
        "tracing": None,
        "prompt": None,
        "truncation": "auto",
        "include": None,
        **settings.extras,
        "expires_at": expires_at,
        "audio": {
            "input": {
                "format": _show_format(settings.input_format),
                "transcription": settings.transcription,
                "noise_reduction": settings.noise_reduction,
                "turn_detection": None if detection is None else detection.shown(),
            },
            "output": {
                "format": _show_format(settings.output_format),
                "voice": settings.voice,
                "speed": settings.speed,
            },
        },
    }


def show_response_settings(settings: Settings) -> dict[str, Any]:
    """Return the part of a response object that repeats its settings."""
    voice = settings.voice
    return {
        "output_modalities": ["audio" if settings.with_sound else "text"],
        "max_output_tokens": settings.max_output_tokens,
        "audio": {
            "output": {
                "format": _show_format(settings.output_format),
                "voice": voice if isinstance(voice, str) else voice["id"],
            }
        },
    }


def read_part_type(role: str, type_: str) -> str:
    """Return a content part's type as it is."""
    return type_


def show_event(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the event as it is, but for `conversation.created`, which GA does not send."""
    return None if event["type"] == "conversation.created" else event


def _read_audio(audio: Fields, settings: Settings) -> Settings:
    if (input_ := audio.object("input")) is not None:
        settings = _read_input(input_, settings)
    if (output := audio.object("output")) is not None:
        settings = replace(settings, speed=output.number("speed", settings.speed, low=0.25, high=1.5))
        settings = _read_output(output, settings)
    audio.close()
    return settings


def _read_input(fields: Fields, settings: Settings) -> Settings:
    settings = replace(
        settings,
        input_format=_read_format(fields, settings.input_format),
        noise_reduction=parts.nullable(
            fields, "noise_reduction", settings.noise_reduction, parts.read_noise_reduction
        ),
        transcription=parts.nullable(
            fields, "transcription", settings.transcription, parts.read_transcription
        ),
        turn_detection=parts.nullable(
            fields, "turn_detection", settings.turn_detection, parts.read_turn_detection
        ),
    )
    fields.close()
    return settings


def _read_output(fields: Fields, settings: Settings) -> Settings:
    settings = replace(
        settings,
        output_format=_read_format(fields, settings.output_format),
        voice=parts.read_voice(fields, settings.voice),
    )
    fields.close()
    return settings


def _read_format(fields: Fields, default: SoundFormat) -> SoundFormat:
    format_ = fields.object("format")
    if format_ is None:
        return default
    kind = format_.choice("type", "audio/pcm", _FORMATS)
    if kind == "audio/pcm":
        format_.integer("rate", _PCM_HZ, low=_PCM_HZ, high=_PCM_HZ)
    else:
        format_.raw("rate")
    format_.close()
    return cast("SoundFormat", kind)


def _show_format(format_: SoundFormat) -> dict[str, Any]:
    return {"type": format_, "rate": _PCM_HZ} if format_ == "audio/pcm" else {"type": format_}


def _read_modalities(fields: Fields, default: bool) -> bool:
    modalities = fields.array("output_modalities", most=2)
    if modalities is None:
        return default
    if modalities not in (["audio"], ["text"]):
        message = "Invalid modalities. Supported combinations are: ['text'] and ['audio']."
        raise faults.invalid("invalid_value", message, fields.at("output_modalities"))
    return modalities == ["audio"]


def _read_extras(fields: Fields, extras: dict[str, Any]) -> dict[str, Any]:
    """Return `extras` with those fields that are taken and change nothing here."""
    readers: dict[str, Callable[[Fields], object]] = {
        "tracing": _read_tracing,
        "prompt": _read_prompt,
        "include": _read_include,
        "reasoning": _read_reasoning,
        "truncation": _read_truncation,
        "parallel_tool_calls": _read_parallel_tool_calls,
    }
    changed = dict(extras)
    for name, read in readers.items():
        if fields.has(name):
            changed[name] = read(fields)
        elif fields.is_null(name) and name in _NULLABLE:
            changed[name] = None
    return changed


def _read_include(fields: Fields) -> list[str]:
    include = fields.array("include", most=8) or []
    for name in include:
        if name != _LOGPROBS:
            raise faults.wrong_value(fields.at("include"), name, (_LOGPROBS,))
    return include


def _read_reasoning(fields: Fields) -> dict[str, Any]:
    reasoning = cast("Fields", fields.object("reasoning"))
    effort = reasoning.choice("effort", None, ("minimal", "low", "medium", "high", "xhigh"))
    reasoning.close()
    return {"effort": effort}


def _read_parallel_tool_calls(fields: Fields) -> bool:
    return fields.flag("parallel_tool_calls", default=True)


def _read_tracing(fields: Fields) -> str | dict[str, Any] | None:
    if not isinstance(fields.raw("tracing"), dict):
        return fields.choice("tracing", None, ("auto",))
    tracing = cast("Fields", fields.object("tracing"))
    shown: dict[str, Any] = {}
    for name in ("workflow_name", "group_id"):
        if tracing.has(name):
            shown[name] = tracing.optional(name)
    if (metadata := tracing.json("metadata")) is not None:
        shown["metadata"] = metadata
    tracing.close()
    return shown


def _read_prompt(fields: Fields) -> dict[str, Any]:
    prompt = cast("Fields", fields.object("prompt"))
    shown: dict[str, Any] = {"id": prompt.required("id")}
    if prompt.has("version"):
        shown["version"] = prompt.optional("version")
    if (variables := prompt.json("variables")) is not None:
        for name, value in variables.items():
            if not isinstance(value, str | dict):
                raise faults.wrong_type(f"{prompt.at('variables')}.{name}", "a string or an object", value)
        shown["variables"] = variables
    prompt.close()
    return shown


def _read_truncation(fields: Fields) -> str | dict[str, Any]:
    if not isinstance(fields.raw("truncation"), dict):
        return fields.choice("truncation", "auto", ("auto", "disabled"))
    truncation = cast("Fields", fields.object("truncation"))
    shown: dict[str, Any] = {
        "type": truncation.choice("type", "retention_ratio", ("retention_ratio",)),
        "retention_ratio": truncation.number("retention_ratio", 1.0, low=0, high=1),
    }
    if (limits := truncation.object("token_limits")) is not None:
        most = parts.MAX_OUTPUT_TOKENS
        shown["token_limits"] = {
            "post_instructions": limits.integer("post_instructions", None, low=0, high=most)
        }
        limits.close()
    truncation.close()
    return shown
