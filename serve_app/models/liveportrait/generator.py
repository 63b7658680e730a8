"""The generator: warped features to a picture, modulated by them at every layer (SPADE, arXiv 1903.07291)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.layers import SpectralConv2d
from serve_app.models.liveportrait.sizes import Sizes

EPSILON = 1e-5
"""Of the instance norm."""

SLOPE = 0.2
"""Of the leaky rectifiers."""


class Spade(nn.Module):
    """Instance norm whose scale and shift are convolved from a guide."""

    def __init__(self, channels: int, guide: int, hidden: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(guide, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return the shape of `x`, [B, C, H, W]; the guide is [B, G, H, W]."""
        hidden = self.mlp_shared(guide)
        return modulated(x, self.mlp_gamma(hidden), self.mlp_beta(hidden))


def modulated(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Return x, normed over its places, times 1 + gamma, plus beta; all [B, C, H, W].

    Statistics are taken in float32: squares of half-precision features overflow.
    """
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
    scale = torch.rsqrt(variance + EPSILON)
    normed = (x - mean.to(x.dtype)) * scale.to(x.dtype)
    return torch.addcmul(normed + beta, normed, gamma)


class SpadeBlock(nn.Module):
    """Two modulated convolutions, and a shortcut that is convolved where the channels change."""

    def __init__(self, inputs: int, outputs: int, guide: int, hidden: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.conv_0: nn.Module = SpectralConv2d(inputs, middle, 3)
        self.conv_1: nn.Module = SpectralConv2d(middle, outputs, 3)
        self.norm_0 = Spade(inputs, guide, hidden)
        self.norm_1 = Spade(middle, guide, hidden)
        self._changes = inputs != outputs
        if self._changes:
            self.conv_s: nn.Module = SpectralConv2d(inputs, outputs, 1, bias=False)
            self.norm_s = Spade(inputs, guide, hidden)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return [B, C', H, W] for [B, C, H, W] and a guide [B, G, h, w] that is resized."""
        near = functional.interpolate(guide, size=x.shape[2:])
        inner = self.conv_0(functional.leaky_relu(self.norm_0(x, near), SLOPE))
        inner = self.conv_1(functional.leaky_relu(self.norm_1(inner, near), SLOPE))
        shortcut = self.conv_s(self.norm_s(x, near)) if self._changes else x
        return shortcut + inner

    def fold(self) -> None:
        """Compute the effective weights once."""
        for name, module in list(self.named_children()):
            if isinstance(module, SpectralConv2d):
                setattr(self, name, module.folded())


class Generator(nn.Module):
    """Warped features to a picture of eight times their resolution."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        guide, hidden = sizes.warped, sizes.spade
        self.fc = nn.Conv2d(guide, 2 * guide, 3, padding=1)
        self._middle = [f"G_middle_{number}" for number in range(sizes.middle_blocks)]
        for name in self._middle:
            self.add_module(name, SpadeBlock(2 * guide, 2 * guide, guide, hidden))
        self.up_0 = SpadeBlock(2 * guide, guide, guide, hidden)
        self.up_1 = SpadeBlock(guide, sizes.generator, guide, hidden)
        self.conv_img = nn.Sequential(nn.Conv2d(sizes.generator, 3 * 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, warped: Tensor) -> Tensor:
        """Return pictures, [B, 3, 8h, 8w] RGB in [0, 1], for [B, C, h, w]."""
        x = self.fc(warped)
        for name in self._middle:
            x = self.get_submodule(name)(x, warped)
        x = self.up_0(functional.interpolate(x, scale_factor=2.0), warped)
        x = self.up_1(functional.interpolate(x, scale_factor=2.0), warped)
        return self.conv_img(functional.leaky_relu(x, SLOPE)).sigmoid()

    def fold(self) -> None:
        """Compute the effective weights of all blocks once."""
        for module in self.children():
            if isinstance(module, SpadeBlock):
                module.fold()
