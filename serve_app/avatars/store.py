"""Where avatars are found and kept: those of the package, and a store: a folder, or a URL that fsspec opens.

A store holds one folder for each avatar, which bears its id and holds exactly the files of a bundle. Bundles
are never changed: a new one is written whole, with its document last, and a folder without that is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from serve_app.avatars.bundle import (
    JSON,
    MAX_BYTES,
    MAX_JSON_BYTES,
    MAX_NAME_CHARS,
    AvatarBundle,
    file_names,
    is_avatar_id,
    load_bundle,
    unpack,
)
from serve_app.errors import AvatarError, AvatarInvalid

logger = logging.getLogger("serve_app.avatars")

BUILTIN = Path(__file__).parent / "builtin"
"""Bundles that are shipped with the package."""

LISTED_S = 5.0
"""How long a remote store's listing is taken for true."""

MAX_LISTED = 10_000
"""Most avatars that are looked at in a store."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class StoreUnreachable(AvatarError):
    """A store cannot be read or written now."""

    code = "store_unreachable"
    retryable = True


class AvatarExists(AvatarInvalid):
    """An avatar of that id is in the store."""

    code = "avatar_exists"


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of an avatar without loading it.

    Attributes:
        avatar_id: its id.
        name: for people.
        source: where its picture comes from; may be empty.
    """

    avatar_id: str
    name: str
    source: str


class Shelf(Protocol):
    """One place of bundles."""

    def ids(self) -> set[str]:
        """Return the ids of what lies here."""
        ...

    def find(self, avatar_id: str) -> Path | None:
        """Return a local folder with the bundle's files; None where there is no such bundle."""
        ...

    def write(self, avatar_id: str, files: Mapping[str, bytes]) -> None:
        """Put a new bundle here, wholly or not at all."""
        ...

    def remove(self, avatar_id: str) -> bool:
        """Remove a bundle; return whether there was one."""
        ...


class AvatarStore:
    """Finds bundles by id, and takes new ones.

    A bundle of the store hides a built-in one of the same id.

    Args:
        url: a folder, which may appear or grow later, or an fsspec URL (s3://…, gs://…, memory://…); None
            for the built-in avatars alone. A leading ~ is the home folder.
        cache: where bundles of a URL are kept once they were read; None for a folder of the user's cache.
    """

    def __init__(self, url: str | Path | None, cache: Path | None = None) -> None:
        self._shelf: Shelf | None = None
        if url is not None:
            self._shelf = _shelf(url, cache)
        builtin = FolderShelf(BUILTIN)
        self._shelves: tuple[Shelf, ...] = (builtin,) if self._shelf is None else (self._shelf, builtin)

    @property
    def takes_new_ones(self) -> bool:
        """Whether avatars can be added."""
        return self._shelf is not None

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all avatars, sorted.

        Raises:
            StoreUnreachable: the store cannot be listed.
        """
        return tuple(sorted(set().union(*(shelf.ids() for shelf in self._shelves))))

    def load(self, avatar_id: str) -> AvatarBundle:
        """Read an avatar's bundle.

        Raises:
            AvatarInvalid: there is none of that id (the text lists those that exist), or it is damaged.
            StoreUnreachable: the store cannot be read, and the bundle was not read before.
        """
        path = self.path(avatar_id)
        bundle = load_bundle(path)
        if bundle.avatar_id != path.name:
            raise AvatarInvalid(f"{path}: expected avatar_id {path.name!r}, found {bundle.avatar_id!r}")
        return bundle

    def path(self, avatar_id: str) -> Path:
        """Return the folder of an avatar's bundle; a remote one is copied here first.

        Raises:
            AvatarInvalid: there is none of that id; the text lists those that exist.
            StoreUnreachable: the store cannot be read, and the bundle was not read before.
        """
        if is_avatar_id(avatar_id):
            for shelf in self._shelves:
                if (path := shelf.find(avatar_id)) is not None:
                    return path
        known = ", ".join(self.ids()[:50]) or "none"
        raise AvatarInvalid(f"expected an avatar of: {known}; found {avatar_id[:64]!r}")

    def card(self, avatar_id: str) -> Card:
        """Return what is told of an avatar.

        Raises:
            AvatarInvalid: there is none of that id, or its document is damaged.
            StoreUnreachable: as `path`.
        """
        path = self.path(avatar_id) / JSON
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(MAX_JSON_BYTES + 1))
        except (OSError, ValueError, RecursionError) as error:
            raise AvatarInvalid(f"{path}: expected a JSON object, found: {error}") from error
        texts = document if isinstance(document, dict) else {}
        name, source = texts.get("name"), texts.get("source", "")
        if not isinstance(name, str) or not isinstance(source, str):
            raise AvatarInvalid(f"{path}: expected a name and a source, found none")
        return Card(avatar_id, name[:MAX_NAME_CHARS], source)

    def cards(self) -> list[Card]:
        """Return what is told of all avatars, by id; damaged ones are left out and logged."""
        cards = []
        for avatar_id in self.ids():
            try:
                cards.append(self.card(avatar_id))
            except AvatarError as error:
                logger.warning("avatar %s is left out of a list: %s", avatar_id, error)
        return cards

    def file(self, avatar_id: str, name: str) -> bytes:
        """Return one file of a bundle.

        Args:
            avatar_id: whose.
            name: one of bundle.MAX_BYTES.

        Raises:
            AvatarInvalid: there is no such avatar, or the file is missing or too large.
            StoreUnreachable: as `path`.
        """
        path = self.path(avatar_id) / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES[name] + 1)
        except OSError as error:
            raise AvatarInvalid(f"{path}: expected a file, found: {error.strerror}") from error
        if len(content) > MAX_BYTES[name]:
            raise AvatarInvalid(f"{path}: expected at most {MAX_BYTES[name]} bytes, found more")
        return content

    def add(self, files: Mapping[str, bytes]) -> AvatarBundle:
        """Put a new avatar into the store, wholly or not at all, and return it.

        Args:
            files: as `bundle.pack` returns them.

        Raises:
            AvatarExists: there is one of that id, here or built in.
            AvatarInvalid: the files are no bundle, or this store takes none.
            StoreUnreachable: the store cannot be written.
        """
        if self._shelf is None:
            raise AvatarInvalid("expected a store for new avatars (avatars.store), found none")
        bundle = unpack(files, "a new avatar")
        if any(shelf.find(bundle.avatar_id) is not None for shelf in self._shelves):
            raise _exists(bundle.avatar_id)
        names = file_names(files[JSON], "a new avatar")
        self._shelf.write(bundle.avatar_id, {name: files[name] for name in names})
        return bundle

    def remove(self, avatar_id: str) -> None:
        """Remove an avatar from the store. What has loaded it keeps showing it.

        Raises:
            AvatarInvalid: the store has none of that id, or the avatar is built in, or there is no store.
            StoreUnreachable: the store cannot be written.
        """
        if self._shelf is None:
            raise AvatarInvalid("expected a store to remove from (avatars.store), found none")
        if is_avatar_id(avatar_id) and self._shelf.remove(avatar_id):
            return
        if avatar_id in FolderShelf(BUILTIN).ids():
            raise AvatarInvalid(f"expected an avatar of the store, found {avatar_id!r}, which is built in")
        known = ", ".join(sorted(self._shelf.ids())[:50]) or "none"
        raise AvatarInvalid(f"expected an avatar of the store: {known}; found {avatar_id[:64]!r}")


def new_avatar_id() -> str:
    """Return an id for an upload: `avat_` and a ULID, which sorts by time."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "avat_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


class FolderShelf:
    """Bundles in a local folder.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ids(self) -> set[str]:
        """Return the ids of what lies here."""
        found = self._folder.glob(f"*/{JSON}")
        return {path.parent.name for path in found if is_avatar_id(path.parent.name)}

    def find(self, avatar_id: str) -> Path | None:
        """Return a bundle's folder."""
        path = self._folder / avatar_id
        return path if (path / JSON).is_file() else None

    def write(self, avatar_id: str, files: Mapping[str, bytes]) -> None:
        """Write beside, then rename: readers see the whole bundle or none.

        Raises:
            AvatarExists: the id is taken.
            StoreUnreachable: the folder cannot be written.
        """
        # No id begins with a dot, so what an interrupted write leaves is never listed.
        beside = self._folder / f".new-{secrets.token_hex(8)}"
        try:
            beside.mkdir(parents=True)
            for name, content in files.items():
                _write_through(beside / name, content)
            beside.rename(self._folder / avatar_id)
        except OSError as error:
            if (self._folder / avatar_id / JSON).is_file():
                raise _exists(avatar_id) from error
            raise StoreUnreachable(f"{self._folder}: expected a folder to write, found: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def remove(self, avatar_id: str) -> bool:
        """Take a bundle out of sight, then delete it.

        Raises:
            StoreUnreachable: the folder cannot be written.
        """
        if self.find(avatar_id) is None:
            return False
        aside = self._folder / f".old-{secrets.token_hex(8)}"
        try:
            (self._folder / avatar_id).rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise StoreUnreachable(f"{self._folder}: expected a folder to write, found: {error}") from error
        return True


class RemoteShelf:
    """Bundles behind an fsspec URL, read through a local cache.

    A bundle is copied when it is first asked for, checked against its own checksums, and kept: bundles do
    not change.

    Args:
        url: of the folder that holds them.
        cache: a local folder of this store's own.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._url = url
        self._cache = FolderShelf(cache)
        self._lock = threading.Lock()
        self._listed: tuple[float, set[str]] | None = None

    def ids(self) -> set[str]:
        """Return the ids of what lies there, as it was LISTED_S ago at most.

        Raises:
            StoreUnreachable: it cannot be listed.
        """
        with self._lock:
            if self._listed is not None and time.monotonic() - self._listed[0] < LISTED_S:
                return set(self._listed[1])
        files, root = self._open()
        try:
            files.invalidate_cache()
            paths = files.glob(f"{root}/*/{JSON}") if files.exists(root) else []
        except Exception as error:
            raise self._unreachable(error) from error
        names = (str(path).rsplit("/", 2)[-2] for path in paths[:MAX_LISTED])
        found = {name for name in names if is_avatar_id(name)}
        with self._lock:
            self._listed = (time.monotonic(), found)
        return set(found)

    def find(self, avatar_id: str) -> Path | None:
        """Return the folder of a bundle's copy.

        Raises:
            AvatarInvalid: the bundle is damaged.
            StoreUnreachable: it cannot be read.
        """
        if (path := self._cache.find(avatar_id)) is not None:
            return path
        document = self._read(avatar_id, JSON)
        if document is None:
            return None
        copied = {JSON: document}
        for name in file_names(document, f"avatar {avatar_id!r}")[1:]:
            content = self._read(avatar_id, name)
            if content is None:
                raise AvatarInvalid(f"avatar {avatar_id!r}: expected all its files, found no {name}")
            copied[name] = content
        bundle = unpack(copied, f"avatar {avatar_id!r}")
        if bundle.avatar_id != avatar_id:
            raise AvatarInvalid(f"avatar {avatar_id!r}: expected its own id, found {bundle.avatar_id!r}")
        try:
            self._cache.write(avatar_id, copied)
        except AvatarExists:
            # Another process of this machine was faster.
            logger.debug("avatar %s was cached meanwhile", avatar_id)
        return self._cache.find(avatar_id)

    def write(self, avatar_id: str, files: Mapping[str, bytes]) -> None:
        """Write a bundle's files, its document last; what was written of a failed one is taken back.

        Raises:
            StoreUnreachable: it cannot be written.
        """
        there, root = self._open()
        where = f"{root}/{avatar_id}"
        try:
            there.makedirs(where, exist_ok=True)
            for name in [*(name for name in files if name != JSON), JSON]:
                there.pipe_file(f"{where}/{name}", files[name])
        except Exception as error:
            self._take_back(there, where)
            raise self._unreachable(error) from error
        with self._lock:
            self._listed = None

    def remove(self, avatar_id: str) -> bool:
        """Delete a bundle, its document first, and the copy of it.

        Raises:
            StoreUnreachable: it cannot be deleted.
        """
        there, root = self._open()
        where = f"{root}/{avatar_id}"
        try:
            was_there = bool(there.exists(f"{where}/{JSON}"))
            if was_there:
                there.rm_file(f"{where}/{JSON}")
                # Where nothing else was, some filesystems have no folder any more.
                with contextlib.suppress(FileNotFoundError):
                    there.rm(where, recursive=True)
        except Exception as error:
            raise self._unreachable(error) from error
        with self._lock:
            self._listed = None
        self._cache.remove(avatar_id)
        return was_there

    def _read(self, avatar_id: str, name: str) -> bytes | None:
        """Return a file, or as much of it as tells that it is too large; None where there is none."""
        files, root = self._open()
        try:
            with files.open(f"{root}/{avatar_id}/{name}", "rb", cache_type="none") as file:
                content: bytes = file.read(MAX_BYTES[name] + 1)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreachable(error) from error
        return content

    def _take_back(self, there: Any, where: str) -> None:  # noqa: ANN401 - fsspec has no types
        try:
            there.rm(where, recursive=True)
        except Exception:  # noqa: BLE001 - a rest without its document is no bundle, and harms nobody
            logger.warning("the rest of a bundle that could not be written remains")

    def _open(self) -> tuple[Any, str]:
        try:
            import fsspec

            files, root = fsspec.core.url_to_fs(self._url)
        except Exception as error:
            raise self._unreachable(error) from error
        return files, str(root).rstrip("/")

    def _unreachable(self, error: Exception) -> StoreUnreachable:
        """Return what went wrong; each filesystem has errors of its own, and their texts may hold keys."""
        found = type(error).__name__
        return StoreUnreachable(f"{shown(self._url)}: expected a store of avatars, found {found}")


def shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _shelf(url: str | Path, cache: Path | None) -> Shelf:
    text = str(url)
    if text.startswith("file://"):
        return FolderShelf(Path(urlsplit(text).path))
    if isinstance(url, Path) or not _SCHEME.match(text):
        return FolderShelf(Path(text).expanduser())
    if cache is None:
        users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = users / "serve-app" / "avatars" / sha256(text.encode()).hexdigest()[:16]
    return RemoteShelf(text, cache)


def _exists(avatar_id: str) -> AvatarExists:
    return AvatarExists(f"expected a new avatar id, found {avatar_id!r}, which is taken")


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
