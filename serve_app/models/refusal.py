"""Which windows of a batch a model animates: the others are found before they share its work."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TypeVar

from serve_app.errors import AvatarInvalid
from serve_app.nouns import Clip, ClipFailure, Window, speech_index

Prepared = TypeVar("Prepared")


def prepared_of(avatars: Mapping[str, Prepared], avatar_id: str) -> Prepared:
    """Return what a model has prepared of an avatar.

    Raises:
        AvatarInvalid: the avatar was not prepared.
    """
    if avatar_id not in avatars:
        raise AvatarInvalid(f"expected a prepared avatar, found {avatar_id!r}")
    return avatars[avatar_id]


def animated(
    windows: Sequence[Window],
    refuse: Callable[[Window], ClipFailure | None],
    make: Callable[[Sequence[Window]], Sequence[Clip | ClipFailure]],
) -> list[Clip | ClipFailure]:
    """Return one result for each window, in order.

    Args:
        windows: of any avatars.
        refuse: says why a window cannot be animated; None when it can.
        make: gives one result for each of those that can, if any; windows of an avatar lie together.
    """
    results: dict[int, Clip | ClipFailure] = {}
    accepted: dict[str, list[int]] = {}
    for number, window in enumerate(windows):
        if failure := refuse(window):
            results[number] = failure
        else:
            accepted.setdefault(window.avatar_id, []).append(number)
    if numbers := [number for mine in accepted.values() for number in mine]:
        results.update(zip(numbers, make([windows[number] for number in numbers]), strict=True))
    return [results[number] for number in range(len(windows))]


def refusal(window: Window, fps: int, prepared: Container[str]) -> ClipFailure | None:
    """Return why a window cannot be animated; None when it can.

    Args:
        window: which one.
        fps: frames per second of the model.
        prepared: ids of its avatars.
    """
    where = f"window at frame {window.first_frame}"
    if window.avatar_id not in prepared:
        return ClipFailure("avatar_invalid", f"{where}: avatar {window.avatar_id!r} was not prepared")
    if window.num_frames < 1:
        return ClipFailure("model_error", f"{where}: expected 1 frame or more, found {window.num_frames}")
    end = speech_index(window.first_frame + window.num_frames, fps)
    needed = window.left_context + end - speech_index(window.first_frame, fps)
    if len(window.speech) < needed:
        expected = f"{needed} samples or more at 16000 Hz"
        return ClipFailure("model_error", f"{where}: expected {expected}, found {len(window.speech)}")
    return None
