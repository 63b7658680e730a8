"""The generator: warped features to a picture, modulated by them at every layer (SPADE, arXiv 1903.07291)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.layers import SpectralConv2d
from serve_app.models.liveportrait.shortcuts import NearestConv
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
        return _normed(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class SpadeBlock(nn.Module):
    """Two modulated convolutions, and a shortcut that is convolved where the channels change.

    Args:
        inputs: channels in.
        outputs: channels out.
        guide: channels of the guide.
        hidden: channels within a modulation.
        up: how much larger than its input the block's output is.
        guide_up: how much larger than the guide.
    """

    def __init__(
        self, inputs: int, outputs: int, guide: int, hidden: int, *, up: int = 1, guide_up: int = 1
    ) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.up, self.guide_up = up, guide_up
        self.conv_0 = SpectralConv2d(inputs, middle, 3)
        self.conv_1 = SpectralConv2d(middle, outputs, 3)
        self.norm_0 = Spade(inputs, guide, hidden)
        self.norm_1 = Spade(middle, guide, hidden)
        self.changes = inputs != outputs
        if self.changes:
            self.conv_s = SpectralConv2d(inputs, outputs, 1, bias=False)
            self.norm_s = Spade(inputs, guide, hidden)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return [B, C', up * H, up * W] for [B, C, H, W] and a guide [B, G, h, w]."""
        x, guide = _enlarged(x, self.up), _enlarged(guide, self.guide_up)
        inner = self.conv_0(functional.leaky_relu(self.norm_0(x, guide), SLOPE))
        inner = self.conv_1(functional.leaky_relu(self.norm_1(inner, guide), SLOPE))
        shortcut = self.conv_s(self.norm_s(x, guide)) if self.changes else x
        return shortcut + inner


class FoldedBlock(nn.Module):
    """A SpadeBlock of the same effect with effective weights and fewer, wider convolutions.

    The guide's convolutions are one; gamma and beta are one; statistics are taken before pixels are
    repeated, for that does not change them.

    Args:
        block: loaded, on the CPU.
    """

    def __init__(self, block: SpadeBlock) -> None:
        super().__init__()
        self._up, self._changes = block.up, block.changes
        norms = [block.norm_0, block.norm_1, *([block.norm_s] if block.changes else [])]
        firsts = [norm.mlp_shared.get_submodule("0") for norm in norms]
        weight = torch.cat([first.get_parameter("weight") for first in firsts])
        bias = torch.cat([first.get_parameter("bias") for first in firsts])
        if block.guide_up > 1:
            self.shared: nn.Module = NearestConv(weight, bias, block.guide_up, len(norms))
        else:
            self.shared = _conv(weight, bias)
        self.modulations = nn.ModuleList(_modulation(norm) for norm in norms)
        self.conv_0, self.conv_1 = block.conv_0.folded(), block.conv_1.folded()
        if self._changes:
            self.conv_s = block.conv_s.folded()

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return what the block returns."""
        hidden = self.shared(guide)
        if isinstance(hidden, Tensor):
            hidden = functional.relu(hidden).chunk(len(self.modulations), dim=1)
        scaled = [modulation(part) for modulation, part in zip(self.modulations, hidden, strict=True)]
        normed = _enlarged(_normed(x), self._up)
        inner = self.conv_0(functional.leaky_relu(_scaled(normed, scaled[0]), SLOPE))
        inner = self.conv_1(functional.leaky_relu(_scaled(_normed(inner), scaled[1]), SLOPE))
        shortcut = self.conv_s(_scaled(normed, scaled[2])) if self._changes else x
        return shortcut + inner


class Generator(nn.Module):
    """Warped features to a picture of eight times their resolution."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        guide, hidden = sizes.warped, sizes.spade
        self.fc = nn.Conv2d(guide, 2 * guide, 3, padding=1)
        self._blocks = [*(f"G_middle_{number}" for number in range(sizes.middle_blocks)), "up_0", "up_1"]
        for name in self._blocks[:-2]:
            self.add_module(name, SpadeBlock(2 * guide, 2 * guide, guide, hidden))
        self.up_0: nn.Module = SpadeBlock(2 * guide, guide, guide, hidden, up=2, guide_up=2)
        self.up_1: nn.Module = SpadeBlock(guide, sizes.generator, guide, hidden, up=2, guide_up=4)
        self.conv_img = nn.Sequential(nn.Conv2d(sizes.generator, 3 * 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, warped: Tensor) -> Tensor:
        """Return pictures, [B, 3, 8h, 8w] RGB in [0, 1], for [B, C, h, w]."""
        x = self.fc(warped)
        for name in self._blocks:
            x = self.get_submodule(name)(x, warped)
        return self.conv_img(functional.leaky_relu(x, SLOPE)).sigmoid()

    def fold(self) -> None:
        """Replace the blocks by folded ones; a second call changes nothing."""
        for name in self._blocks:
            block = self.get_submodule(name)
            if isinstance(block, SpadeBlock):
                setattr(self, name, FoldedBlock(block))


def _enlarged(x: Tensor, factor: int) -> Tensor:
    """Return a map whose pixels are repeated."""
    return x if factor == 1 else functional.interpolate(x, scale_factor=float(factor))


def _normed(x: Tensor) -> Tensor:
    """Return [B, C, H, W] normed over its places.

    Statistics are taken in float32: squares of half-precision features overflow.
    """
    variance, mean = torch.var_mean(x.float(), dim=(2, 3), keepdim=True, correction=0)
    return (x - mean.to(x.dtype)) * torch.rsqrt(variance + EPSILON).to(x.dtype)


def _scaled(normed: Tensor, modulation: Tensor) -> Tensor:
    """Return normed * scale + shift; the modulation [B, 2 C, H, W] holds both."""
    scale, shift = modulation.chunk(2, dim=1)
    return torch.addcmul(shift, normed, scale)


@torch.no_grad()
def _modulation(norm: Spade) -> nn.Conv2d:
    """Return one convolution for 1 + gamma and beta."""
    weights = [norm.mlp_gamma.weight, norm.mlp_beta.weight]
    gamma, beta = (part.get_parameter("bias") for part in (norm.mlp_gamma, norm.mlp_beta))
    return _conv(torch.cat(tuple(weights)), torch.cat([1.0 + gamma, beta]))


@torch.no_grad()
def _conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
    conv.weight.copy_(weight)
    if conv.bias is not None:
        conv.bias.copy_(bias)
    return conv
