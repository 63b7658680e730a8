"""The model `liveportrait`: a photograph that hears speech and moves as LivePortrait moves faces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.errors import AvatarInvalid
from serve_app.models import hearing, idle
from serve_app.models.base import ModelSpec
from serve_app.models.drawing.place import Rectangle
from serve_app.models.liveportrait import crop, driving, keypoints, pasting
from serve_app.models.liveportrait.driving import Driver
from serve_app.models.liveportrait.networks import NAME, Networks, load
from serve_app.models.neural.batching import COMPILE, EAGER, BucketedStep
from serve_app.models.neural.guard import broken_windows, finite_frames
from serve_app.models.neural.landing import Copies, clips
from serve_app.models.neural.residency import Residency
from serve_app.models.refusal import animated, prepared_of, refusal
from serve_app.nouns import BaseLoop, Clip, ClipFailure, UInt8, Window

logger = logging.getLogger("serve_app.models")

CUDA_BUCKETS = (2, 4, 8, 16)
"""Batch sizes on a GPU; each is compiled before the first session."""

CPU_BUCKETS = tuple(range(1, 9))
"""Batch sizes on a CPU, where nothing is compiled and padding only costs."""

RESIDENT_BYTES = 2 * 1_073_741_824
"""Avatars' tensors on the card: about 120 avatars of 16 MB each."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    base_loop: BaseLoop
    driver: Driver
    place: Rectangle


