"""The interface of a voice agent: the user's sound and text in; speech, transcripts and tool calls out.

An agent belongs to one conversation. The conversation hears the turns, keeps the items and plays the speech;
the agent decides what is said. Everything runs on the session host's event loop, so an agent awaits, and
puts work that takes more than a few milliseconds into a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from serve_app.nouns import Int16

AGENT_HZ = 24_000
"""Sample rate of the user's sound as agents hear it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A user's spoken turn.

    Attributes:
        item_id: the conversation item it became.
        samples: [S] int16 mono at AGENT_HZ, silence before and after the speech included.
    """

    item_id: str
    samples: Int16


@dataclass(frozen=True, slots=True)
class Request:
    """What a response is to be made from.

    Attributes:
        items: the conversation so far, oldest first: OpenAI Realtime (GA) items, without sound.
        heard: the spoken turn that this responds to, or None when it is text, a tool result or a greeting.
        instructions: the system prompt.
        tools: function tools, in the shape of OpenAI Realtime: type, name, description, parameters.
        tool_choice: "auto", "none", "required", or {"type": "function", "name": ...}.
        voice: name of the voice asked for.
        with_sound: whether speech is wanted; text alone otherwise.
        speed: how fast is spoken; 1 is the voice's own pace.
        aside: whether the answer joins no conversation (`response.create` with `conversation: "none"`); such
            responses may run beside each other and beside one that does.
        own_input: whether `items` are this response's own input (`response.create` with `input`) and not
            the conversation.
    """

    items: tuple[dict[str, Any], ...] = ()
    heard: Heard | None = None
    instructions: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    voice: str = "alloy"
    with_sound: bool = True
    speed: float = 1.0
    aside: bool = False
    own_input: bool = False


@dataclass(frozen=True, slots=True)
class SpeechDelta:
    """More of what is said: [S] int16 mono at `hz`; the rate stays the same within a response."""

    samples: Int16
    hz: int


@dataclass(frozen=True, slots=True)
class TranscriptDelta:
    """More of the words that are said (of the text itself, when no sound was asked for).

    Attributes:
        text: with the spaces between words; all deltas joined are the transcript.
        at_s: when the first of these words is heard, from the start of the speech; None when not known.
    """

    text: str
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the client is asked to call; `arguments` is a JSON object as text."""

    name: str
    arguments: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens an upstream counted; zeros where nothing counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    details: dict[str, Any] = field(default_factory=dict)


Output: TypeAlias = SpeechDelta | TranscriptDelta | ToolCall | Usage


class Agent(Protocol):
    """One conversation's agent.

    Raises (from `respond` and `transcribe`):
        AgentFailed: it cannot answer; the conversation goes on.
    """

    async def open(self) -> None:
        """Get ready; called once, before anything else.

        Raises:
            AgentFailed: it cannot work at all (no such script, no upstream).
        """
        ...

    def hear(self, samples: Int16) -> None:
        """Take the user's sound while it comes, [S] int16 mono at AGENT_HZ; must be cheap.

        The same samples come again, as a whole turn, in `Request.heard`; most agents need only those.
        """
        ...

    def forget_heard(self) -> None:
        """The sound since the last turn was thrown away and will not become one."""
        ...

    async def transcribe(self, heard: Heard) -> str | None:
        """Return the words of a user's turn; None when this agent does not know them."""
        ...

    def respond(self, request: Request) -> AsyncIterator[Output]:
        """Yield what is said and called, as it is made; closing the iterator cancels the response."""
        ...

    async def heard_until(self, item_id: str, played_s: float) -> None:
        """The user interrupted: of the answer that became `item_id`, `played_s` seconds were heard."""
        ...

    async def close(self) -> None:
        """Let everything go."""
        ...
