"""What both dialects spell alike inside session and response objects: tools, turn detection, and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

from serve_app.conversation import faults
from serve_app.conversation.fields import Fields
from serve_app.conversation.model import Settings, TurnDetection

Value = TypeVar("Value")

MAX_TOOLS = 128
MAX_TOOL_NAME_CHARS = 128
MAX_DESCRIPTION_CHARS = 32_768
MAX_INSTRUCTIONS_CHARS = 262_144
MAX_INPUT_ITEMS = 512
MAX_OUTPUT_TOKENS = 1_000_000
MAX_METADATA = 16
MAX_METADATA_NAME_CHARS = 64
MAX_METADATA_CHARS = 512

TOOL_CHOICES = ("auto", "none", "required")


def read_turn_detection(fields: Fields) -> TurnDetection:
    """Return the turn detection of an object; what it does not say has OpenAI's default."""
    kind = fields.choice("type", None, ("server_vad", "semantic_vad"))
    if kind is None:
        raise faults.missing(fields.at("type"))
    defaults = TurnDetection()
    creates = fields.flag("create_response", default=True)
    interrupts = fields.flag("interrupt_response", default=True)
    if kind == "semantic_vad":
        eagerness = fields.choice("eagerness", "auto", ("low", "medium", "high", "auto"))
        fields.close()
        return TurnDetection(
            type="semantic_vad", eagerness=eagerness, create_response=creates, interrupt_response=interrupts
        )
    detection = TurnDetection(
        type="server_vad",
        threshold=fields.number("threshold", defaults.threshold, low=0, high=1),
        prefix_padding_ms=fields.integer("prefix_padding_ms", defaults.prefix_padding_ms, low=0, high=5_000),
        silence_duration_ms=fields.integer(
            "silence_duration_ms", defaults.silence_duration_ms, low=0, high=10_000
        ),
        idle_timeout_ms=fields.integer("idle_timeout_ms", None, low=100, high=3_600_000),
        create_response=creates,
        interrupt_response=interrupts,
    )
    fields.close()
    return detection


def read_noise_reduction(fields: Fields) -> dict[str, Any] | None:
    """Return a noise reduction object; browsers and phones do it themselves, so it is only echoed."""
    kind = fields.choice("type", None, ("near_field", "far_field"))
    fields.close()
    return None if kind is None else {"type": kind}


def read_transcription(fields: Fields) -> dict[str, Any]:
    """Return a transcription object: which model makes it is the agent's affair, so any is taken."""
    shown: dict[str, Any] = {}
    for name in ("model", "language", "prompt"):
        if fields.has(name):
            shown[name] = fields.optional(name, most=MAX_DESCRIPTION_CHARS)
    if fields.has("delay"):
        shown["delay"] = fields.choice("delay", None, ("minimal", "low", "medium", "high", "xhigh"))
    for name in ("keywords", "languages"):
        words = fields.array(name, most=128)
        if words is not None:
            shown[name] = [_word(fields.at(name), word) for word in words]
    fields.close()
    return shown


def read_tools(fields: Fields, default: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Return the field `tools`: functions, with their schemas made usable."""
    tools = fields.objects("tools", most=MAX_TOOLS)
    return default if tools is None else tuple(_read_tool(tool) for tool in tools)


def _read_tool(fields: Fields) -> dict[str, Any]:
    kind = fields.choice("type", "function", ("function",))
    tool: dict[str, Any] = {"type": kind, "name": fields.required("name", most=MAX_TOOL_NAME_CHARS)}
    if not tool["name"]:
        raise faults.missing(fields.at("name"))
    description = fields.optional("description", most=MAX_DESCRIPTION_CHARS)
    if description is not None:
        tool["description"] = description
    parameters = fields.json("parameters")
    if parameters is not None:
        # Clients written in PHP and JavaScript send an empty array for "no properties" (protocols 3.7).
        if parameters.get("properties") == []:
            parameters["properties"] = {}
        tool["parameters"] = parameters
    fields.close()
    return tool


def read_tool_choice(fields: Fields, default: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return the field `tool_choice`: one of three words, or a function."""
    value = fields.raw("tool_choice")
    if not isinstance(value, dict):
        return fields.choice("tool_choice", default, TOOL_CHOICES)
    choice = Fields(value, fields.at("tool_choice"), is_strict=fields.is_strict)
    kind = choice.choice("type", "function", ("function",))
    name = choice.required("name", most=MAX_TOOL_NAME_CHARS)
    choice.close()
    return {"type": kind, "name": name}


def read_max_tokens(fields: Fields, name: str, default: int | Literal["inf"]) -> int | Literal["inf"]:
    """Return a limit of output tokens: a whole number, or "inf"."""
    if fields.raw(name) == "inf":
        return "inf"
    return fields.integer(name, default, low=1, high=MAX_OUTPUT_TOKENS)


def read_voice(fields: Fields, default: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return the field `voice`: any name, or {"id": …}. Which voices there are, the agent knows."""
    if isinstance(fields.raw("voice"), dict):
        voice = cast("Fields", fields.object("voice"))
        id_ = voice.required("id", most=256)
        voice.close()
        return {"id": id_}
    return fields.text("voice", default, most=256)


def read_metadata(fields: Fields) -> dict[str, str] | None:
    """Return the field `metadata`: up to 16 strings by name."""
    values = fields.json("metadata")
    if values is None:
        return None
    path = fields.at("metadata")
    if len(values) > MAX_METADATA:
        raise faults.invalid(
            "object_above_max_properties",
            f"Invalid '{path}': expected at most {MAX_METADATA} properties, but got {len(values)} instead.",
            path,
        )
    for name, value in values.items():
        if len(name) > MAX_METADATA_NAME_CHARS:
            raise faults.too_long(path, "string", MAX_METADATA_NAME_CHARS, len(name))
        if not isinstance(value, str):
            raise faults.wrong_type(f"{path}.{name}", "a string", value)
        if len(value) > MAX_METADATA_CHARS:
            raise faults.too_long(f"{path}.{name}", "string", MAX_METADATA_CHARS, len(value))
    return values


def read_input(fields: Fields) -> tuple[object, ...] | None:
    """Return the field `input`, its items not yet read."""
    items = fields.array("input", most=MAX_INPUT_ITEMS)
    return None if items is None else tuple(items)


def read_in_conversation(fields: Fields) -> bool:
    """Return whether the field `conversation` lets the output join the conversation."""
    return fields.choice("conversation", "auto", ("auto", "none")) == "auto"


def read_instructions(fields: Fields, settings: Settings) -> str:
    """Return the field `instructions`."""
    return fields.text("instructions", settings.instructions, most=MAX_INSTRUCTIONS_CHARS)


def nullable(
    fields: Fields, name: str, default: Value | None, read: Callable[[Fields], Value | None]
) -> Value | None:
    """Return an object as `read` reads it, None when it is null, `default` when it is absent."""
    if fields.is_null(name):
        return None
    value = fields.object(name)
    return default if value is None else read(value)


def _word(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise faults.wrong_type(path, "an array of strings", value)
    return value
