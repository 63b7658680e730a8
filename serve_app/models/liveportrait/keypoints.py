"""Implicit keypoints: how pose and expression move them (LivePortrait, section 3.1 and its inference code).

Letters: B batch, K = NUM_KEYPOINTS. Points are rows (x, y, z); a picture spans -1 to 1, y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from serve_app.models.liveportrait.sizes import NUM_KEYPOINTS

LIP_POINTS = (6, 12, 14, 17, 19, 20)
"""Keypoints that move the lips."""

EYE_POINTS = (11, 13, 15, 16, 18)
"""Keypoints that move the eyes."""

_ABSOLUTE_POINTS = (1, 2, 6, *range(11, NUM_KEYPOINTS))
_ABSOLUTE_PARTS = {3: (1,), 4: (1,), 5: (2,), 8: (2,), 9: (1, 2)}
"""What absolute motion takes of the driving expression: whole points, and some axes of others."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Keypoints, expression and pose of heads, float32.

    Attributes:
        kp: [B, K, 3] canonical keypoints.
        exp: [B, K, 3] how the expression moves them.
        pitch: [B] degrees.
        yaw: [B] degrees.
        roll: [B] degrees.
        scale: [B, 1].
        t: [B, 3] translation; z is never used.
    """

    kp: Tensor
    exp: Tensor
    pitch: Tensor
    yaw: Tensor
    roll: Tensor
    scale: Tensor
    t: Tensor

    @property
    def rotation(self) -> Tensor:
        """The pose as [B, 3, 3]."""
        return rotation(self.pitch, self.yaw, self.roll)


def read(heads: Mapping[str, Tensor]) -> Motion:
    """Return the motion that the extractor's outputs stand for."""
    outputs = {name: values.float() for name, values in heads.items()}
    return Motion(
        kp=outputs["kp"].reshape(-1, NUM_KEYPOINTS, 3),
        exp=outputs["exp"].reshape(-1, NUM_KEYPOINTS, 3),
        pitch=degrees(outputs["pitch"]),
        yaw=degrees(outputs["yaw"]),
        roll=degrees(outputs["roll"]),
        scale=outputs["scale"],
        t=outputs["t"],
    )


def row(motion: Motion, number: int) -> Motion:
    """Return one head of a batch, as a batch of one."""
    return Motion(*(getattr(motion, field.name)[number : number + 1] for field in fields(Motion)))


def degrees(scores: Tensor) -> Tensor:
    """Return angles, [B], from scores of classes 3 degrees apart, [B, 66]: their expectation."""
    classes = torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device)
    return 3.0 * (scores.softmax(dim=1) * classes).sum(dim=1) - 97.5


def rotation(pitch: Tensor, yaw: Tensor, roll: Tensor) -> Tensor:
    """Return the matrices by which points, as rows, are multiplied from the right.

    Args:
        pitch: [B] degrees about x.
        yaw: [B] degrees about y.
        roll: [B] degrees about z.

    Returns:
        [B, 3, 3]: the transpose of Rz Ry Rx.
    """
    (sx, sy, sz), (cx, cy, cz) = (
        [function(torch.deg2rad(angle)) for angle in (pitch, yaw, roll)]
        for function in (torch.sin, torch.cos)
    )
    zero, one = torch.zeros_like(sx), torch.ones_like(sx)
    about_x = _matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = _matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = _matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return (about_z @ about_y @ about_x).transpose(1, 2)


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def place(kp: Tensor, turn: Tensor, exp: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    """Return where keypoints stand in the picture.

    Args:
        kp: [B, K, 3] canonical.
        turn: [B, 3, 3] as of `rotation`.
        exp: [B, K, 3].
        scale: [B, 1].
        t: [B, 3]; z counts as 0.

    Returns:
        [B, K, 3]: scale * (kp @ turn + exp) + t.
    """
    flat = torch.cat([t[:, :2], torch.zeros_like(t[:, 2:])], dim=1)
    return scale[:, :, None] * (kp @ turn + exp) + flat[:, None]


def transform(motion: Motion) -> Tensor:
    """Return a head's keypoints in its own picture, [B, K, 3]."""
    return place(motion.kp, motion.rotation, motion.exp, motion.scale, motion.t)


def relative(source: Motion, first: Motion, current: Motion) -> Tensor:
    """Return the source's keypoints moved as the driving head has moved since its first frame, [B, K, 3]."""
    turn = current.rotation @ first.rotation.transpose(1, 2) @ source.rotation
    return place(
        source.kp,
        turn,
        source.exp + current.exp - first.exp,
        source.scale * current.scale / first.scale,
        source.t + current.t - first.t,
    )


def absolute(source: Motion, current: Motion) -> Tensor:
    """Return the source's keypoints in the driving head's pose and expression, [B, K, 3].

    The scale is the source's, and so are the parts of the expression that carry identity.
    """
    exp = source.exp.expand_as(current.exp).clone()
    exp[:, _ABSOLUTE_POINTS] = current.exp[:, _ABSOLUTE_POINTS]
    for point, axes in _ABSOLUTE_PARTS.items():
        exp[:, point, axes] = current.exp[:, point, axes]
    return place(source.kp, current.rotation, exp, source.scale, current.t)


def turned(source: Motion, pitch: Tensor, yaw: Tensor, roll: Tensor) -> Tensor:
    """Return the pose of a head turned further, [B, 3, 3].

    Args:
        source: one head.
        pitch: [B] degrees more.
        yaw: [B] degrees more.
        roll: [B] degrees more.
    """
    return replace(source, pitch=source.pitch + pitch, yaw=source.yaw + yaw, roll=source.roll + roll).rotation


def multiplied(x_source: Tensor, x_driving: Tensor, multiplier: float) -> Tensor:
    """Return driving keypoints that stand `multiplier` times as far from the source's, [B, K, 3]."""
    return x_source + (x_driving - x_source) * multiplier
