"""Three small networks: stitching keeps the shoulders in place, retargeting opens lips and eyes by ratios."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from serve_app.models.liveportrait.sizes import NUM_KEYPOINTS

_POINTS = 3 * NUM_KEYPOINTS

LIP_OPEN = 0.03
"""Lip ratio from which a source's mouth counts as open, and is shut before it is driven."""


class Perceptron(nn.Module):
    """Linear layers with rectifiers between them.

    Args:
        widths: inputs, hidden layers and outputs.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        for inputs, outputs in itertools.pairwise(widths):
            self.mlp.append(nn.Linear(inputs, outputs))
            self.mlp.append(nn.ReLU())
        self.mlp.pop(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs] for [B, inputs]."""
        return self.mlp(x)


class Stitcher(nn.Module):
    """The three networks; they are the same at every size of the others.

    Attributes:
        stitching: source and driving keypoints to offsets.
        lip: source keypoints, its ratio and the wanted one to offsets.
        eye: source keypoints, its two ratios and the wanted one to offsets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stitching = Perceptron((2 * _POINTS, 128, 128, 64, _POINTS + 2))
        self.lip = Perceptron((_POINTS + 2, 128, 128, 64, _POINTS))
        self.eye = Perceptron((_POINTS + 3, 256, 256, 128, 128, 64, _POINTS))

    def stitch(self, x_source: Tensor, x_driving: Tensor) -> Tensor:
        """Return driving keypoints that leave the picture's edge where it is, [B, K, 3]."""
        source = x_source.expand_as(x_driving)
        offsets = self.stitching(torch.cat([source.flatten(1), x_driving.flatten(1)], dim=1))
        moved = x_driving + offsets[:, :_POINTS].unflatten(1, (NUM_KEYPOINTS, 3))
        shift = torch.cat([offsets[:, _POINTS:], torch.zeros_like(offsets[:, :1])], dim=1)
        return moved + shift[:, None]

    def lips(self, x_source: Tensor, ratio: Tensor, wanted: Tensor) -> Tensor:
        """Return how keypoints move to open the lips.

        Args:
            x_source: [1, K, 3].
            ratio: [1, 1] the source's.
            wanted: [B, 1].

        Returns:
            [B, K, 3].
        """
        return _offsets(self.lip, x_source, ratio, wanted)

    def eyes(self, x_source: Tensor, ratios: Tensor, wanted: Tensor) -> Tensor:
        """Return how keypoints move to open the eyes.

        Args:
            x_source: [1, K, 3].
            ratios: [1, 2] the source's, left and right.
            wanted: [B, 1].

        Returns:
            [B, K, 3].
        """
        return _offsets(self.eye, x_source, ratios, wanted)


def _offsets(network: Perceptron, x_source: Tensor, ratio: Tensor, wanted: Tensor) -> Tensor:
    inputs = torch.cat([x_source.flatten(1), ratio], dim=1).expand(len(wanted), -1)
    return network(torch.cat([inputs, wanted], dim=1)).unflatten(1, (NUM_KEYPOINTS, 3))


def shut(stitcher: Stitcher, x_source: Tensor, ratio: Tensor) -> Tensor:
    """Return the offsets that shut a source's mouth, [1, K, 3]: none where it is shut already."""
    offsets = stitcher.lips(x_source, ratio, torch.zeros_like(ratio))
    return offsets * (ratio >= LIP_OPEN)[:, :, None]
