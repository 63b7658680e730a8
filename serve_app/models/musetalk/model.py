"""The model `musetalk`: MuseTalk 1.5 repaints the mouths of a base loop so that they speak.

One batch holds the frames of all windows, whatever their sessions and avatars: hear, paint (UNet and VAE),
lay into the base frames, and leave the device as I420 patches of the mouth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.errors import ModelOutOfMemory
from serve_app.models.base import ModelSpec
from serve_app.models.drawing.place import Rectangle
from serve_app.models.musetalk import blending, stage, timing
from serve_app.models.musetalk.encoder import PieceEncoder
from serve_app.models.musetalk.hearing import CONTEXT, LOOKAHEAD, ROWS, Hearing
from serve_app.models.musetalk.networks import SIDE, Networks, load
from serve_app.models.musetalk.timing import FRAME_SAMPLES, NativeFrames, native_frames
from serve_app.models.neural.batching import COMPILE, EAGER, BucketedStep
from serve_app.models.neural.guard import broken_windows, finite_frames
from serve_app.models.neural.residency import Residency
from serve_app.models.refusal import animated, prepared_of, refusal
from serve_app.nouns import BaseLoop, Clip, ClipFailure, UInt8, Window, speech_index

NAME = "musetalk"

CUDA_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Batch sizes on a GPU; each is compiled before the replica is ready."""

CPU_BUCKETS = (1, 2, 3, 4)
"""Batch sizes on a CPU: few, for its cache."""

RESIDENT_BYTES = 4 * 1_073_741_824
"""Avatars' tensors on the card: about 200 avatars of 20 MB each."""

DRAWN_ON_CPU, DRAWN_ON_GPU = 4, 64
"""Frames that are laid into the base loop together: on a CPU they stay in the cache."""


