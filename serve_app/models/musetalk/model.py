"""The model `musetalk`: MuseTalk 1.5 repaints the mouths of a base loop so that they speak.

One batch holds the frames of all windows, whatever their sessions and avatars: hear, paint (UNet and VAE),
lay into the base frames, and leave the device as I420 patches of the mouth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
from serve_app.models.neural.landing import Copies, Landing, clips
from serve_app.models.neural.residency import Residency
from serve_app.models.refusal import animated, prepared_of, refusal
from serve_app.nouns import BaseLoop, Clip, ClipFailure, Window, speech_index

NAME = "musetalk"

CUDA_BUCKETS = (1, 2, 4, 8, 16, 32)
"""Batch sizes on a GPU; each is compiled before the replica is ready."""

CPU_BUCKETS = (1, 2, 3, 4)
"""Batch sizes on a CPU: few, for its cache."""

RESIDENT_BYTES = 4 * 1_073_741_824
"""Avatars' tensors on the card: about 200 avatars of 20 MB each."""


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
        self._copies = Copies(self._device)
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
            group["latents"].index_select(0, self._looked_at(avatar_id, windows, natives))
            for avatar_id, group in groups.items()
        ]
        latents = torch.cat(looks).contiguous(memory_format=self._networks.memory_format)
        mix = _Mix(windows, natives, self._device)
        landing = self._copies.landing(mix.num_frames)
        finite = self._make(latents, self._hearing.listen(windows, natives), mix, groups, landing)
        failures = broken_windows(windows, mix.whole(finite))
        places = {avatar_id: self._avatars[avatar_id][1] for avatar_id in groups}
        return clips(windows, failures, landing.arrays(), places)

    def _make(
        self,
        latents: Tensor,
        prompts: Tensor,
        mix: _Mix,
        groups: Mapping[str, Mapping[str, Tensor]],
        landing: Landing,
    ) -> npt.NDArray[np.bool_]:
        """Paint F faces, a device batch at a time; draw and send off the frames that each completes.

        Args:
            latents: [F, 8, 32, 32].
            prompts: [F, ...].
            mix: the frames.
            groups: the avatars' tensors.
            landing: where the frames go, as I420 patches under their avatar's id.

        Returns:
            [F]: whether a face is numbers.
        """
        faces: Tensor | None = None
        finite: list[Tensor] = []
        painted = drawn = 0
        while painted < len(latents):
            some = slice(painted, painted + self._paint.buckets[-1])
            part = self._paint(latents[some], prompts[some])
            finite.append(finite_frames(part))
            if faces is None:
                faces = torch.empty(
                    (len(latents), *part.shape[1:]),
                    dtype=part.dtype,
                    device=part.device,
                    memory_format=self._networks.memory_format,
                )
            faces[some] = part
            painted += len(part)
            ready = mix.drawable(painted)
            for avatar_id, frames in mix.of_avatars(drawn, ready):
                place = self._avatars[avatar_id][1]
                landing.add(avatar_id, self._draw(faces, mix, frames, groups[avatar_id], place))
            drawn = ready
        return torch.cat(finite).cpu().numpy()

    def _looked_at(
        self, avatar_id: str, windows: Sequence[Window], natives: Sequence[NativeFrames]
    ) -> Tensor:
        """Return the base frames of an avatar whose faces native frames are painted on, [F] int64."""
        frames = []
        for window, native in zip(windows, natives, strict=True):
            if window.avatar_id == avatar_id:
                numbers = np.arange(native.first, native.first + native.count)
                shown = timing.session_frame(numbers, self._spec.fps)
                frames.append(window.base_frame - window.first_frame + shown)
        loop = self._avatars[avatar_id][0]
        return torch.from_numpy(np.concatenate(frames) % len(loop.frames)).to(self._device)

    def _draw(
        self, faces: Tensor, mix: _Mix, frames: slice, group: Mapping[str, Tensor], place: Rectangle
    ) -> Tensor:
        """Lay faces into the base frames of one avatar.

        Args:
            faces: [F, 3, SIDE, SIDE] RGB from 0 to 1; those of the frames to draw are painted.
            mix: which of them make the step's frames.
            frames: the T frames to draw, of the step's.
            group: the avatar's tensors.
            place: its rectangle.

        Returns:
            [T, w * h * 3 / 2] uint8 I420.
        """
        face = faces.index_select(0, mix.before[frames]).float()
        if self._spec.fps > timing.NATIVE_FPS:
            share = mix.share[frames, None, None, None]
            face = torch.lerp(face, faces.index_select(0, mix.after[frames]).float(), share)
        shown = mix.base[frames] % len(group["boxes"])
        boxes, under, cover = (group[key].index_select(0, shown) for key in ("boxes", "base", "cover"))
        return blending.blended(under, blending.to_i420(blending.pasted(face, boxes, place)), cover)

    def _example(self, size: int) -> tuple[Tensor, Tensor]:
        """Return inputs of a batch, as `animate` gives them."""
        channels = int(self._networks.architecture.unet["in_channels"])
        latents = torch.zeros(size, channels, SIDE // 8, SIDE // 8, dtype=self._dtype, device=self._device)
        prompts = torch.zeros(
            size, ROWS * self._states, self._channels, dtype=self._dtype, device=self._device
        )
        return latents.contiguous(memory_format=self._networks.memory_format), prompts


class _Mix:
    """Which painted faces and base frames make the frames of a step's windows; T counts all its frames.

    Goes to the device at once and before the painting: a later copy would wait for all that is under way.

    Args:
        windows: those of an avatar lie together.
        natives: the faces that are painted for each.
        device: where frames are drawn.

    Attributes:
        before: [T] int64, ascending: the earlier face, of those of all windows.
        after: [T] int64, ascending: the later one, the same where there is none.
        share: [T] float32: how much of the later one.
        base: [T] int64: the base frame, not reduced modulo L.
        num_frames: of each avatar, in turn.
    """

    def __init__(
        self, windows: Sequence[Window], natives: Sequence[NativeFrames], device: torch.device
    ) -> None:
        first_faces = np.cumsum([0, *(native.count for native in natives)])[:-1]
        self._before = np.concatenate(
            [native.before + first for native, first in zip(natives, first_faces, strict=True)]
        )
        share = np.concatenate([native.share for native in natives])
        self._after = self._before + (share > 0)
        base = np.concatenate([np.arange(w.base_frame, w.base_frame + w.num_frames) for w in windows])
        self.before, self.after, self.share, self.base = (
            torch.from_numpy(values).to(device) for values in (self._before, self._after, share, base)
        )
        self.num_frames: dict[str, int] = {}
        for window in windows:
            self.num_frames[window.avatar_id] = self.num_frames.get(window.avatar_id, 0) + window.num_frames

    def drawable(self, num_faces: int) -> int:
        """Return how many frames, from the first on, need only the first `num_faces` faces."""
        return int(np.searchsorted(self._after, num_faces))

    def of_avatars(self, begin: int, end: int) -> Iterator[tuple[str, slice]]:
        """Yield the avatars of the frames from `begin` to `end`, each with its own of them."""
        at = 0
        for avatar_id, count in self.num_frames.items():
            mine = slice(max(at, begin), min(at + count, end))
            at += count
            if mine.start < mine.stop:
                yield avatar_id, mine

    def whole(self, finite: npt.NDArray[np.bool_]) -> list[bool]:
        """Return for each frame whether its faces are numbers, as `finite` says of each face."""
        return [bool(whole) for whole in finite[self._before] & finite[self._after]]
