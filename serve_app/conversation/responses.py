"""One response: its output items, and the events that tell of them (protocols 4.7 and 4.8).

Synchronous: whoever runs the response tells it what was said, called or went wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

from serve_app.agents.base import ToolCall, Usage
from serve_app.conversation.dialects import ga
from serve_app.conversation.items import Item, Items, message
from serve_app.conversation.model import ResponseSettings, new_id
from serve_app.conversation.sound import SoundEncoder
from serve_app.conversation.speech import Speech
from serve_app.nouns import Int16

Status: TypeAlias = Literal["completed", "cancelled", "failed", "incomplete"]


class Send(Protocol):
    """Sends a server event, in GA's spelling, to the client."""

    def __call__(self, type_: str, /, **fields: Any) -> None:  # noqa: ANN401 - JSON
        """Send an event of this type with these fields."""
        ...


class Response:
    """One response from `response.created` to its single `response.done`.

    Args:
        settings: what it is made with.
        conversation_id: of the conversation it joins; None when it joins none.
        items: that conversation's items; None likewise.
        send: takes its events.
        sends_sound: whether its speech goes into events too.
        on_done: called after `response.done`.

    Attributes:
        id: "resp_…".
        settings: as given.
        message: the item of what is said, once something is.
        has_called: whether a function was called.
        is_done: whether `response.done` was sent; from then on nothing changes it.
    """

    def __init__(
        self,
        settings: ResponseSettings,
        *,
        conversation_id: str | None,
        items: Items | None,
        send: Send,
        sends_sound: bool,
        on_done: Callable[[Response], None],
    ) -> None:
        self.id = new_id("resp")
        self.settings = settings
        self.message: Item | None = None
        self.has_called = False
        self.is_done = False
        self._conversation_id = conversation_id
        self._items = items
        self._send = send
        self._on_done = on_done
        self._status: str = "in_progress"
        self._details: dict[str, Any] | None = None
        self._output: list[Item] = []
        self._usage: Usage | None = None
        self._speech = Speech()
        self._encoder = SoundEncoder(settings.session.output_format) if sends_sound else None

    @property
    def with_sound(self) -> bool:
        """Whether it is spoken."""
        return self.settings.session.with_sound

    @property
    def joins(self) -> bool:
        """Whether its output joins the conversation."""
        return self._items is not None

    @property
    def speech_s(self) -> float:
        """Seconds of speech so far."""
        return self._speech.length_s

    def begin(self) -> None:
        """Announce it."""
        self._send("response.created", response=self._shown())

    def speak(self, samples: Int16, hz: int) -> None:
        """Add speech, [S] int16 at `hz`."""
        if self.is_done or not len(samples):
            return
        self._open_message()
        self._speech.length_s += len(samples) / hz
        if self._encoder is not None:
            self._send_sound(self._encoder.push(samples, hz))

    def say(self, text: str, at_s: float | None) -> None:
        """Add words: of the transcript, or of the text when it is not spoken."""
        if self.is_done or not text:
            return
        self._open_message()
        self._speech.say(text, at_s)
        self._keep_words()
        self._send_part(f"{self._kind}.delta", delta=text)

    def call(self, call: ToolCall) -> None:
        """Add the call of a function; it is whole at once."""
        if self.is_done:
            return
        self.has_called = True
        item = Item(
            {
                "id": new_id("item"),
                "object": "realtime.item",
                "type": "function_call",
                "status": "in_progress",
                "name": call.name,
                "call_id": call.call_id,
                "arguments": "",
            }
        )
        self._add(item)
        where = {"response_id": self.id, "item_id": item.id, "output_index": self._output.index(item)}
        about = {**where, "call_id": call.call_id}
        self._send("response.function_call_arguments.delta", **about, delta=call.arguments)
        item.wire["arguments"] = call.arguments
        # The name is AG2's need in both dialects (Decision 4.2).
        done = "response.function_call_arguments.done"
        self._send(done, **about, name=call.name, arguments=call.arguments)
        self._complete(item, "completed")

    def count(self, usage: Usage) -> None:
        """Take the tokens that an upstream counted."""
        self._usage = usage

    def finish(
        self, status: Status, *, reason: str | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """End it; later calls do nothing.

        Args:
            status: how it ended.
            reason: "turn_detected" or "client_cancelled" of a cancelled one, "max_output_tokens" of an
                incomplete one.
            error: type, code and message of a failed one.
        """
        if self.is_done:
            return
        self.is_done = True
        self._status = status
        if self.message is not None:
            self._close_message(self.message, is_whole=status == "completed")
        if status != "completed":
            details = {"type": status, "reason": reason, "error": error}
            self._details = {name: value for name, value in details.items() if value is not None}
        self._send("response.done", response=self._shown())
        self._on_done(self)

    @property
    def _kind(self) -> str:
        return "response.output_audio_transcript" if self.with_sound else "response.output_text"

    def _open_message(self) -> None:
        if self.message is not None:
            return
        self.message = Item(message("assistant", [], "in_progress"))
        if self.with_sound:
            self.message.speech = self._speech
        self._add(self.message)
        self._send_part("response.content_part.added", part=self._part(""))
        self._keep_words()

    def _close_message(self, item: Item, *, is_whole: bool) -> None:
        text = self._speech.text
        if self.with_sound:
            if self._encoder is not None and is_whole:
                self._send_sound(self._encoder.flush())
            self._send_part("response.output_audio.done")
            self._send_part(f"{self._kind}.done", transcript=text)
        else:
            self._send_part(f"{self._kind}.done", text=text)
        self._send_part("response.content_part.done", part=self._part(text))
        self._complete(item, "completed" if is_whole else "incomplete")

    def _part(self, text: str) -> dict[str, str]:
        return {"type": "audio", "transcript": text} if self.with_sound else {"type": "text", "text": text}

    def _keep_words(self) -> None:
        """Put the words, as far as they count, into the item."""
        assert self.message is not None
        words = self._speech.heard
        part = {"type": "output_audio", "transcript": words} if self.with_sound else _text(words)
        self.message.wire["content"] = [part]

    def _add(self, item: Item) -> None:
        self._output.append(item)
        place = {"response_id": self.id, "output_index": len(self._output) - 1}
        self._send("response.output_item.added", **place, item=item.shown())
        if self._items is not None:
            previous = self._items.last_id
            self._items.add(item)
            self._send("conversation.item.added", previous_item_id=previous, item=item.shown())

    def _complete(self, item: Item, status: str) -> None:
        item.wire["status"] = status
        place = {"response_id": self.id, "output_index": self._output.index(item)}
        self._send("response.output_item.done", **place, item=item.shown())
        if self._items is not None and self._items.find(item.id) is item:
            previous = self._items.before(item)
            self._send("conversation.item.done", previous_item_id=previous, item=item.shown())

    def _send_sound(self, pieces: list[str]) -> None:
        for piece in pieces:
            self._send_part("response.output_audio.delta", delta=piece)

    def _send_part(self, type_: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        assert self.message is not None
        index = self._output.index(self.message)
        place = {"item_id": self.message.id, "output_index": index, "content_index": 0}
        self._send(type_, response_id=self.id, **place, **fields)

    def _shown(self) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self._status,
            "status_details": self._details,
            "output": [item.shown() for item in self._output],
            "conversation_id": self._conversation_id,
            **ga.show_response_settings(self.settings.session),
            "metadata": copy.copy(self.settings.metadata),
            "usage": _usage(self._usage or Usage()) if self.is_done else None,
        }


def _text(words: str) -> dict[str, str]:
    return {"type": "output_text", "text": words}


def _usage(usage: Usage) -> dict[str, Any]:
    def details(name: str, **zeros: int) -> dict[str, Any]:
        given = usage.details.get(name)
        return {**zeros, **given} if isinstance(given, dict) else dict(zeros)

    return {
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "input_token_details": details("input_token_details", text_tokens=0, audio_tokens=0, cached_tokens=0),
        "output_token_details": details("output_token_details", text_tokens=0, audio_tokens=0),
    }
