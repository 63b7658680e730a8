"""One device batch: what goes wrong with a window stays with it; a lost device is told from a bad window."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from serve_app.animator.economy import restored, thinned
from serve_app.errors import ModelOutOfMemory, ReplicaLost
from serve_app.models.base import Model
from serve_app.nouns import Clip, ClipFailure, Window

logger = logging.getLogger("serve_app.animator")


class Stepper:
    """Gives windows to a model.

    Args:
        model: the model; its avatars are prepared.

    Attributes:
        max_frames: given to the model at once; None: all.
        is_lost: whether the device is gone for this process; only another process can use it again.
    """

    def __init__(self, model: Model) -> None:
        self.max_frames: int | None = None
        self.is_lost = False
        self._model = model

    def run(self, windows: Sequence[Window], *, every: int = 1) -> list[Clip | ClipFailure]:
        """Animate windows of prepared avatars, in the order they came: those that wait longest first.

        Args:
            windows: of any sessions.
            every: 2 makes every second frame and shows it twice.

        Raises:
            ReplicaLost: the device is gone; another replica may animate the windows.
        """
        if every == 1:
            return [result for part in self._parts(windows) for result in self._animate(part)]
        fps = self._model.spec.fps
        thin = [thinned(window, fps, every) for window in windows]
        made = iter(self.run([part for parts in thin for part in parts]))
        return [
            restored(window, [next(made) for _ in parts], every, self._model.base_loop(window.avatar_id))
            for window, parts in zip(windows, thin, strict=True)
        ]

    def _parts(self, windows: Sequence[Window]) -> Iterator[list[Window]]:
        part: list[Window] = []
        frames = 0
        for window in windows:
            if part and self.max_frames is not None and frames + window.num_frames > self.max_frames:
                yield part
                part, frames = [], 0
            part.append(window)
            frames += window.num_frames
        if part:
            yield part

    def _animate(self, windows: list[Window]) -> list[Clip | ClipFailure]:
        try:
            return self._model.animate(windows)
        except Exception as error:  # one bad window must not fail the callers of the others
            self._check_device(error)
            if len(windows) == 1:
                return [_failure(windows[0], error)]
            logger.exception("a step of %d windows failed; each is tried alone", len(windows))
        return [result for window in windows for result in self._animate([window])]

    def _check_device(self, error: Exception) -> None:
        """Tell an error after which no call to the device succeeds in this process."""
        text = str(error)
        if "CUDA error" in text and "out of memory" not in text:
            self.is_lost = True
            logger.error("the device is lost: %.300s", text)
            raise ReplicaLost("the device of this replica is lost") from error


def _failure(window: Window, error: Exception) -> ClipFailure:
    where = f"window at frame {window.first_frame}"
    if isinstance(error, ModelOutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return ClipFailure(ModelOutOfMemory.code, f"{where}: the device's memory does not suffice now")
    logger.error("%s failed: %s", where, type(error).__name__)
    return ClipFailure("model_error", f"{where}: {type(error).__name__}")
