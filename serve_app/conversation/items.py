"""The items of a conversation: messages, function calls and their results, in order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.agents.base import AGENT_HZ, Heard
from serve_app.conversation import faults, sound
from serve_app.conversation.dialects import Shape
from serve_app.conversation.fields import Fields
from serve_app.conversation.model import SoundFormat, new_id
from serve_app.conversation.speech import Speech
from serve_app.media.pcm import Resampler
from serve_app.nouns import Int16

MAX_ITEMS = 2_000
MAX_CONVERSATION_CHARS = 32 * 1_048_576
"""Beyond either the oldest items are forgotten, as OpenAI's truncation "auto" does beyond a context."""

MAX_PARTS = 64
MAX_ID_CHARS = 128
MAX_TEXT_CHARS = 262_144
MAX_IMAGE_CHARS = 10 * 1_048_576
MAX_ARGUMENTS_CHARS = 262_144

_PARTS = {
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text", "output_audio"),
    "system": ("input_text",),
}
_STATUSES = ("completed", "incomplete", "in_progress")


@dataclass(slots=True, eq=False)
class Item:
    """One item.

    Attributes:
        wire: its GA object without sound; images are in it.
        sound: [S] int16 at AGENT_HZ, of a user's turn as long as it may be answered.
        speech: of an answer that was made here with sound.
    """

    wire: dict[str, Any]
    sound: Int16 | None = None
    speech: Speech | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.wire["id"])

    @property
    def size_chars(self) -> int:
        """About how much of the conversation it takes up."""
        texts = [value for value in self.wire.values() if isinstance(value, str)]
        for part in self.wire.get("content", ()):
            texts += [value for value in part.values() if isinstance(value, str)]
        return sum(map(len, texts))

    def cut(self, at_s: float) -> None:
        """Let the item, a spoken answer, end `at_s` seconds into its speech."""
        assert self.speech is not None, "only spoken answers are cut"
        self.speech.cut_s = at_s
        self.wire["content"] = [{"type": "output_audio", "transcript": self.speech.heard}]

    def shown(self) -> dict[str, Any]:
        """Return the object for an event: a copy, without images, which a data channel could not carry."""
        shown = {name: value for name, value in self.wire.items() if name != "content"}
        if "content" in self.wire:
            parts = self.wire["content"]
            shown["content"] = [
                {name: value for name, value in part.items() if name != "image_url"} for part in parts
            ]
        return shown