class MuseTalk:
    """A photo or a filmed person that speaks.

    Args:
        fps: frames per second of the sessions. At 25, MuseTalk's own rate, frames are what the networks
            paint; faster sessions get mixtures of two painted frames.
        device: "cpu" or "cuda", as torch names them.
        weights: folder of the official files, or "random" for small networks with invented weights.
        mode: how batches run, as BucketedStep takes it; None for "compile" on a GPU and "eager" elsewhere.
        buckets: batch sizes; None for the device's.
        dtype: what the networks compute in; None for float16 on a GPU and float32 elsewhere.

    Raises:
        ModelNotLoaded: the weights are missing, damaged or of another version; the text names all.
        ModelOutOfMemory: the device cannot paint one frame.
    """

    def __init__(
        self,
        *,
        fps: int,
        device: str,
        weights: str | None = None,
        mode: str | None = None,
        buckets: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._device = torch.device(device)
        is_gpu = self._device.type == "cuda"
        self._dtype = dtype or (torch.float16 if is_gpu else torch.float32)
        self._networks = load(weights, self._device, self._dtype)
        whisper = self._networks.architecture.whisper
        self._states, self._channels = int(whisper["encoder_layers"]) + 1, int(whisper["d_model"])
        self._hearing = Hearing(
            PieceEncoder(self._networks.whisper),
            states=self._states,
            channels=self._channels,
            fps=fps,
            device=self._device,
            dtype=self._dtype,
        )
        self._paint = BucketedStep(
            self._networks.paint,
            buckets=buckets or (CUDA_BUCKETS if is_gpu else CPU_BUCKETS),
            device=self._device,
            mode=mode or (COMPILE if is_gpu else EAGER),
        )
        self._drawn = DRAWN_ON_GPU if is_gpu else DRAWN_ON_CPU
        self._resident = Residency(self._device, RESIDENT_BYTES)
        self._avatars: dict[str, tuple[BaseLoop, Rectangle]] = {}
        self._spec = ModelSpec(
            name=NAME,
            left_context=CONTEXT + timing.samples_before(fps),
            lookahead=LOOKAHEAD + timing.samples_after(fps),
            fps=fps,
            width=SIZE,
            height=SIZE,
        )
        if self._paint.mode != EAGER:
            self._paint.warm(self._example)

    @property
    def spec(self) -> ModelSpec:
        """What callers must know to cut windows."""
        return self._spec

    @property
    def networks(self) -> Networks:
        """The networks, for measuring."""
        return self._networks

    def prepare(self, bundle: AvatarBundle) -> None:
        """Render the base loop of an avatar, and look at its face in each frame.

        Raises:
            AvatarInvalid: its face is too small, or its footage cannot be decoded.
        """
        prepared = stage.prepare(bundle, self._spec.fps, self._networks)
        self._resident.put(bundle.avatar_id, prepared.tensors)
        self._avatars[bundle.avatar_id] = prepared.loop, prepared.place

    def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return the idle motion of a prepared avatar.

        Raises:
            AvatarInvalid: the avatar was not prepared.
        """
        return prepared_of(self._avatars, avatar_id)[0]

    @torch.inference_mode()
    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Turn a batch of windows into clips: one hearing and one painting for all.

        When the device's memory does not suffice, all windows of the batch fail and may be tried again.
        """
        return animated(windows, self._refusal, self._clips_or_failures)

    def _refusal(self, window: Window) -> ClipFailure | None:
        fps = self._spec.fps
        if refused := refusal(window, fps, self._avatars):
            return refused
        native = native_frames(window.first_frame, window.num_frames, fps)
        start = speech_index(window.first_frame, fps)
        before = start - max(0, native.first * FRAME_SAMPLES - CONTEXT)
        if window.left_context < before:
            where = f"window at frame {window.first_frame}"
            expected = f"{before} samples or more before it at 16000 Hz"
            return ClipFailure("model_error", f"{where}: expected {expected}, found {window.left_context}")
        return None

    def _clips_or_failures(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        try:
            return self._clips(windows)
        except ModelOutOfMemory as error:
            return [ClipFailure(error.code, str(error))] * len(windows)

    def _clips(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        natives = [native_frames(w.first_frame, w.num_frames, self._spec.fps) for w in windows]
        groups = {name: self._resident.get(name) for name in dict.fromkeys(w.avatar_id for w in windows)}
        looks = [
            groups[window.avatar_id]["latents"].index_select(0, self._looked_at(window, native))
            for window, native in zip(windows, natives, strict=True)
        ]
        latents = torch.cat(looks).contiguous(memory_format=self._networks.memory_format)
        faces = self._paint(latents, self._hearing.listen(windows, natives))
        mix = _Mix(windows, natives)
        drawn: dict[int, Tensor] = {}
        for avatar_id, group in groups.items():
            mine = [number for number, window in enumerate(windows) if window.avatar_id == avatar_id]
            frames = np.concatenate([mix.frames[number] for number in mine])
            patches = self._draw(faces, mix, frames, group, self._avatars[avatar_id][1])
            sizes = [windows[number].num_frames for number in mine]
            drawn.update(zip(mine, torch.split(patches, sizes), strict=True))
        finite = finite_frames(faces)
        pixels = self._to_host([drawn[number] for number in range(len(windows))])
        is_finite = finite.cpu().numpy()
        failures = broken_windows(windows, (is_finite[mix.before] & is_finite[mix.after]).tolist())
        return [
            failure or Clip.of(window, self._avatars[window.avatar_id][1].xywh, patches)
            for window, patches, failure in zip(windows, pixels, failures, strict=True)
        ]

    def _looked_at(self, window: Window, native: NativeFrames) -> Tensor:
        """Return the base frames whose faces native frames are painted on, [count]."""
        natives = np.arange(native.first, native.first + native.count)
        frames = timing.session_frame(natives, self._spec.fps)
        base = window.base_frame - window.first_frame + frames
        loop = self._avatars[window.avatar_id][0]
        return torch.from_numpy(base % len(loop.frames)).to(self._device)

    def _draw(
        self,
        faces: Tensor,
        mix: _Mix,
        frames: npt.NDArray[np.int64],
        group: Mapping[str, Tensor],
        place: Rectangle,
    ) -> Tensor:
        """Lay faces into the base frames of one avatar.

        Args:
            faces: [F, 3, SIDE, SIDE] RGB from 0 to 1: the painted faces of all windows.
            mix: which of them make the batch's frames.
            frames: [T]: the frames to draw, of the batch's.
            group: the avatar's tensors.
            place: its rectangle.

        Returns:
            [T, w * h * 3 / 2] uint8 I420.
        """
        before, after, base = (
            torch.from_numpy(index[frames]).to(self._device) for index in (mix.before, mix.after, mix.base)
        )
        base %= len(group["boxes"])
        share = torch.from_numpy(mix.share[frames]).to(self._device)[:, None, None, None]
        parts = []
        for some in torch.split(torch.arange(len(frames), device=self._device), self._drawn):
            face = faces.index_select(0, before[some]).float()
            if self._spec.fps > timing.NATIVE_FPS:
                face = torch.lerp(face, faces.index_select(0, after[some]).float(), share[some])
            shown = base[some]
            boxes, under, cover = (group[key].index_select(0, shown) for key in ("boxes", "base", "cover"))
            painted = blending.to_i420(blending.pasted(face, boxes, place))
            parts.append(blending.blended(under, painted, cover))
        return torch.cat(parts)

    def _to_host(self, drawn: Sequence[Tensor]) -> list[UInt8]:
        """Return tensors as arrays; from a GPU all copies run beside each other, into page-locked memory."""
        if self._device.type != "cuda":
            return [tensor.numpy() for tensor in drawn]
        copies = []
        for tensor in drawn:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies.append(copy.copy_(tensor, non_blocking=True))
        torch.cuda.current_stream(self._device).synchronize()
        return [copy.numpy() for copy in copies]

    def _example(self, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs of a batch, as `animate` gives them."""
        channels = int(self._networks.architecture.unet["in_channels"])
        latents = torch.zeros(size, channels, SIDE // 8, SIDE // 8, dtype=self._dtype, device=self._device)
        prompts = torch.zeros(
            size, ROWS * self._states, self._channels, dtype=self._dtype, device=self._device
        )
        return latents.contiguous(memory_format=self._networks.memory_format), prompts


class _Mix:
    """Which painted faces and base frames make the frames of a batch of windows; T counts all its frames.

    Attributes:
        before: [T] int64: the earlier face, of those of all windows.
        after: [T] int64: the later one, the same where there is none.
        share: [T] float32: how much of the later one.
        base: [T] int64: the base frame, not reduced modulo L.
        frames: for each window, its frames, of the T.
    """

    def __init__(self, windows: Sequence[Window], natives: Sequence[NativeFrames]) -> None:
        ends = np.cumsum([window.num_frames for window in windows])
        first_faces = np.cumsum([0, *(native.count for native in natives)])[:-1]
        self.before = np.concatenate(
            [native.before + first for native, first in zip(natives, first_faces, strict=True)]
        )
        self.share = np.concatenate([native.share for native in natives])
        self.after = self.before + (self.share > 0)
        self.base = np.concatenate([np.arange(w.base_frame, w.base_frame + w.num_frames) for w in windows])
        self.frames = np.split(np.arange(ends[-1]), ends[:-1])
