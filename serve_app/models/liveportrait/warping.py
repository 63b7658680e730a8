"""The warping module: dense motion from sparse keypoints, and the source's features moved by it.

The base grid spans -1 to 1 inclusively although sampling takes these for the outer edges of the outermost
cells, so even the identity shrinks a little; the networks were trained so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.layers import ConvNorm, conv_norm_2d, conv_norm_3d, fold_norm
from serve_app.models.liveportrait.shortcuts import GatheredConv, SlicedConv3d, aligned, widen
from serve_app.models.liveportrait.sizes import NUM_KEYPOINTS, Sizes

VARIANCE = 0.01
"""Of the Gaussian around a keypoint."""


class Encoder(nn.Module):
    """Halves height and width and doubles the channels, again and again."""

    def __init__(self, inputs: int, widths: list[int]) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(
            conv_norm_3d(before, after) for before, after in zip([inputs, *widths], widths, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return `x` and the output of every block."""
        outputs = [x]
        for block in self.down_blocks:
            outputs.append(_by_slices(_halved, block(outputs[-1])))
        return outputs


class Decoder(nn.Module):
    """Doubles height and width and takes in what the encoder saw at that resolution."""

    def __init__(self, inputs: int, widths: list[int]) -> None:
        super().__init__()
        # Every block but the first gets its own features and as many of the encoder's.
        before = [widths[0], *(2 * width for width in widths[1:-1])]
        self.up_blocks = nn.ModuleList(
            conv_norm_3d(wide, narrow) for wide, narrow in zip(before, widths[1:], strict=True)
        )
        outputs = widths[-1] + inputs
        self.conv = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm3d(outputs)

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """Return features at the resolution of the encoder's input."""
        features = outputs[-1]
        for block, beside in zip(self.up_blocks, reversed(outputs[:-1]), strict=True):
            up = block(_by_slices(_doubled, features))
            features = torch.cat([up, beside], dim=1)
        return functional.relu(self.norm(self.conv(features)))


