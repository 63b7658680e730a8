"""What a door asks of a session's conversation when it opens it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal["ga", "beta"]


@dataclass(frozen=True, slots=True)
class ConversationSpec:
    """A conversation to be held by a session; travels from the door to the host.

    Attributes:
        dialect: shape of every event in and out; never changes.
        session: the client's session settings in the shape of the dialect; the door has checked them.
        model: name of the model the client asked for; any is taken and echoed.
        agent: name of the agent; None for the configured one.
        sound_in: "track" when the user's sound comes over WebRTC, "events" when it comes in
            `input_audio_buffer.append`.
        sound_out: "media" when the answer is heard over WebRTC only, "events" when it is also sent in
            `response.output_audio.delta`.
        expires_s: seconds until the session's `expires_at`.
    """

    dialect: Dialect = "ga"
    session: dict[str, Any] = field(default_factory=dict)
    model: str = "gpt-realtime"
    agent: str | None = None
    sound_in: Literal["track", "events"] = "track"
    sound_out: Literal["media", "events"] = "media"
    expires_s: float = 3600.0
