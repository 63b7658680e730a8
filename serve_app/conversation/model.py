"""The settings of a session and of a response, in GA's terms whatever the dialect."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from serve_app.speech.turns import Eagerness, TurnSettings

SoundFormat: TypeAlias = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
"""PCM is 16 bits, little-endian, mono, 24 kHz; the other two are G.711 at 8 kHz."""

TOKENS_PER_SECOND = 20
"""Speech counts one output token for 50 ms, as at OpenAI."""

CHARACTERS_PER_TOKEN = 4


def new_id(kind: str) -> str:
    """Return an id that nobody can guess, such as "item_5f0c…"."""
    return f"{kind}_{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """How turns are found; names and defaults are OpenAI's."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    idle_timeout_ms: int | None = None
    eagerness: str = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    def settings(self) -> TurnSettings:
        """Return what a turn detector needs of this."""
        if self.type == "semantic_vad":
            return TurnSettings.semantic(cast("Eagerness", self.eagerness))
        return TurnSettings(
            threshold=self.threshold,
            prefix_padding_s=self.prefix_padding_ms / 1000,
            silence_s=self.silence_duration_ms / 1000,
        )

    def shown(self) -> dict[str, Any]:
        """Return the object that shows this in a session (GA)."""
        flags = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.type == "semantic_vad":
            return {"type": self.type, "eagerness": self.eagerness, **flags}
        return {
            "type": self.type,
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            "idle_timeout_ms": self.idle_timeout_ms,
            **flags,
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """A session's settings.

    Attributes:
        instructions: system prompt.
        with_sound: whether answers are spoken; text alone otherwise.
        input_format: of sound in `input_audio_buffer.append`.
        output_format: of sound in `response.output_audio.delta`.
        noise_reduction: as the client gave it; echoed.
        transcription: as the client gave it; None when no transcripts of the user are wanted.
        turn_detection: None when the client commits turns itself.
        voice: name, or {"id": …} of a custom voice.
        speed: of speech, 1 is the voice's own.
        tools: function tools.
        tool_choice: "auto", "none", "required" or {"type": "function", "name": …}.
        max_output_tokens: of one response, or "inf".
        temperature: of the beta dialect; echoed.
        extras: fields that are taken and echoed and change nothing here (tracing, prompt, …).
    """

    instructions: str = ""
    with_sound: bool = True
    input_format: SoundFormat = "audio/pcm"
    output_format: SoundFormat = "audio/pcm"
    noise_reduction: dict[str, Any] | None = None
    transcription: dict[str, Any] | None = None
    turn_detection: TurnDetection | None = TurnDetection()
    voice: str | dict[str, Any] = "alloy"
    speed: float = 1.0
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    max_output_tokens: int | Literal["inf"] = "inf"
    temperature: float = 0.8
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """What one response is made with: the session's settings and what `response.create` changed.

    Attributes:
        session: the settings that hold for this response.
        in_conversation: whether its output joins the conversation.
        input: items to answer instead of the conversation, or references to its items; None for all of it.
        metadata: the client's own, echoed.
    """

    session: Settings
    in_conversation: bool = True
    input: tuple[object, ...] | None = None
    metadata: dict[str, str] | None = None


def voice_name(voice: str | dict[str, Any]) -> str:
    """Return the name of a voice, or the id of a custom one."""
    return voice if isinstance(voice, str) else str(voice["id"])
