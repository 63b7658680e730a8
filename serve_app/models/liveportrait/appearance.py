"""The appearance feature extractor: what a head looks like, as a volume of features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.layers import ConvNorm, conv_norm_2d
from serve_app.models.liveportrait.sizes import Sizes


class ResidualBlock(nn.Module):
    """Two normed, rectified 3x3x3 convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(channels)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the shape of `x`, [B, C, D, H, W]."""
        inner = self.conv1(functional.relu(self.norm1(x)))
        return self.conv2(functional.relu(self.norm2(inner))) + x


class AppearanceExtractor(nn.Module):
    """Picture to feature volume; it runs once for each avatar."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.appearance
        self._volume = (sizes.volume, sizes.depth)
        self.first = conv_norm_2d(3, width)
        self.down_blocks = nn.ModuleList([conv_norm_2d(width, 2 * width), conv_norm_2d(2 * width, 4 * width)])
        self.second = nn.Conv2d(4 * width, sizes.volume * sizes.depth, 1)
        self.resblocks_3d = nn.Sequential()
        for number in range(sizes.resblocks):
            self.resblocks_3d.add_module(f"3dr{number}", ResidualBlock(sizes.volume))

    def forward(self, picture: Tensor) -> Tensor:
        """Return the feature volume.

        Args:
            picture: [B, 3, S, S] RGB in [0, 1].

        Returns:
            [B, C, D, S/4, S/4].
        """
        features = self.first(picture)
        for block in self.down_blocks:
            features = functional.avg_pool2d(block(features), 2)
        flat = self.second(features)
        return self.resblocks_3d(flat.unflatten(1, self._volume))

    def fold(self) -> None:
        """Put the norms that follow convolutions into them."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
