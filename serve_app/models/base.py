"""What every model offers, and what it is given.

Shape letters: B windows, T frames, S samples, H x W pixels, L frames of a base loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.avatars.bundle import AvatarBundle
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Window


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What callers must know to cut windows for a model.

    Attributes:
        name: registry name.
        left_context: samples at SPEECH_HZ a window carries before its first frame.
        lookahead: samples at SPEECH_HZ a window carries after its last frame.
        fps: frames per second it makes.
        width: pixels of the avatar's picture.
        height: pixels of the avatar's picture.
    """

    name: str
    left_context: int
    lookahead: int
    fps: int
    width: int
    height: int


class Model(Protocol):
    """A network and its prepared avatars on one device.

    `animate` is called from one thread; `prepare` may run beside it in another.
    """

    @property
    def spec(self) -> ModelSpec:
        """What callers must know to cut windows."""
        ...

    def prepare(self, bundle: AvatarBundle) -> None:
        """Put an avatar on the device; later windows name it by `bundle.avatar_id`.

        Raises:
            AvatarInvalid: the bundle lacks what this model needs.
        """
        ...

    def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return the idle motion of a prepared avatar.

        Raises:
            AvatarInvalid: the avatar was not prepared.
        """
        ...

    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Turn a batch of windows of any sessions and prepared avatars into clips.

        The same speech gives the same frames however it is cut into windows.

        Returns:
            One result for each window, in order. A window that cannot be animated gives a ClipFailure;
            the others of the batch are not touched by it.
        """
        ...
