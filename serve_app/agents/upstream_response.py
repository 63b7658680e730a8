"""One response of an upstream: its events in, an agent's outputs out.

Events are those of OpenAI Realtime (GA), protocols.md 4.7; sound and texts are also taken under their names
from before GA, which some compatible servers kept.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.agents.base import AGENT_HZ, Output, SpeechDelta, ToolCall, TranscriptDelta, Usage
from serve_app.agents.mirror import Answer
from serve_app.errors import AgentFailed

Event = dict[str, Any]

ANSWER_TIMEOUT_S = 30.0
"""Longest silence of an upstream in the middle of a response."""

MAX_OUTPUTS = 20_000

_SOUND = ("response.output_audio.delta", "response.audio.delta")
_WORDS = (
    "response.output_audio_transcript.delta",
    "response.audio_transcript.delta",
    "response.output_text.delta",
    "response.text.delta",
)


@dataclass(frozen=True, slots=True)
class Made:
    """An output and the upstream's item that it is part of; None for usage."""

    output: Output
    answer: Answer | None = None
    item_id: str = ""


class UpstreamResponse:
    """A response that was asked for.

    Args:
        max_samples: longest sound, at AGENT_HZ; what comes after it is dropped.
        is_aside: whether it joins no conversation.

    Attributes:
        is_aside: as given.
        id: the upstream's; None until it has begun.
        event_ids: of the client events it is made from, `response.create` last.
        cancel_id: of the client event that cancels it; None until then.
        passed: ids of the upstream's items of which something was passed on.
        finished: set when the upstream sends no more of it.
        is_abandoned: set by who no longer wants it.
        is_stuck: whether nothing more came in time.
    """

    def __init__(self, max_samples: int, *, is_aside: bool) -> None:
        self.is_aside = is_aside
        self.id: str | None = None
        self.event_ids: list[str] = []
        self.cancel_id: str | None = None
        self.passed: set[str] = set()
        self.finished = asyncio.Event()
        self.is_abandoned = False
        self.is_stuck = False
        self._max_samples = max_samples
        self._samples = 0
        self._count = 0
        self._half: dict[str, bytes] = {}
        self._answers: dict[str, Answer] = {}
        self._made: asyncio.Queue[Made | AgentFailed | None] = asyncio.Queue()

    @property
    def has_sound(self) -> bool:
        """Whether any sound was made."""
        return self._samples > 0

    async def outputs(self) -> AsyncGenerator[Made, None]:
        """Yield what is made until the response is done.

        Raises:
            AgentFailed: the upstream failed, or says nothing for ANSWER_TIMEOUT_S.
        """
        while True:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    made = await self._made.get()
            except TimeoutError:
                self.is_stuck = True
                raise AgentFailed(
                    f"realtime upstream: expected more of its answer within {ANSWER_TIMEOUT_S:g} s, got none"
                ) from None
            if made is None:
                return
            if isinstance(made, AgentFailed):
                raise made
            yield made

    def fail(self, reason: str) -> None:
        """Let `outputs` raise AgentFailed with this reason; the upstream may still be at it."""
        self._made.put_nowait(AgentFailed(f"realtime upstream: {reason}"))

    def fail_for_good(self, reason: str) -> None:
        """The same, when the upstream makes nothing more."""
        self.fail(reason)
        self.finished.set()

    def take(self, event: Event) -> None:
        """Take an event of this response; `response.created` and `response.done` are the caller's.

        Raises:
            KeyError, TypeError, ValueError: it is not what the protocol says.
        """
        kind = event["type"]
        if self.is_abandoned or self.finished.is_set():
            return
        if kind in _SOUND:
            self._take_sound(event)
        elif kind in _WORDS:
            answer = self._answer(event)
            self._put(Made(TranscriptDelta(_text(event, "delta")), answer, answer.item_id))
        elif kind == "response.output_item.done" and event["item"].get("type") == "function_call":
            item = event["item"]
            call = ToolCall(_text(item, "name"), _text(item, "arguments") or "{}", _text(item, "call_id"))
            self._put(Made(call, item_id=_text(item, "id")))

    def end(self, response: dict[str, Any], failure: str) -> None:
        """Take the response of `response.done`; `failure` is what it says went wrong, in words."""
        if self.finished.is_set():
            return
        usage = response.get("usage")
        if isinstance(usage, dict):
            self._made.put_nowait(Made(_usage(usage)))
        if response.get("status") == "failed":
            self.fail(f"expected an answer, got a failure: {failure or 'no reason given'}")
        self._made.put_nowait(None)
        self.finished.set()

    def _answer(self, event: Event) -> Answer:
        item_id = _text(event, "item_id")
        if item_id not in self._answers:
            self._answers[item_id] = Answer(item_id, int(event.get("content_index") or 0))
        return self._answers[item_id]

    def _take_sound(self, event: Event) -> None:
        if self._samples > self._max_samples:
            return
        answer = self._answer(event)
        data = self._half.pop(answer.item_id, b"") + base64.b64decode(_text(event, "delta"), validate=True)
        if len(data) % 2:
            self._half[answer.item_id] = data[-1:]
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16)
        answer.samples += len(samples)
        self._samples += len(samples)
        if len(samples):
            self._put(Made(SpeechDelta(samples, AGENT_HZ), answer, answer.item_id))

    def _put(self, made: Made) -> None:
        self._count += 1
        if self._count <= MAX_OUTPUTS:
            self._made.put_nowait(made)
        elif self._count == MAX_OUTPUTS + 1:
            self.fail(f"expected at most {MAX_OUTPUTS} pieces of an answer, got more")


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {type(value).__name__}")
    return value


def _usage(usage: dict[str, Any]) -> Usage:
    counts = {name: usage.get(name) for name in ("input_tokens", "output_tokens")}
    whole = {name: count for name, count in counts.items() if isinstance(count, int)}
    details = {name: value for name, value in usage.items() if isinstance(value, dict)}
    return Usage(**whole, details=details)