class LivePortrait:
    """A photograph that speaks.

    Args:
        fps: frames per second; the networks have no rate of their own.
        device: "cpu" or "cuda", as torch names them.
        weights: a folder in the published layout, None for the pulled one, or "random" for tests.
        mode: how batches run: "eager", "compile" or "graphs"; None for "compile" on a GPU and "eager"
            elsewhere.
        buckets: batch sizes; None for the device's.

    Raises:
        ModelNotLoaded: weights are missing, damaged or of another version; the text names all.
        ModelOutOfMemory: the device cannot hold one picture.
    """

    def __init__(
        self,
        *,
        fps: int,
        device: str,
        weights: str | None = None,
        mode: str | None = None,
        buckets: Sequence[int] | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._networks = load(weights, self._device)
        self._hearing = hearing.Hearing(fps, self._device)
        is_gpu = self._device.type == "cuda"
        self._step = BucketedStep(
            self._networks.picture,
            buckets=buckets or (CUDA_BUCKETS if is_gpu else CPU_BUCKETS),
            device=self._device,
            mode=mode or (COMPILE if is_gpu else EAGER),
        )
        # Avatars are prepared in another thread than windows are animated in.
        self._one_step = threading.Lock()
        self._copies = Copies(self._device)
        self._resident = Residency(self._device, RESIDENT_BYTES)
        self._avatars: dict[str, _Prepared] = {}
        self._spec = ModelSpec(
            name=NAME,
            left_context=hearing.LEFT_CONTEXT,
            lookahead=hearing.lookahead(fps),
            fps=fps,
            width=SIZE,
            height=SIZE,
        )
        if self._step.mode != EAGER:
            self._step.warm(self._example)

    @property
    def spec(self) -> ModelSpec:
        """What callers must know to cut windows."""
        return self._spec

    @property
    def networks(self) -> Networks:
        """The networks, for measuring."""
        return self._networks

    @torch.inference_mode()
    def prepare(self, bundle: AvatarBundle) -> None:
        """Look at the portrait once, and render the base loop with the networks themselves."""
        networks, device, fps = self._networks, self._device, self._spec.fps
        face = bundle.landmarks
        square = crop.square(
            crop.points_of(face), crop.centres_of(face), crop.SOURCE_SCALE, crop.SOURCE_SHIFT
        )
        picture = pasting.cut(bundle, square, networks.sizes.image, device)
        feature = networks.appearance(picture)
        source = keypoints.read(networks.motion(picture))
        held = driving.idle(bundle.motion, idle.num_frames(fps), fps, square.side, device)
        driver = Driver(source, crop.ratios_of(face), networks.stitcher, held)
        pasted = pasting.pasting(bundle, square, networks.sizes.output, device)
        group = {
            "feature": feature.float().contiguous(),
            "compressed": networks.warping.compressed(feature).contiguous(),
            "x_source": driver.x_source,
            **pasted.tensors,
        }
        if not all(tensor.isfinite().all() for tensor in group.values()):
            raise AvatarInvalid(
                f"avatar {bundle.avatar_id!r}: expected a face, found features that are no numbers"
            )
        self._resident.put(bundle.avatar_id, group)
        index = torch.arange(driver.length, device=device)
        drawn, finite = self._draw([(bundle.avatar_id, driver.rest(index))])
        if not all(finite):
            raise AvatarInvalid(
                f"avatar {bundle.avatar_id!r}: expected pictures, found values that are no numbers"
            )
        frames = pasting.inlaid(pasting.still(bundle), drawn[bundle.avatar_id], pasted.place)
        loop = BaseLoop(bundle.avatar_id, SIZE, SIZE, fps, frames)
        self._avatars[bundle.avatar_id] = _Prepared(loop, driver, pasted.place)

    def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return the idle motion of a prepared avatar.

        Raises:
            AvatarInvalid: the avatar was not prepared.
        """
        return prepared_of(self._avatars, avatar_id).base_loop

    @torch.inference_mode()
    def animate(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        """Turn a batch of windows into clips: one hearing for all, batches that mix avatars.

        A window with a frame that is no numbers fails alone, so its session shows the base loop.

        Raises:
            ModelOutOfMemory: the device cannot hold one picture now; a later call may succeed.
        """
        fps = self._spec.fps
        return animated(windows, lambda window: refusal(window, fps, self._avatars), self._clips)

    def _clips(self, windows: Sequence[Window]) -> list[Clip | ClipFailure]:
        drawn, finite = self._draw(self._moved(windows))
        places = {avatar_id: self._avatars[avatar_id].place for avatar_id in drawn}
        return clips(windows, broken_windows(windows, finite), drawn, places)

    def _moved(self, windows: Sequence[Window]) -> list[tuple[str, Tensor]]:
        """Return avatars and the keypoints [F, K, 3] of their frames; windows of an avatar lie together."""
        heard = self._hearing.listen(windows)
        moved = []
        at = 0
        for avatar_id in dict.fromkeys(window.avatar_id for window in windows):
            avatar = self._avatars[avatar_id]
            spans = [
                torch.arange(window.base_frame, window.base_frame + window.num_frames)
                for window in windows
                if window.avatar_id == avatar_id
            ]
            index = torch.cat(spans).to(self._device) % avatar.driver.length
            moved.append((avatar_id, avatar.driver.speak(index, heard[at : at + len(index)])))
            at += len(index)
        return moved

    def _draw(self, moved: Sequence[tuple[str, Tensor]]) -> tuple[dict[str, UInt8], list[bool]]:
        """Draw the frames of some avatars, a device batch at a time.

        Args:
            moved: avatars and the keypoints [F, K, 3] of their frames.

        Returns:
            [F, h * w * 3 // 2] for each avatar, and for each frame of all whether it is numbers.
        """
        names = [name for name, x_driving in moved for _ in range(len(x_driving))]
        points = torch.cat([x_driving for _, x_driving in moved])
        landing = self._copies.landing({name: len(x_driving) for name, x_driving in moved})
        finite = []
        largest = self._step.buckets[-1]
        for at in range(0, len(names), largest):
            inside = names[at : at + largest]
            pictures = self._pictures(inside, points[at : at + largest])
            finite.append(finite_frames(pictures))
            start = 0
            for name in dict.fromkeys(inside):
                count = inside.count(name)
                landing.add(name, pasting.paste(pictures[start : start + count], self._resident.get(name)))
                start += count
        is_finite = torch.cat(finite).tolist()
        return landing.arrays(), is_finite

    def _pictures(self, names: Sequence[str], x_driving: Tensor) -> Tensor:
        groups = {name: self._resident.get(name) for name in dict.fromkeys(names)}
        inputs = [
            torch.cat(
                [
                    group[part].expand(names.count(name), *group[part].shape[1:])
                    for name, group in groups.items()
                ]
            )
            for part in ("feature", "compressed", "x_source")
        ]
        with self._one_step:
            return self._step(*inputs, x_driving)

    def _example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of `Networks.picture` for warming up."""
        sizes = self._networks.sizes
        volume = (sizes.depth, sizes.grid, sizes.grid)
        shapes = ((sizes.volume, *volume), (sizes.compress, *volume), (21, 3), (21, 3))
        return tuple(torch.zeros(batch, *shape, device=self._device) for shape in shapes)
