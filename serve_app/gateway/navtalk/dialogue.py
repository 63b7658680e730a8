"""NavTalk's words for a conversation: what its clients say becomes OpenAI Realtime (beta), and back.

Sans-I/O. Where the documents leave it open:

- `realtime.session.updated` opens the microphone of the JavaScript SDK and is told unprompted, once, right
  after `realtime.session.created`. Settings in NavTalk's own words are then taken without a further one,
  which would open a second microphone; a `session.update` of the client's own is confirmed.
- Typed text, and a picture that asks for a reply, interrupt the avatar as spoken words do.
- `realtime.function_call_output` is answered when the results of all the response's calls are there. A
  `response.create` right after it says nothing new and is dropped.
- NavTalk knows no answers in text: what an avatar writes without a voice is told as its transcript.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from serve_app.gateway.navtalk.messages import (
    CallOutput,
    ClientEvent,
    Say,
    Settings,
    refused,
    told,
)
from serve_app.session.events import ConversationEvent, SessionEvent

MAX_REMEMBERED = 256
"""Updates, calls and names of functions that are waited for."""

_HUSH = "navtalk_hush"
"""Event id of what silences the avatar in case it speaks; nobody is told when it does not."""

_SPOKEN = (("content", "delta"), ("id", "response_id"))
_PLAIN: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "input_audio_buffer.speech_started": ("input_audio_buffer.speech_started", (("id", "item_id"),)),
    "input_audio_buffer.speech_stopped": ("input_audio_buffer.speech_stopped", (("id", "item_id"),)),
    "conversation.item.input_audio_transcription.completed": (
        "conversation.item.input_audio_transcription.completed",
        (("content", "transcript"), ("id", "item_id")),
    ),
    "response.audio_transcript.delta": ("response.audio_transcript.delta", _SPOKEN),
    "response.text.delta": ("response.audio_transcript.delta", _SPOKEN),
    "response.audio_transcript.done": (
        "response.audio_transcript.done",
        (("content", "transcript"), ("id", "response_id"), ("transcript", "transcript")),
    ),
    "response.text.done": (
        "response.audio_transcript.done",
        (("content", "text"), ("id", "response_id"), ("transcript", "text")),
    ),
    "response.audio.delta": ("response.audio.delta", (("delta", "delta"), ("id", "response_id"))),
    "response.audio.done": ("response.audio.done", (("id", "response_id"),)),
}
"""Events that are renamed: NavTalk's name, and its fields with OpenAI's of the beta dialect."""


class Dialogue:
    """One socket's side of its session's conversation.

    Args:
        converse: gives the conversation a client event; may raise SpeechOverrun.
    """

    def __init__(self, converse: Callable[[dict[str, Any]], None]) -> None:
        self._converse = converse
        self._is_created = False
        self._updates: deque[tuple[str, bool]] = deque(maxlen=MAX_REMEMBERED)
        self._num_updates = 0
        self._names: dict[str, str] = {}
        self._open_calls: set[str] = set()
        self._has_asked = False
        self._steps: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
            "session.created": self._created,
            "session.updated": self._updated,
            "response.output_item.added": self._added,
            "response.function_call_arguments.delta": self._call,
            "response.function_call_arguments.done": self._call,
            "response.done": self._done,
            "error": self._error,
        }

    def opening(self) -> list[dict[str, Any]]:
        """Return what to tell before anything is said: nothing, the conversation begins by itself."""
        return []

    # Client to server.

    async def receive(self, message: ClientEvent | Settings | Say | CallOutput) -> list[dict[str, Any]]:
        """Take a client's message; return what to tell it at once.

        Raises:
            SpeechOverrun: the session takes no more just now.
        """
        match message:
            case ClientEvent():
                self._pass_on(message)
            case Settings(session):
                if session:
                    self._update({"type": "session.update", "session": session}, is_told=False)
            case Say(item, reply):
                self._say(item, reply=reply)
            case CallOutput():
                self._give_output(message)
        return []

    def _pass_on(self, message: ClientEvent) -> None:
        event, kind = message.event, message.kind
        has_asked = self._has_asked
        self._has_asked = has_asked and kind == "input_audio_buffer.append"
        if kind == "session.update":
            self._update(event, is_told=True)
            return
        if has_asked and kind == "response.create" and event.keys() <= {"type", "event_id"}:
            return
        item = event.get("item")
        if isinstance(item, dict) and item.get("type") == "function_call_output":
            self._open_calls.discard(str(item.get("call_id")))
        self._converse(event)

    def _update(self, event: dict[str, Any], *, is_told: bool) -> None:
        event_id = event.get("event_id")
        if not isinstance(event_id, str):
            self._num_updates += 1
            event_id = f"navtalk_update_{self._num_updates}"
        self._converse(event | {"event_id": event_id})
        self._updates.append((event_id, is_told))

    def _say(self, item: dict[str, Any], *, reply: bool) -> None:
        if reply:
            self._converse({"type": "response.cancel", "event_id": _HUSH})
            self._converse({"type": "output_audio_buffer.clear", "event_id": _HUSH})
        self._converse({"type": "conversation.item.create", "item": item})
        if reply:
            self._converse({"type": "response.create"})
            self._has_asked = False

    def _give_output(self, message: CallOutput) -> None:
        self._converse({"type": "conversation.item.create", "item": message.item})
        self._open_calls.discard(message.call_id)
        if not self._open_calls:
            self._converse({"type": "response.create"})
            self._has_asked = True

    # Server to client.

    def tell(self, event: SessionEvent) -> list[dict[str, Any]]:
        """Return what a client is told of a session's event, in order."""
        if not isinstance(event, ConversationEvent):
            return []
        kind = str(event.event.get("type"))
        if kind in _PLAIN:
            name, fields = _PLAIN[kind]
            return [told(name, **{ours: event.event.get(theirs) for ours, theirs in fields})]
        step = self._steps.get(kind)
        return [] if step is None else step(event.event)

    def _created(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        if self._is_created:
            return []
        self._is_created = True
        session = event.get("session")
        return [told("session.created", session=session), told("session.updated", session=session)]

    def _updated(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        is_told = self._updates.popleft()[1] if self._updates else False
        return [told("session.updated", session=event.get("session"))] if is_told else []

    def _added(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Remember a function's name: the beta dialect names it only here."""
        item = event.get("item")
        if (
            isinstance(item, dict)
            and item.get("type") == "function_call"
            and len(self._names) < MAX_REMEMBERED
        ):
            self._names[str(item.get("id"))] = str(item.get("name"))
        return []

    def _call(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a function call in both forms: some clients read `data`, others `raw_data`."""
        kind = str(event["type"])
        call_id = event.get("call_id")
        name = event.get("name") or self._names.get(str(event.get("item_id")), "")
        if kind.endswith(".delta"):
            data: dict[str, Any] = {"function_name": name, "call_id": call_id, "delta": event.get("delta")}
        else:
            data = {"function_name": name, "call_id": call_id, "arguments": event.get("arguments")}
            if len(self._open_calls) < MAX_REMEMBERED:
                self._open_calls.add(str(call_id))
        return [told(kind, **data) | {"raw_data": event | {"name": name}}]

    def _done(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        self._names.clear()
        response = event.get("response")
        if not isinstance(response, dict) or response.get("status") != "failed":
            return []
        details = response.get("status_details")
        error = details.get("error") if isinstance(details, dict) else None
        return [_refusal(error, "the answer failed", "response_failed")]

    def _error(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        error = event.get("error")
        event_id = error.get("event_id") if isinstance(error, dict) else None
        if event_id == _HUSH:
            return []
        # A refused update is not confirmed.
        self._updates = deque((update for update in self._updates if update[0] != event_id), MAX_REMEMBERED)
        return [_refusal(error, "the conversation failed at this", "error")]


def _refusal(error: object, message: str, code: str) -> dict[str, Any]:
    found = error if isinstance(error, dict) else {}
    return refused(str(found.get("message") or message), str(found.get("code") or code))
