"""The motion extractor: a ConvNeXt V2 (Woo et al., arXiv 2301.00808) with heads for keypoints and pose."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.sizes import NUM_KEYPOINTS, Sizes

BINS = 66
"""Classes of an angle."""

HEADS = {
    "kp": 3 * NUM_KEYPOINTS,
    "exp": 3 * NUM_KEYPOINTS,
    "t": 3,
    "scale": 1,
    "pitch": BINS,
    "yaw": BINS,
    "roll": BINS,
}
"""Outputs of the network and how long they are."""

EPSILON = 1e-6
"""Of every layer norm and of the global response norm."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, input: Tensor) -> Tensor:
        """Return the shape of `input`."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Lets the channels of each sample compete: x * |x| / mean|x|, scaled, shifted, added to x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`, [B, H, W, C]."""
        length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = length / (length.mean(dim=3, keepdim=True) + EPSILON)
        return self.gamma * (x * share) + self.beta + x


class Block(nn.Module):
    """A depthwise 7x7 convolution and a two-layer network on each pixel, around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`, [B, C, H, W]."""
        inner = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        inner = self.pwconv2(self.grn(functional.gelu(self.pwconv1(inner))))
        return inner.permute(0, 3, 1, 2) + x


class Detector(nn.Module):
    """The backbone and its heads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = sizes.motion_widths
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0]))]
        )
        for before, after in itertools.pairwise(widths):
            halving = nn.Conv2d(before, after, 2, stride=2)
            self.downsample_layers.append(nn.Sequential(ChannelNorm(before), halving))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth)))
            for depth, width in zip(sizes.motion_depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=EPSILON)
        for name, length in HEADS.items():
            self.add_module(f"fc_{name}", nn.Linear(widths[-1], length))

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """Return the heads' outputs, [B, n] each."""
        features = picture
        for halving, stage in zip(self.downsample_layers, self.stages, strict=True):
            features = stage(halving(features))
        pooled = self.norm(features.mean(dim=(2, 3)))
        return {name: self.get_submodule(f"fc_{name}")(pooled) for name in HEADS}


class MotionExtractor(nn.Module):
    """Picture to keypoints, expression and pose; it runs once for each avatar."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.detector = Detector(sizes)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """Return the outputs of HEADS.

        Args:
            picture: [B, 3, S, S] RGB in [0, 1].

        Returns:
            [B, n] each; angles as scores of BINS classes.
        """
        return self.detector(picture)
