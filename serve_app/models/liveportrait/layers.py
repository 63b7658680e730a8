"""Layers that the networks share, and how stored statistics are folded into their weights.

A network is built so that the official state dict fits it; after loading, `fold` replaces each convolution
and what rescales its output by one convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Module):
    """A convolution, batch norm with stored statistics, and an activation.

    Args:
        conv: the convolution.
        norm: batch norm of its output.
        activation: what follows.
    """

    def __init__(
        self,
        conv: nn.Conv2d | nn.Conv3d,
        norm: nn.Module,
        activation: Callable[[Tensor], Tensor] = functional.relu,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', ...] of the same extent."""
        return self._activation(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Put the norm into the convolution; a second call changes nothing."""
        if isinstance(self.norm, nn.BatchNorm2d | nn.BatchNorm3d):
            fold_norm(self.conv, self.norm)
            self.norm = nn.Identity()


def conv_norm_2d(inputs: int, outputs: int, slope: float = 0.0) -> ConvNorm:
    """Return a 3x3 ConvNorm with a (leaky) rectifier."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return ConvNorm(conv, nn.BatchNorm2d(outputs), _rectifier(slope))


def conv_norm_3d(inputs: int, outputs: int) -> ConvNorm:
    """Return a 3x3x3 ConvNorm with a rectifier."""
    return ConvNorm(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs))


def _rectifier(slope: float) -> Callable[[Tensor], Tensor]:
    if slope == 0.0:
        return functional.relu
    return lambda x: functional.leaky_relu(x, slope)


@torch.no_grad()
def fold_norm(conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
    """Scale a convolution's weights, in float64, so that it gives what conv and norm give in eval mode.

    Raises:
        ValueError: the norm keeps no statistics.
    """
    if norm.running_var is None or norm.running_mean is None or conv.bias is None:
        raise ValueError("expected a biased convolution and a norm with stored statistics, found none")
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    weight = conv.weight.double() * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)


class SpectralConv2d(nn.Module):
    """A convolution divided by its spectral norm, with the names of torch's first spectral norm.

    The norm is u . (W v) with the stored u and v; nothing is iterated (Miyato et al., arXiv 1802.05957).
    `fold` computes it once.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd side of the kernel; the extent is kept.
        bias: whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_orig = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.register_buffer("weight_u", torch.zeros(outputs))
        self.register_buffer("weight_v", torch.zeros(inputs * kernel * kernel))
        self.weight_u: Tensor
        self.weight_v: Tensor

    def weight(self) -> Tensor:
        """Return the effective weight, [C', C, k, k]."""
        norm = torch.dot(self.weight_u, torch.mv(self.weight_orig.flatten(1), self.weight_v))
        return self.weight_orig / norm

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', H, W]."""
        return functional.conv2d(x, self.weight(), self.bias, padding=self.weight_orig.shape[2] // 2)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """Return a plain convolution of the same effect."""
        outputs, inputs, kernel, _ = self.weight_orig.shape
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=self.bias is not None)
        conv.weight.copy_(self.weight())
        if conv.bias is not None and self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv
