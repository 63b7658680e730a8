"""A photo or a short video becomes an avatar in a store, and one is removed, from the command line."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from pathlib import Path

from serve_app.avatars.created import Created, Progress
from serve_app.avatars.creation import TIMEOUT_S, VIDEO_TIMEOUT_S, Order, create_avatar
from serve_app.avatars.photo import MAX_PHOTO_BYTES, PhotoRefused
from serve_app.avatars.store import AvatarExists, AvatarStore, new_avatar_id
from serve_app.avatars.video import MAX_VIDEO_BYTES, looks_like_video


def create(
    photo: Path | str,
    *,
    name: str,
    store: str,
    avatar_id: str | None = None,
    source: str = "",
    background: str = "photo",
    tools: Path | None = None,
    progress: Progress = lambda number, text: None,
) -> Created:
    """Make an avatar of a photo or a video and put it into a store.

    Args:
        photo: a file, or an https URL of a photo.
        name: for people.
        store: a folder or an fsspec URL.
        avatar_id: what it shall be called; None to make it of the name.
        source: where the photo comes from and under which terms.
        background: "photo", "green", a colour, or the path of a picture.
        tools: the environment that finds faces; None for the default one.
        progress: told of each step.

    Raises:
        PhotoRefused: the photo, the video or the background cannot be used.
        AvatarExists: the store has an avatar of that id.
        ToolsMissing: the tool environment is missing or does not work.
        StoreUnreachable: the store cannot be written.
    """
    there = AvatarStore(store)
    avatar_id = avatar_id or id_of(name) or new_avatar_id()
    if avatar_id in there.ids():
        raise AvatarExists(
            f"expected a new avatar id, found {avatar_id!r}, which is taken; name another: --id"
        )
    url = photo if isinstance(photo, str) else ""
    content = b"" if isinstance(photo, str) else _content(photo)
    is_video = looks_like_video(content)
    order = Order(
        avatar_id,
        name,
        content=content,
        url=url,
        source=source or url,
        background=background,
        background_image=_content(Path(background)) if Path(background).is_file() else b"",
        is_video=is_video,
    )
    timeout_s = VIDEO_TIMEOUT_S if is_video else TIMEOUT_S
    created = asyncio.run(create_avatar(order, tools=tools, progress=progress, timeout_s=timeout_s))
    there.add(created.files)
    return created


def remove(avatar_id: str, store: str) -> None:
    """Remove an avatar from a store.

    Raises:
        AvatarInvalid: the store has none of that id, or it is built in.
        StoreUnreachable: the store cannot be written.
    """
    AvatarStore(store).remove(avatar_id)


def id_of(name: str) -> str:
    """Return an avatar id like a name: "Grace Hopper" is "grace-hopper"; may be empty."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64]


def _content(path: Path) -> bytes:
    """Return a file, or as much of it as tells that it is too large."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            most = MAX_VIDEO_BYTES if looks_like_video(start) else MAX_PHOTO_BYTES
            return start + file.read(most + 1 - len(start))
    except OSError as error:
        raise PhotoRefused(
            "bad_request", f"{path}: expected a file, found: {error.strerror}", "Name a photo."
        ) from error
