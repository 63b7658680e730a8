"""How an upstream is told what a response is to be made with.

The events are `session.update` and `response.create` of OpenAI Realtime (GA), protocols.md 4.5 and 4.6.
"""

from __future__ import annotations

from typing import Any

from serve_app.agents.base import AGENT_HZ, Request
from serve_app.agents.items import Item

Event = dict[str, Any]

TRANSCRIPTION_MODEL = "gpt-4o-mini-transcribe"
"""Spoken turns are always transcribed: a new connection can only be told them as text."""

_FORMAT = {"type": "audio/pcm", "rate": AGENT_HZ}
_INPUT = {"format": _FORMAT, "turn_detection": None, "transcription": {"model": TRANSCRIPTION_MODEL}}
_DEFAULTS = {"instructions": "", "tools": [], "tool_choice": "auto", "output_modalities": ["audio"]}


class UpstreamSettings:
    """The session settings of one connection, of which only changes are told.

    Attributes:
        is_voice_fixed: set once something was said: the voice cannot change after that.
    """

    def __init__(self) -> None:
        self.is_voice_fixed = False
        self._told: dict[str, Any] = _DEFAULTS
        self._voice = ""

    def first(self) -> Event:
        """Return what a new session is told: this server hears the turns."""
        return _session_update({"audio": {"input": _INPUT, "output": {"format": _FORMAT}}})

    def forget(self) -> None:
        """Note that settings were refused; all are told again."""
        self._told = {}

    def update(self, request: Request) -> list[Event]:
        """Return what is to be told before a response to `request`."""
        if not self.is_voice_fixed:
            self._voice = request.voice
        output = {"format": _FORMAT, "voice": self._voice, "speed": request.speed}
        wanted = _settings(request) | {
            "instructions": request.instructions,
            "audio": {"input": _INPUT, "output": output},
        }
        changed = {name: value for name, value in wanted.items() if self._told.get(name) != value}
        self._told = wanted
        return [_session_update(changed)] if changed else []


def response_create(request: Request, own_input: list[Item] | None) -> Event:
    """Return what asks for the response.

    Args:
        request: what it is made from.
        own_input: items in place of the conversation; None for the conversation.
    """
    event: Event = {"type": "response.create"}
    if own_input is None:
        return event
    response: dict[str, Any] = {"input": own_input}
    if request.aside:
        response |= {"conversation": "none"} | _settings(request)
        if request.instructions:
            response["instructions"] = request.instructions
    return event | {"response": response}


def _settings(request: Request) -> dict[str, Any]:
    return {
        "tools": list(request.tools),
        "tool_choice": request.tool_choice,
        "output_modalities": ["audio" if request.with_sound else "text"],
    }


def _session_update(session: dict[str, Any]) -> Event:
    return {"type": "session.update", "session": {"type": "realtime"} | session}
