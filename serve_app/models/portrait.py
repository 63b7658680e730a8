"""The model `portrait`: hears speech and moves the face of a still portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.errors import AvatarInvalid, ModelNotLoaded
from serve_app.models import hearing, idle
from serve_app.models.base import ModelSpec
from serve_app.models.drawing.painter import Painter
from serve_app.models.refusal import refusal
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
        if avatar_id not in self._avatars:
            raise AvatarInvalid(f"expected a prepared avatar, found {avatar_id!r}")
        return self._avatars[avatar_id].base_loop

    @torch.inference_mode()
    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Turn a batch of windows into clips: one hearing for all, one drawing for each avatar."""
        results: list[Clip | ClipFailure | None] = [
            refusal(window, self._spec.fps, self._avatars) for window in windows
        ]
        sound = [number for number, refused in enumerate(results) if refused is None]
        if not sound:
            return [result for result in results if result is not None]
        heard = self._hearing.listen([windows[number] for number in sound])
        coefficients: dict[int, Tensor] = {}
        at = 0
        for number in sound:
            coefficients[number] = heard[at : at + windows[number].num_frames]
            at += windows[number].num_frames
        for avatar_id in dict.fromkeys(windows[number].avatar_id for number in sound):
            mine = [number for number in sound if windows[number].avatar_id == avatar_id]
            clips = self._draw(avatar_id, [windows[n] for n in mine], [coefficients[n] for n in mine])
            for number, clip in zip(mine, clips, strict=True):
                results[number] = clip
        return [result for result in results if result is not None]

    def _draw(self, avatar_id: str, windows: Sequence[Window], heard: Sequence[Tensor]) -> list[Clip]:
        avatar = self._avatars[avatar_id]
        length = len(avatar.base_loop.frames)
        base = torch.cat([torch.arange(w.base_frame, w.base_frame + w.num_frames) for w in windows]) % length
        patches = avatar.painter.draw(torch.cat(list(heard)), base.to(self._device)).cpu().numpy()
        place = avatar.painter.patch.xywh
        clips = []
        at = 0
        for window in windows:
            clips.append(Clip.of(window, place, patches[at : at + window.num_frames]))
            at += window.num_frames
        return clips
