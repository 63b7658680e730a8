"""How wide and deep the five networks are."""

from __future__ import annotations

from dataclasses import dataclass

NUM_KEYPOINTS = 21
"""Implicit keypoints of a head."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The constructor arguments of all networks; the defaults are those of the official checkpoints.

    Attributes:
        image: side of the pictures that go in, pixels; pictures come out twice as large.
        appearance: channels of the appearance extractor's first layer; the next two double them.
        volume: channels of the feature volume.
        depth: depth of the feature volume; its height and width are a quarter of `image`.
        resblocks: residual blocks on the volume.
        motion_depths: blocks of the motion extractor's stages.
        motion_widths: channels of its stages.
        compress: channels of the volume that dense motion looks at.
        hourglass: channels of the hourglass before its first halving.
        hourglass_max: its most channels.
        hourglass_blocks: its halvings.
        generator: channels before the generator's last layer.
        spade: hidden channels of the modulations.
        middle_blocks: the generator's blocks at the volume's resolution.
    """

    image: int = 256
    appearance: int = 64
    volume: int = 32
    depth: int = 16
    resblocks: int = 6
    motion_depths: tuple[int, ...] = (3, 3, 9, 3)
    motion_widths: tuple[int, ...] = (96, 192, 384, 768)
    compress: int = 4
    hourglass: int = 32
    hourglass_max: int = 1024
    hourglass_blocks: int = 5
    generator: int = 64
    spade: int = 128
    middle_blocks: int = 6

    @property
    def grid(self) -> int:
        """Height and width of the volume."""
        return self.image // 4

    @property
    def warped(self) -> int:
        """Channels of the warped picture that the generator gets."""
        return 4 * self.appearance

    @property
    def output(self) -> int:
        """Side of the pictures that come out, pixels."""
        return 2 * self.image


OFFICIAL = Sizes()
"""LivePortrait's human model as it was published."""

SMALL = Sizes(
    image=64,
    appearance=4,
    volume=4,
    depth=4,
    resblocks=1,
    motion_depths=(1, 1, 1, 1),
    motion_widths=(8, 8, 16, 16),
    compress=1,
    hourglass=4,
    hourglass_max=16,
    hourglass_blocks=3,
    generator=8,
    spade=8,
    middle_blocks=1,
)
"""The same graph, small enough to stream from a CPU; only for invented weights."""
