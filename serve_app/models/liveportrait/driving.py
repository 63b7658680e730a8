"""What our hearing moves in a head of implicit keypoints.

Published knowledge of which keypoint moves what is that of the sliders of LivePortrait's own editor
(`update_delta_new_*` in KwaiVGI/LivePortrait, MIT), which are those of ComfyUI-AdvancedLivePortrait's
`calc_fe` (PowerHouseMan, MIT): offsets of single coordinates, found by hand, that are added to the
expression. They are restated here as `SLIDERS`; `SHAPES` says how far each of our coefficients pushes them.
How far the lips and lids are apart is left to the retargeting networks, which were trained for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from serve_app.avatars.bundle import Motion as Stillness
from serve_app.models import blendshapes
from serve_app.models.liveportrait import keypoints
from serve_app.models.liveportrait.crop import Ratios
from serve_app.models.liveportrait.sizes import NUM_KEYPOINTS
from serve_app.models.liveportrait.stitching import Stitcher, shut

X, Y, Z = range(3)

SLIDERS: Mapping[str, Mapping[tuple[int, int], float]] = {
    "open": {(19, Y): 1e-3, (19, Z): 1e-4, (17, Y): -1e-4},
    "grin": {(20, Z): -1e-3, (20, Y): -1e-3, (14, Y): -1e-3},
    "purse": {(14, Y): 1e-3, (3, Y): -5e-4, (7, Y): -5e-4, (17, Z): -5e-4},
    "smile": {
        (20, Y): -1e-2,
        (14, Y): -2e-2,
        (17, Y): 6.5e-3,
        (17, Z): 3e-3,
        (13, Y): -2.75e-3,
        (16, Y): -2.75e-3,
        (3, Y): -3.5e-3,
        (7, Y): -3.5e-3,
    },
    "brow": {(1, Y): 1e-3, (2, Y): -1e-3},
}
"""Offset of a (keypoint, axis) for one unit of a slider.

In the editors' words: "open" is aaa or lip close <-> open, -90 to 120; "grin" is eee, 0 to 15 (below 0, the
mouth is pointed); "purse" is woo or pursing, -20 to 15; "smile" -0.3 to 1.3; "brow" raises them, 0 to 30.
"""

SHAPES: Mapping[str, Mapping[str, float]] = {
    "jawOpen": {"open": 45.0},
    "mouthClose": {"open": -30.0},
    "mouthFunnel": {"purse": 8.0, "open": 10.0, "grin": -4.0},
    "mouthPucker": {"purse": 13.0, "grin": -6.0},
    "mouthStretch": {"grin": 9.0, "purse": -5.0},
    "mouthSmile": {"smile": 0.7},
    "mouthRollLower": {"open": -10.0},
    "mouthRollUpper": {"open": -8.0, "purse": -3.0},
    "mouthPress": {"open": -14.0, "purse": -3.0},
    "mouthUpperUp": {"grin": 5.0},
    "mouthLowerDown": {"open": 6.0},
    "tongueOut": {"open": 6.0},
    "browInnerUp": {"brow": 14.0},
}
"""Units of each slider at the full extent of a coefficient. `headNod` turns the head instead."""

LIP_RATIO = 0.5
"""Lip ratio at an opening of 1: a wide "aa". The editor's slider of this ratio ends at 0.8."""

NOD_DEG = 3.0
"""Pitch at a full nod. A head of positive pitch looks down (ComfyUI-AdvancedLivePortrait, issue 32)."""


def expression_basis() -> Tensor:
    """Return how each coefficient moves the expression, [len(NAMES), K, 3]."""
    basis = torch.zeros(len(blendshapes.NAMES), NUM_KEYPOINTS, 3)
    for shape, pushes in SHAPES.items():
        for slider, units in pushes.items():
            for (point, axis), offset in SLIDERS[slider].items():
                basis[blendshapes.INDEX[shape], point, axis] += units * offset
    return basis


@dataclass(frozen=True, slots=True)
class Idle:
    """How a head is held in each frame of a loop, [L] each.

    Attributes:
        pitch: degrees more than in the portrait.
        yaw: degrees.
        roll: degrees.
        rise: how far breathing lifts the head, in units of keypoints.
        closed: how far the lids are closed, 0 to 1.
    """

    pitch: Tensor
    yaw: Tensor
    roll: Tensor
    rise: Tensor
    closed: Tensor

    def frames(self, index: Tensor) -> Idle:
        """Return some frames of the loop."""
        return Idle(*(getattr(self, field.name)[index] for field in fields(self)))


