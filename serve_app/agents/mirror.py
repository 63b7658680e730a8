"""What an upstream has of a conversation: which of our items it knows, under which id, and what it lacks.

Items and events have the shape of OpenAI Realtime (GA). Items that this server creates there keep their id;
turns committed from sound, answers and calls have ids of the upstream's.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.agents.base import AGENT_HZ, Heard, Request
from serve_app.agents.items import Item, is_message, words_of

Event = dict[str, Any]

MAX_REPLAYED = 200
"""Items, the newest, that a new connection is told of."""

_MAX_CHARS = 32
_USABLE_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{_MAX_CHARS}}}")


@dataclass(slots=True)
class Answer:
    """A message that the upstream makes.

    Attributes:
        item_id: its id there.
        content_index: of its part with sound.
        text: its words as far as they were passed on.
        samples: its sound, at AGENT_HZ, as far as it was received.
    """

    item_id: str
    content_index: int = 0
    text: str = ""
    samples: int = 0

    def truncation(self, played_s: float) -> Event:
        """Return what makes the upstream forget what was not heard."""
        end_ms = min(int(played_s * 1000), self.samples * 1000 // AGENT_HZ)
        return {
            "type": "conversation.item.truncate",
            "item_id": self.item_id,
            "content_index": self.content_index,
            "audio_end_ms": max(0, end_ms),
        }


class Mirror:
    """The conversation as one upstream connection has it."""

    def __init__(self) -> None:
        self._ids: dict[str, str | None] = {}
        self._seen: set[str] = set()
        self._committing: deque[str] = deque()
        self._unclaimed: list[Answer] = []
        self._answers: dict[str, Answer] = {}
        self._calls: dict[str, str] = {}
        self._is_new = True

    def knows(self, item_id: str) -> bool:
        """Return whether the upstream has this item of ours, or will have it."""
        return item_id in self._ids

    def committing(self, item_id: str) -> None:
        """Note that a commit was sent which becomes our item `item_id`."""
        self._ids[item_id] = None
        self._committing.append(item_id)

    def committed(self, upstream_id: str) -> str | None:
        """Note the id that the oldest open commit got; return our item's."""
        if not self._committing:
            return None
        item_id = self._committing.popleft()
        self._ids[item_id] = upstream_id
        return item_id

    def commit_refused(self) -> None:
        """Note that the oldest open commit became no item."""
        if self._committing:
            self._committing.popleft()

    def item_of(self, upstream_id: str) -> str | None:
        """Return our id of an upstream's item."""
        return next((ours for ours, theirs in self._ids.items() if theirs == upstream_id), None)

    def answered(self, answer: Answer) -> None:
        """Note that something of this answer was passed on: it becomes an item of ours."""
        self._unclaimed.append(answer)

    def called(self, call_id: str, upstream_id: str) -> None:
        """Note that this call was passed on."""
        self._calls[call_id] = upstream_id

    def answer_of(self, item_id: str) -> Answer | None:
        """Return the answer that became our item; the newest that is no item of ours yet, if it is new."""
        if item_id not in self._ids and self._unclaimed:
            self._claim(item_id, self._unclaimed.pop())
        return self._answers.get(item_id)

    def inputs(self, request: Request) -> list[Item]:
        """Return a request's items as the `input` of its response: references to what the upstream has."""
        inputs = []
        for item in request.items:
            theirs = self._ids.get(str(item.get("id")))
            if theirs is not None:
                inputs.append({"type": "item_reference", "id": theirs})
            elif request.heard is not None and item.get("id") == request.heard.item_id:
                inputs.append(_spoken_item(request.heard))
            elif (shaped := shaped_item(item)) is not None:
                inputs.append(shaped)
        return inputs

    def update(
        self,
        items: Sequence[Item],
        turn_id: str | None,
        commit: Callable[[], list[Event]],
        transcript_of: Callable[[str], str | None],
    ) -> list[Event]:
        """Return what brings the upstream's conversation to `items`.

        Args:
            items: our conversation, oldest first.
            turn_id: our id of a spoken turn that is to be committed in its place; None when there is none.
            commit: makes the events that commit it.
            transcript_of: words of a spoken turn that its item does not tell.
        """
        items = [item for item in items if isinstance(item.get("id"), str)]
        ids = [str(item["id"]) for item in items]
        events = self._deletions({*ids, turn_id})
        for item in items:
            self._claim_own(item)
        if self._is_new:
            items, ids = items[-MAX_REPLAYED:], ids[-MAX_REPLAYED:]
            self._is_new = False
        last_known = max((at for at, item_id in enumerate(ids) if self.knows(item_id)), default=-1)
        before: str | None = "root"
        for at, item in enumerate(items):
            if ids[at] == turn_id and not self.knows(ids[at]):
                events += commit()
            elif not self.knows(ids[at]):
                place = before if at < last_known else None
                events += self._creation(item, transcript_of(ids[at]), place)
            before = self._ids.get(ids[at]) or before
        if turn_id is not None and not self.knows(turn_id):
            events += commit()
        self._seen.update(ids)
        return events

    def _deletions(self, present: set[str | None]) -> list[Event]:
        gone = [item_id for item_id in self._ids if item_id in self._seen and item_id not in present]
        theirs = [self._ids.pop(item_id) for item_id in gone]
        self._seen.difference_update(gone)
        return [{"type": "conversation.item.delete", "item_id": item_id} for item_id in theirs if item_id]

    def _claim(self, item_id: str, answer: Answer) -> None:
        self._ids[item_id] = answer.item_id
        self._answers[item_id] = answer

    def _claim_own(self, item: Item) -> None:
        """Recognize an item that the upstream made itself."""
        item_id = item["id"]
        if self.knows(item_id):
            return
        if item.get("type") == "function_call" and item.get("call_id") in self._calls:
            self._ids[item_id] = self._calls[item["call_id"]]
        elif is_message(item, "assistant"):
            words = words_of(item).strip()
            own = (answer for answer in self._unclaimed if answer.text.strip().startswith(words))
            if (answer := next(own, None)) is not None:
                self._unclaimed.remove(answer)
                self._claim(item_id, answer)

    def _creation(self, item: Item, transcript: str | None, before: str | None) -> list[Event]:
        shaped = shaped_item(item, transcript)
        item_id = str(item["id"])
        self._ids[item_id] = None
        if shaped is None:
            return []
        if _USABLE_ID.fullmatch(item_id):
            self._ids[item_id] = shaped["id"] = item_id
        event: Event = {"type": "conversation.item.create", "item": shaped}
        if before is not None:
            event["previous_item_id"] = before
        return [event]


def shaped_item(item: Item, transcript: str | None = None) -> Item | None:
    """Return one of our items as an upstream takes it: text, images, calls; None when nothing is left.

    Args:
        item: ours.
        transcript: what was spoken, where the item does not tell.
    """
    kind = item.get("type")
    if kind == "function_call":
        return {"type": kind, **{key: item.get(key) or "" for key in ("name", "call_id", "arguments")}}
    if kind == "function_call_output":
        return {"type": kind, **{key: item.get(key) or "" for key in ("call_id", "output")}}
    content = item.get("content")
    if kind != "message" or not isinstance(content, list):
        return None
    role = item.get("role")
    parts = [_shaped_part(part, role, transcript) for part in content if isinstance(part, dict)]
    kept = [part for part in parts if part is not None]
    return {"type": kind, "role": role, "content": kept} if kept else None


def _spoken_item(heard: Heard) -> Item:
    sound = base64.b64encode(heard.samples.astype("<i2", copy=False).tobytes()).decode("ascii")
    return {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": sound}]}


def _shaped_part(part: dict[str, Any], role: object, transcript: str | None) -> dict[str, Any] | None:
    if part.get("type") == "input_image":
        return {key: part[key] for key in ("type", "image_url", "detail") if key in part}
    words = part.get("text") or part.get("transcript")
    if not words and part.get("type") == "input_audio":
        words = transcript
    if not isinstance(words, str) or not words:
        return None
    return {"type": "output_text" if role == "assistant" else "input_text", "text": words}
