"""The model `portrait`: hears speech and moves the face of a still portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.errors import ModelNotLoaded
from serve_app.models import hearing, idle
from serve_app.models.base import ModelSpec
from serve_app.models.drawing.painter import Painter
from serve_app.models.refusal import animated, prepared_of, refusal
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Window


@dataclass(frozen=True, slots=True)
class _Prepared:
    base_loop: BaseLoop
    painter: Painter


class Portrait:
    """A portrait that speaks.

    Args:
        fps: frames per second.
        device: "cpu" or "cuda", as torch names them.
        weights: safetensors file of the hearing; None for the package's own.

    Raises:
        ModelNotLoaded: there are no such weights, or they are of another network.
    """

    def __init__(self, *, fps: int, device: str, weights: str | None = None) -> None:
        self._device = torch.device(device)
        file = hearing.WEIGHTS if weights is None else Path(weights)
        try:
            self._hearing = hearing.Hearing(fps, self._device, file)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelNotLoaded(
                f"model 'portrait': expected weights of its hearing in {str(file)!r}, found: {error}"
            ) from error
        self._avatars: dict[str, _Prepared] = {}
        self._spec = ModelSpec(
            name="portrait",
            left_context=hearing.LEFT_CONTEXT,
            lookahead=hearing.lookahead(fps),
            fps=fps,
            width=SIZE,
            height=SIZE,
        )

    @property
    def spec(self) -> ModelSpec:
        """What callers must know to cut windows."""
        return self._spec

    def prepare(self, bundle: AvatarBundle) -> None:
        """Render the base loop of an avatar and what its face is drawn from."""
        fps = self._spec.fps
        motion = idle.head_motion(bundle, idle.num_frames(fps), self._device)
        person = idle.person(bundle, fps, self._device)
        frames = idle.render(person, motion)
        loop = BaseLoop(bundle.avatar_id, SIZE, SIZE, fps, frames)
        painter = Painter(bundle, person, motion, frames, self._device)
        self._avatars[bundle.avatar_id] = _Prepared(loop, painter)

    def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return the idle motion of a prepared avatar.

        Raises:
            AvatarInvalid: the avatar was not prepared.
        """
        return prepared_of(self._avatars, avatar_id).base_loop

    @torch.inference_mode()
    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Turn a batch of windows into clips: one hearing for all, one drawing for each avatar."""
        fps = self._spec.fps
        return animated(windows, lambda window: refusal(window, fps, self._avatars), self._clips)

    def _clips(self, windows: Sequence[Window]) -> list[Clip]:
        heard = self._hearing.listen(windows)
        clips = []
        at = 0
        for avatar_id, together in groupby(windows, key=lambda window: window.avatar_id):
            mine = list(together)
            frames = sum(window.num_frames for window in mine)
            clips.extend(self._draw(avatar_id, mine, heard[at : at + frames]))
            at += frames
        return clips

    def _draw(self, avatar_id: str, windows: Sequence[Window], heard: Tensor) -> list[Clip]:
        avatar = self._avatars[avatar_id]
        length = len(avatar.base_loop.frames)
        base = torch.cat([torch.arange(w.base_frame, w.base_frame + w.num_frames) for w in windows]) % length
        patches = avatar.painter.draw(heard, base.to(self._device)).cpu().numpy()
        place = avatar.painter.patch.xywh
        clips = []
        at = 0
        for window in windows:
            clips.append(Clip.of(window, place, patches[at : at + window.num_frames]))
            at += window.num_frames
        return clips
