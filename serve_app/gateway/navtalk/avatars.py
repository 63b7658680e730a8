"""Avatars by the names that NavTalk's clients know, and their pictures.

An avatar is found by its id, by its name, or by either after "navtalk.", which begins the names of NavTalk's
own characters; capitals do not matter. Of several with one name the newest is taken. One of NavTalk's own
characters that is not here is played by the default avatar, so that a client works as it was shipped. Both
are told as a warning.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image

from serve_app.avatars.bundle import MAX_JSON_BYTES, is_avatar_id
from serve_app.avatars.store import AvatarStore
from serve_app.config import AvatarsConfig
from serve_app.errors import AvatarInvalid

CHARACTER = "navtalk."
MAX_NAME_CHARS = 128
MAX_PICTURES = 64
MAX_CARDS = 4_096

PICTURE_TYPES = {"png": "image/png", "jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of an avatar.

    Attributes:
        avatar_id: its id.
        name: for people.
        updated_s: when its bundle was written, POSIX time.
    """

    avatar_id: str
    name: str
    updated_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The avatar that a client's words mean, and what it should be warned of."""

    card: Card
    warning: str | None = None


class AvatarDirectory:
    """Finds avatars and renders their pictures; reads files, so it is to be called in a thread.

    Args:
        store: where bundles lie.
        config: which one is the default.
    """

    def __init__(self, store: AvatarStore, config: AvatarsConfig) -> None:
        self._store = store
        self._default = config.default
        self._lock = Lock()
        self._cards: dict[Path, Card] = {}
        self._pictures: OrderedDict[tuple[str, str, float], bytes] = OrderedDict()

    def choose(self, name: str | None, avatar_id: str | None) -> Choice:
        """Return the avatar that a socket or a look-up names; the id decides when both are given.

        Raises:
            AvatarInvalid: there is none.
        """
        if avatar_id:
            return Choice(self.card(avatar_id))
        if not name:
            return Choice(self.card(self._default))
        found = self._named(name)
        if len(found) > 1:
            text = f"{len(found)} avatars have this name; the newest was selected: {found[0].avatar_id}"
            return Choice(found[0], text)
        if found:
            return Choice(found[0])
        if name.lower().startswith(CHARACTER):
            card = self.card(self._default)
            return Choice(card, f"no avatar has this name here; the default was selected: {card.avatar_id}")
        known = ", ".join(self._store.ids()[:20])
        raise AvatarInvalid(f"expected the name of an avatar of: {known}; found another")

    def card(self, avatar_id: str) -> Card:
        """Return what is told of an avatar.

        Raises:
            AvatarInvalid: there is none of that id, or it is damaged.
        """
        if not is_avatar_id(avatar_id):
            raise AvatarInvalid("expected the id of an avatar, found other text")
        path = self._store.path(avatar_id) / "avatar.json"
        try:
            updated_s = path.stat().st_mtime
            known = self._cards.get(path)
            if known is not None and known.updated_s == updated_s:
                return known
            card = Card(avatar_id, _name(path), updated_s)
        except OSError as error:
            raise AvatarInvalid(f"avatar {avatar_id}: its bundle cannot be read: {error.strerror}") from error
        with self._lock:
            if len(self._cards) >= MAX_CARDS:
                self._cards.clear()
            self._cards[path] = card
        return card

    def picture(self, avatar_id: str, kind: str) -> bytes:
        """Return the avatar's first base frame as a file of a kind in PICTURE_TYPES.

        Raises:
            AvatarInvalid: there is none of that id, or it is damaged.
        """
        key = (avatar_id, kind, self.card(avatar_id).updated_s)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        # The first base frame is the portrait moved by a few pixels; what moves it needs torch.
        image = Image.fromarray(self._store.load(avatar_id).portrait)
        file = io.BytesIO()
        if kind == "png":
            image.save(file, format="PNG")
        else:
            image.save(file, format="JPEG", quality=90)
        with self._lock:
            self._pictures[key] = file.getvalue()
            while len(self._pictures) > MAX_PICTURES:
                self._pictures.popitem(last=False)
        return file.getvalue()

    def _named(self, name: str) -> list[Card]:
        """Return the avatars a name means, the newest first."""
        wanted = {name[:MAX_NAME_CHARS].lower()}
        wanted |= {text.removeprefix(CHARACTER) for text in wanted}
        found = []
        for avatar_id in self._store.ids():
            try:
                card = self.card(avatar_id)
            except AvatarInvalid:
                # A damaged bundle does not hide the others; whoever asks for it by id is told.
                continue
            if {card.name.lower(), card.name.lower().removeprefix(CHARACTER), avatar_id.lower()} & wanted:
                found.append(card)
        return sorted(found, key=lambda card: (-card.updated_s, card.avatar_id))


def _name(path: Path) -> str:
    """Return the name in a bundle's document; the rest is checked by whoever shows the avatar."""
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AvatarInvalid(f"{path.parent.name}: expected a JSON object in avatar.json") from error
    name = document.get("name") if isinstance(document, dict) else None
    if not isinstance(name, str) or not name:
        raise AvatarInvalid(f"{path.parent.name}: name: expected text in avatar.json, found none")
    return name[:MAX_NAME_CHARS]