class Hourglass(nn.Module):
    """A U-Net over the volume that leaves its depth alone."""

    def __init__(self, inputs: int, sizes: Sizes) -> None:
        super().__init__()
        widths = [
            min(sizes.hourglass_max, sizes.hourglass * 2**level)
            for level in range(sizes.hourglass_blocks + 1)
        ]
        self.encoder = Encoder(inputs, widths[1:])
        self.decoder = Decoder(inputs, widths[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', D, H, W] for [B, C, D, H, W]."""
        return self.decoder(self.encoder(x))


class DenseMotion(nn.Module):
    """Finds for every place of the volume which keypoint moves it, and what is hidden."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        inputs = (NUM_KEYPOINTS + 1) * (sizes.compress + 1)
        outputs = inputs + sizes.hourglass
        self.compress = nn.Conv3d(sizes.volume, sizes.compress, 1)
        self.norm: nn.Module = nn.BatchNorm3d(sizes.compress)
        self.hourglass = Hourglass(inputs, sizes)
        self.mask: nn.Module = nn.Conv3d(outputs, NUM_KEYPOINTS + 1, 7, padding=3)
        self.occlusion: nn.Module = nn.Conv2d(outputs * sizes.depth, 1, 7, padding=3)
        self._inputs, self._depth = inputs, sizes.depth
        self._empty = 0
        self._is_refined = False

    def compressed(self, feature: Tensor) -> Tensor:
        """Return the few channels of a source's volume that `forward` looks at, [B, c, D, H, W]."""
        return functional.relu(self.norm(self.compress(feature)))

    def forward(self, compressed: Tensor, x_source: Tensor, x_driving: Tensor) -> tuple[Tensor, Tensor]:
        """Return where features come from and how much is seen.

        Args:
            compressed: [B, c, D, H, W] float32, of `compressed`.
            x_source: [B, K, 3] float32.
            x_driving: [B, K, 3] float32.

        Returns:
            [B, D, H, W, 3] float32 places (x, y, z), and [B, 1, H, W] from 0 (hidden) to 1.
        """
        depth, height, width = compressed.shape[2:]
        axes = [torch.linspace(-1.0, 1.0, size, device=compressed.device) for size in (width, height, depth)]
        base = torch.stack(torch.meshgrid(*reversed(axes), indexing="ij")[::-1], dim=3)  # [D, H, W, 3]
        shifts = functional.pad(x_source - x_driving, (0, 0, 1, 0))  # [B, K + 1, 3]; the first stands still
        moved = _sampled_at_shifts(compressed, base, shifts)  # [B, K + 1, c, D, H, W]
        heat = _heat(x_driving, axes) - _heat(x_source, axes)
        heat = functional.pad(heat, (0, 0, 0, 0, 0, 0, 1, 0))  # [B, K + 1, D, H, W]
        seen = torch.cat([heat[:, :, None], moved], dim=2).flatten(1, 2)
        if self._empty:
            seen = functional.pad(seen, (0, 0, 0, 0, 0, 0, 0, self._empty))
        hidden = self.hourglass(_like(self.hourglass.decoder.conv.weight, seen))
        masks = self.mask(hidden).float().softmax(dim=1)
        # The masks sum to 1, so the base grid need not be weighted.
        deformation = base + torch.einsum("bkdhw,bkc->bdhwc", masks, shifts)
        occlusion = self.occlusion(hidden if self._is_refined else hidden.flatten(1, 2)).sigmoid()
        return deformation, occlusion

    def refine(self) -> None:
        """Replace what suits a matrix unit badly by what computes the same; after folding, once.

        Channels are filled up with empty ones, and the two kernels of 7 are taken apart.
        """
        if (
            self._is_refined
            or not isinstance(self.mask, nn.Conv3d)
            or not isinstance(self.occlusion, nn.Conv2d)
        ):
            return
        decoder = self.hourglass.decoder
        first = self.hourglass.encoder.down_blocks[0].get_submodule("conv")
        inputs, outputs, depth = self._inputs, decoder.conv.in_channels, self._depth
        self._empty = aligned(inputs) - inputs
        wide = outputs + self._empty
        if isinstance(first, nn.Conv3d):
            widen(first, inputs=inputs + self._empty, outputs=first.out_channels)
        widen(decoder.conv, inputs=wide, outputs=wide)
        widen(self.mask, inputs=wide, outputs=NUM_KEYPOINTS + 1)
        self.mask = SlicedConv3d(self.mask)
        self.occlusion = GatheredConv(self.occlusion, depth, wide)
        self._is_refined = True


class Warping(nn.Module):
    """Moves a source's features to the driving keypoints and flattens them to a picture of features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.dense_motion_network = DenseMotion(sizes)
        self.third = conv_norm_2d(sizes.volume * sizes.depth, sizes.warped, slope=0.01)
        self.fourth = nn.Conv2d(sizes.warped, sizes.warped, 1)

    def compressed(self, feature: Tensor) -> Tensor:
        """Return what dense motion needs of a source, once for each source; float32."""
        motion = self.dense_motion_network
        return motion.compressed(feature.to(motion.compress.weight.dtype)).float()

    def forward(self, feature: Tensor, compressed: Tensor, x_source: Tensor, x_driving: Tensor) -> Tensor:
        """Return the warped features.

        Args:
            feature: [B, C, D, H, W] float32.
            compressed: [B, c, D, H, W] float32, of `compressed`.
            x_source: [B, K, 3] float32.
            x_driving: [B, K, 3] float32.

        Returns:
            [B, C', H, W].
        """
        return self.moved(feature, *self.dense_motion_network(compressed, x_source, x_driving))

    def moved(self, feature: Tensor, deformation: Tensor, occlusion: Tensor) -> Tensor:
        """Return the features that `DenseMotion` found, [B, C', H, W].

        Args:
            feature: [B, C, D, H, W] float32.
            deformation: [B, D, H, W, 3] float32.
            occlusion: [B, 1, H, W].
        """
        sampled = functional.grid_sample(feature, deformation, align_corners=False)
        flat = self.fourth(self.third(_like(self.fourth.weight, sampled.flatten(1, 2))))
        return flat * occlusion.to(flat.dtype)

    @torch.no_grad()
    def fold(self) -> None:
        """Put all norms into their convolutions."""
        motion = self.dense_motion_network
        for owner, conv in (
            (motion, motion.compress),
            (motion.hourglass.decoder, motion.hourglass.decoder.conv),
        ):
            if isinstance(owner.norm, nn.BatchNorm3d):
                fold_norm(conv, owner.norm)
                owner.norm = nn.Identity()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()


def _sampled_at_shifts(volume: Tensor, base: Tensor, shifts: Tensor) -> Tensor:
    """Return a volume sampled at the base grid moved by each shift.

    Args:
        volume: [B, c, D, H, W].
        base: [D, H, W, 3].
        shifts: [B, N, 3].

    Returns:
        [B, N, c, D, H, W]; zero outside the volume.
    """
    batch, number = shifts.shape[:2]
    depth = base.shape[0]
    # One tall grid for each volume spares a copy of the volume for each shift.
    grid = (base + shifts[:, :, None, None, None]).flatten(1, 2)  # [B, N * D, H, W, 3]
    moved = functional.grid_sample(volume, grid, align_corners=False)  # [B, c, N * D, H, W]
    return moved.reshape(batch, -1, number, depth, *moved.shape[3:]).transpose(1, 2)


def _heat(points: Tensor, axes: list[Tensor]) -> Tensor:
    """Return a Gaussian around each point, [B, K, D, H, W]: the product of one for each axis."""
    along_x, along_y, along_z = (
        torch.exp(-0.5 * (axis - points[:, :, number, None]) ** 2 / VARIANCE)
        for number, axis in enumerate(axes)
    )
    return along_z[:, :, :, None, None] * along_y[:, :, None, :, None] * along_x[:, :, None, None, :]


def _by_slices(change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Pool or enlarge the slices of a volume, [B, C, D, H, W], whose depth stays.

    As pictures: torch would bring a volume whose channels come last into another order and back.
    """
    batch, channels, depth = x.shape[:3]
    if x.is_contiguous():
        changed = change(x.flatten(1, 2))
        return changed.reshape(batch, channels, depth, *changed.shape[2:])
    changed = change(x.transpose(1, 2).flatten(0, 1))
    return changed.reshape(batch, depth, channels, *changed.shape[2:]).transpose(1, 2)


def _halved(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0)


def _like(weight: Tensor, x: Tensor) -> Tensor:
    """Return `x` in the type and memory order of a layer's weights."""
    order = torch.contiguous_format
    if weight.is_cuda:
        order = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.to(weight.dtype, memory_format=order)
