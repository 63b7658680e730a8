"""Convolutions computed with less work, or in shapes that suit tensor cores; the sums stay the same.

Each is built from loaded weights after folding. Rounding differs, as the same terms are added in another
order; the golden tests hold for these too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ALIGNED = 8
"""Half-precision tensor cores want channels in multiples of this."""


def aligned(channels: int) -> int:
    """Return the next multiple of ALIGNED."""
    return -(-channels // ALIGNED) * ALIGNED


@torch.no_grad()
def widen(conv: nn.Conv2d | nn.Conv3d, *, inputs: int, outputs: int) -> None:
    """Give a convolution more channels, in place: those in are not looked at, those out are zero."""
    weight, bias = conv.weight, conv.bias
    more_in, more_out = inputs - weight.shape[1], outputs - weight.shape[0]
    around = (0, 0) * (weight.ndim - 2)
    conv.weight = nn.Parameter(
        functional.pad(weight, (*around, 0, more_in, 0, more_out)), weight.requires_grad
    )
    if bias is not None:
        conv.bias = nn.Parameter(functional.pad(bias, (0, more_out)), bias.requires_grad)
    conv.in_channels, conv.out_channels = inputs, outputs


class SlicedConv3d(nn.Module):
    """A convolution of a volume as one of its slices, whose outputs are added up along the depth.

    A kernel of depth k with few outputs becomes a flat one with k times as many, which fills a matrix unit.

    Args:
        conv: the convolution of a volume; it keeps the extent.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        outputs, inputs, depth, height, width = conv.weight.shape
        self._outputs, self._depth = outputs, depth
        self._room = aligned(outputs)
        self.flat = nn.Conv2d(
            inputs, self._room * depth, (height, width), padding=(height // 2, width // 2), bias=False
        )
        self.bias = nn.Parameter(torch.zeros(outputs))
        with torch.no_grad():
            slices = conv.weight.permute(2, 0, 1, 3, 4)  # [k, outputs, inputs, height, width]
            wide = functional.pad(slices, (0, 0, 0, 0, 0, 0, 0, self._room - outputs))
            self.flat.weight.copy_(wide.flatten(0, 1))
            if conv.bias is not None:
                self.bias.copy_(conv.bias)

    @property
    def weight(self) -> Tensor:
        """The flat kernel, for its type and device."""
        return self.flat.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', D, H, W] float32 for [B, C, D, H, W]."""
        batch, _, depth, height, width = x.shape
        slices = self.flat(x.transpose(1, 2).flatten(0, 1))
        parts = slices.reshape(batch, depth, self._depth, self._room, height, width)[:, :, :, : self._outputs]
        reach = self._depth // 2
        padded = functional.pad(parts, (*(0, 0) * 4, reach, reach))
        total = self.bias.float()[:, None, None]
        for number in range(self._depth):
            total = total + padded[:, number : number + depth, number]
        return total.transpose(1, 2)


class GatheredConv(nn.Module):
    """A wide kernel with one output over a flattened volume, as a product for each place of the kernel.

    Each place's product is one channel of a matrix product; moving the channels and adding them up is cheap.

    Args:
        conv: one output; its inputs are channels x depth, flattened.
        depth: depth of the volume.
        inputs: channels of the volume, which may be more than `conv` knows: those are not looked at.
    """

    def __init__(self, conv: nn.Conv2d, depth: int, inputs: int) -> None:
        super().__init__()
        self._kernel = conv.weight.shape[2]
        places = self._kernel**2
        self.products = nn.Conv3d(inputs, aligned(places), (depth, 1, 1), bias=False)
        self.bias = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            kernel = conv.weight[0].reshape(-1, depth, self._kernel, self._kernel)  # [C, D, k, k]
            # What is gathered at a place comes from the opposite side.
            turned = kernel.flip(2, 3).flatten(2).permute(2, 0, 1)  # [k * k, C, D]
            more = (0, 0, 0, inputs - turned.shape[1], 0, aligned(places) - places)
            self.products.weight.copy_(functional.pad(turned, more)[:, :, :, None, None])
            if conv.bias is not None:
                self.bias.copy_(conv.bias)

    @property
    def weight(self) -> Tensor:
        """The products' weights, for their type and device."""
        return self.products.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 1, H, W] float32 for a volume [B, C, D, H, W]."""
        products = self.products(x)[:, : self._kernel**2, 0].float()
        size = products.shape[2:]
        gathered = functional.fold(products.flatten(2), size, self._kernel, padding=self._kernel // 2)
        return gathered + self.bias.float()


class NearestConv(nn.Module):
    """A 3x3 convolution of a map that is enlarged by repeating its pixels, computed on the small map.

    A 3x3 window on an enlarged map covers at most 2x2 different pixels, and windows between the repeats'
    edges cover one. So each output row is one of three kinds (two when enlarged twofold), and so is each
    column: nine small convolutions replace one of factor^2 times as many places.

    Args:
        weight: [C', C, 3, 3].
        bias: [C'].
        factor: how often each pixel is repeated along each side, 2 or more.
        split: into how many tensors the channels that come out are divided.
    """

    def __init__(self, weight: Tensor, bias: Tensor, factor: int, split: int) -> None:
        super().__init__()
        self._split = split
        outputs, inputs = weight.shape[:2]
        kinds = {
            "before": (0, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])),
            "within": (1, torch.tensor([[1.0, 1.0, 1.0]])),
            "after": (1, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])),
        }
        if factor == 2:
            del kinds["within"]
        self._starts = [start for start, _ in kinds.values()]
        self._turns = [0, *[1] * (factor - 2), len(kinds) - 1]
        self.parts = nn.ModuleList()
        for _, rows in kinds.values():
            for _, columns in kinds.values():
                part = nn.Conv2d(inputs, outputs, (len(rows), len(columns)))
                with torch.no_grad():
                    # Taps that fall on the same pixel are added up.
                    part.weight.copy_(torch.einsum("ay,ocyx,bx->ocab", rows, weight, columns))
                    part.bias.copy_(bias)  # type: ignore[union-attr]
                self.parts.append(part)

    def forward(self, small: Tensor) -> list[Tensor]:
        """Return [B, C' / split, factor * H, factor * W] each, rectified, for the small map [B, C, H, W]."""
        padded = functional.pad(small, (1, 1, 1, 1))
        kinds = [
            [self._part(row, column, padded, down, right) for column, right in enumerate(self._starts)]
            for row, down in enumerate(self._starts)
        ]
        return [
            self._woven([[kind.chunk(self._split, dim=3)[number] for kind in row] for row in kinds])
            for number in range(self._split)
        ]

    def _woven(self, kinds: list[list[Tensor]]) -> Tensor:
        """Return the large map of the kinds of its rows and columns.

        Channels come last, as they do in memory on a GPU: then each copy is of whole pixels.
        """
        rows = [torch.stack([row[turn] for turn in self._turns], dim=3).flatten(2, 3) for row in kinds]
        whole = torch.stack([rows[turn] for turn in self._turns], dim=2).flatten(1, 2)
        return whole.permute(0, 3, 1, 2)

    def _part(self, row: int, column: int, padded: Tensor, down: int, right: int) -> Tensor:
        part = self.parts[row * len(self._starts) + column]
        height, width = padded.shape[2] - 2, padded.shape[3] - 2
        high, wide = part.get_parameter("weight").shape[2:]
        seen = padded[:, :, down : down + height + high - 1, right : right + width + wide - 1]
        return functional.relu(part(seen)).permute(0, 2, 3, 1)  # [B, H, W, C']