def message(role: str, content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    """Return the object of a new message."""
    return {
        "id": new_id("item"),
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


class Items:
    """A conversation's items, oldest first."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._sizes: dict[str, int] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def last_id(self) -> str | None:
        """Id of the newest item."""
        return self._items[-1].id if self._items else None

    def find(self, item_id: str) -> Item | None:
        """Return the item with this id."""
        return next((item for item in reversed(self._items) if item.id == item_id), None)

    def before(self, item: Item) -> str | None:
        """Return the id of the item before this one."""
        index = self._items.index(item)
        return self._items[index - 1].id if index else None

    def add(self, item: Item, after: str | None = None) -> None:
        """Add an item.

        Args:
            item: of a new id.
            after: id of the item it follows, "root" for the front, None for the end.

        Raises:
            RealtimeFault: an item has its id already, or there is none with the id `after`.
        """
        if self.find(item.id) is not None:
            text = f"Error adding item: an item with id '{item.id}' already exists."
            raise faults.invalid("item_create_duplicate_item_id", text, "item.id")
        self._items.insert(self._place(after), item)
        self._sizes[item.id] = item.size_chars
        if item.sound is not None:
            for other in self._items:
                if other is not item:
                    other.sound = None  # only the newest turn is answered; sound is what takes memory
        while len(self._items) > MAX_ITEMS or sum(self._sizes.values()) > MAX_CONVERSATION_CHARS:
            self.remove(self._items[0] if self._items[0] is not item else self._items[1])

    def remove(self, item: Item) -> None:
        """Take an item out."""
        self._items.remove(item)
        del self._sizes[item.id]

    def _place(self, after: str | None) -> int:
        if after is None:
            return len(self._items)
        if after == "root":
            return 0
        previous = self.find(after)
        if previous is None:
            text = f"Error adding item: the previous item with id '{after}' does not exist."
            raise faults.invalid("item_create_invalid_previous_item_id", text, "previous_item_id")
        return self._items.index(previous) + 1


def heard_in(items: Sequence[Item]) -> Heard | None:
    """Return the spoken turn that an answer to these items answers; None when it answers something else."""
    for item in reversed(items):
        if item.wire.get("role") == "system":
            continue
        return None if item.sound is None else Heard(item.id, item.sound)
    return None


def for_agent(items: Iterable[Item]) -> tuple[dict[str, Any], ...]:
    """Return the items as an agent may have them: copies."""
    return tuple(copy.deepcopy(item.wire) for item in items)


def read_item(value: object, path: str, shape: Shape, format_: SoundFormat) -> Item:
    """Return the item that a client describes.

    Args:
        value: what the client sent.
        path: where it stands in the event.
        shape: the client's dialect.
        format_: of sound in it.

    Raises:
        RealtimeFault: it is not an item that can be used.
    """
    fields = Fields(value, path, is_strict=shape.IS_STRICT)
    kinds = ("message", "function_call", "function_call_output")
    kind = fields.choice("type", None, kinds)
    if kind is None:
        raise faults.missing(fields.at("type"))
    id_ = fields.optional("id", most=MAX_ID_CHARS) or new_id("item")
    if id_ == "root":
        raise faults.invalid("invalid_value", "Invalid 'item.id': 'root' names the front.", fields.at("id"))
    fields.choice("object", None, ("realtime.item",))
    fields.choice("status", None, _STATUSES)
    wire = {"id": id_, "object": "realtime.item", "type": kind, "status": "completed"}
    item = Item(wire)
    if kind == "message":
        _read_message(fields, item, shape, format_)
    elif kind == "function_call":
        wire["name"] = fields.required("name", most=MAX_ID_CHARS)
        wire["call_id"] = fields.optional("call_id", most=MAX_ID_CHARS) or new_id("call")
        wire["arguments"] = fields.required("arguments", most=MAX_ARGUMENTS_CHARS)
    else:
        wire["call_id"] = fields.required("call_id", most=MAX_ID_CHARS)
        wire["output"] = fields.required("output", most=MAX_TEXT_CHARS)
    fields.close()
    return item


def _read_message(fields: Fields, item: Item, shape: Shape, format_: SoundFormat) -> None:
    role = fields.choice("role", None, tuple(_PARTS))
    if role is None:
        raise faults.missing(fields.at("role"))
    parts = fields.objects("content", most=MAX_PARTS)
    if parts is None:
        raise faults.missing(fields.at("content"))
    sounds: list[Int16] = []
    item.wire["role"] = role
    item.wire["content"] = [_read_part(part, role, shape, format_, sounds) for part in parts]
    if sounds and role == "user":
        item.sound = np.concatenate(sounds)


def _read_part(
    fields: Fields, role: str, shape: Shape, format_: SoundFormat, sounds: list[Int16]
) -> dict[str, Any]:
    kind = shape.read_part_type(role, fields.required("type"))
    if kind not in _PARTS[role]:
        raise faults.wrong_value(fields.at("type"), kind, _PARTS[role])
    fields.raw("id")
    part: dict[str, Any] = {"type": kind}
    if kind.endswith("_text"):
        part["text"] = fields.required("text", most=MAX_TEXT_CHARS)
    elif kind == "input_image":
        part["image_url"] = _read_image(fields)
        part["detail"] = fields.choice("detail", "auto", ("auto", "low", "high"))
    else:
        part["transcript"] = fields.optional("transcript", most=MAX_TEXT_CHARS)
        audio = fields.optional("audio", most=sound.MAX_APPEND_CHARS)
        if audio is not None:
            sounds.append(_at_agent_hz(sound.decode(audio, format_, fields.at("audio")), format_))
    # Some SDKs fill in every field a part may have.
    for name in ("text", "transcript", "audio", "image_url", "detail"):
        if fields.is_null(name) or name not in part:
            fields.raw(name)
    fields.close()
    return part


def _read_image(fields: Fields) -> str:
    url = fields.required("image_url", most=MAX_IMAGE_CHARS)
    if not url.startswith("data:image/"):
        text = f"Invalid '{fields.at('image_url')}': expected a data URL of an image, data:image/…;base64,…"
        raise faults.invalid("invalid_value", text, fields.at("image_url"))
    return url


def _at_agent_hz(samples: Int16, format_: SoundFormat) -> Int16:
    resampler = Resampler(sound.hz_of(format_), AGENT_HZ)
    return np.concatenate([resampler.push(samples), resampler.flush()])