def idle(stillness: Stillness, length: int, fps: int, side: float, device: torch.device) -> Idle:
    """Return a motion that repeats after `length` frames: a head that sways, breathes and blinks.

    Args:
        stillness: how much of it the avatar wants; a head that is turned by one degree shifts its nose by
            about one pixel of the portrait.
        length: frames.
        fps: frames per second.
        side: pixels of the portrait that the networks see; keypoints span them from -1 to 1.
        device: where the tensors go.
    """
    phase = 2 * math.pi * torch.arange(length, dtype=torch.float64) / length
    head = stillness.head_px
    poses = Idle(
        pitch=head * (0.22 * torch.sin(phase + 2.6) + 0.14 * torch.sin(3 * phase + 0.2)),
        yaw=head * (0.5 * torch.sin(phase + 0.4) + 0.15 * torch.sin(2 * phase + 1.3)),
        roll=head * 0.2 * torch.sin(phase + 2.1),
        rise=stillness.breath_px * 0.5 * (1 - torch.cos(phase)) * 2 / side,
        closed=_blinks(stillness, length, fps),
    )
    return Idle(*(getattr(poses, field.name).float().to(device) for field in fields(poses)))


def _blinks(stillness: Stillness, length: int, fps: int) -> Tensor:
    """Return how far the lids are closed, [length]; they fall faster than they rise."""
    count = max(1, round(length / fps / stillness.blink_every_s))
    at_s = torch.arange(length, dtype=torch.float64) / fps
    closed = torch.zeros(length, dtype=torch.float64)
    for number in range(count):
        start_s = (number + 0.18 + 0.13 * (number % 2)) / count * length / fps
        share = ((at_s - start_s) / stillness.blink_s).clamp(0.0, 1.0)
        fall, rise = share / 0.38, (1 - share) / 0.62
        closing = torch.minimum(fall, rise).clamp(0.0, 1.0)
        closed = torch.maximum(closed, closing * closing * (3 - 2 * closing))
    return closed


class Driver:
    """Moves one source's keypoints.

    Args:
        source: its motion, a batch of one.
        ratios: how open its eyes and lips are.
        stitcher: the small networks, on the source's device.
        pace: how the head is held in the base loop.
    """

    def __init__(self, source: keypoints.Motion, ratios: Ratios, stitcher: Stitcher, pace: Idle) -> None:
        device = source.kp.device
        self._source = source
        self._stitcher = stitcher
        self._idle = pace
        self._basis = expression_basis().to(device).flatten(1)
        self._eyes = torch.tensor([[ratios.left_eye, ratios.right_eye]], device=device)
        self._lip = torch.tensor([[ratios.lip]], device=device)
        self.x_source = keypoints.transform(source)
        self._wide = self._eyes.mean(dim=1, keepdim=True)
        self._open_eyes = stitcher.eyes(self.x_source, self._eyes, self._wide)
        self._shut_lips = stitcher.lips(self.x_source, self._lip, torch.zeros_like(self._lip))
        self._at_rest = shut(stitcher, self.x_source, self._lip)

    @property
    def length(self) -> int:
        """Frames of the base loop."""
        return len(self._idle.pitch)

    def rest(self, index: Tensor) -> Tensor:
        """Return the keypoints of a silent head, [F, K, 3], at frames [F] of the base loop."""
        silence = torch.zeros(len(index), len(blendshapes.NAMES), device=index.device)
        return self.speak(index, silence)

    def speak(self, index: Tensor, coefficients: Tensor) -> Tensor:
        """Return the keypoints of a speaking head; coefficients of 0 give those of `rest`.

        Args:
            index: [F] int64 frames of the base loop.
            coefficients: [F, len(NAMES)] of `blendshapes`, float32.

        Returns:
            [F, K, 3].
        """
        held, source = self._idle.frames(index), self._source
        nod = NOD_DEG * coefficients[:, blendshapes.INDEX["headNod"]]
        turn = keypoints.turned(source, held.pitch + nod, held.yaw, held.roll)
        exp = source.exp + (coefficients @ self._basis).reshape(-1, NUM_KEYPOINTS, 3)
        lift = torch.stack([torch.zeros_like(held.rise), -held.rise, torch.zeros_like(held.rise)], dim=1)
        moved = keypoints.place(source.kp, turn, exp, source.scale, source.t + lift)
        return self._stitcher.stitch(
            self.x_source, moved + self._lids(held.closed) + self._lips(coefficients)
        )

    def _lids(self, closed: Tensor) -> Tensor:
        """Return offsets that close the eyes so far; none where they stand as in the portrait."""
        wanted = self._wide * (1 - closed[:, None])
        return self._stitcher.eyes(self.x_source, self._eyes, wanted) - self._open_eyes

    def _lips(self, coefficients: Tensor) -> Tensor:
        """Return offsets that open the lips as far as is heard.

        At rest they are those of a driven still picture: a mouth that is open in it gets shut.
        """
        wanted = LIP_RATIO * blendshapes.opening(coefficients)[:, None]
        opened = self._stitcher.lips(self.x_source, self._lip, wanted)
        return opened - self._shut_lips + self._at_rest
