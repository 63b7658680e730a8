"""What making an avatar tells and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.avatars.bundle import AvatarBundle

Progress = Callable[[int, str], None]
"""Told the number of a step, from 0, and its text, as it begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Created:
    """A new avatar, checked.

    Attributes:
        bundle: what the models get.
        files: the same as it goes into a store, content by name.
        notes: what a better photo would have, for people.
    """

    bundle: AvatarBundle
    files: dict[str, bytes]
    notes: tuple[str, ...]
