"""Shortcuts compute what the plain convolutions compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.liveportrait.generator import FoldedBlock, SpadeBlock
from serve_app.models.liveportrait.shortcuts import GatheredConv, NearestConv, SlicedConv3d, aligned, widen
from serve_app.models.neural.checkpoint import invent

pytestmark = pytest.mark.unit


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 4)])
def test_enlarged_map_is_convolved_on_the_small_one(factor: int, size: tuple[int, int]) -> None:
    conv = nn.Conv2d(5, 8, 3, padding=1)
    small = noise(2, 5, *size)
    assert conv.bias is not None
    with torch.no_grad():
        large = functional.interpolate(small, scale_factor=float(factor))
        expected = functional.relu(conv(large))
        for split in (1, 2):
            short = NearestConv(conv.weight, conv.bias, factor, split)(small)
            assert len(short) == split
            assert close(torch.cat(short, dim=1), expected)


def test_kernel_of_a_volume_in_slices() -> None:
    conv = nn.Conv3d(6, 3, 7, padding=3)
    volume = noise(2, 6, 4, 9, 8)
    with torch.no_grad():
        assert close(SlicedConv3d(conv)(volume), conv(volume))


def test_shallow_kernel_in_a_deep_volume() -> None:
    conv = nn.Conv3d(2, 9, 3, padding=1)
    volume = noise(1, 2, 11, 5, 4)
    with torch.no_grad():
        assert close(SlicedConv3d(conv)(volume), conv(volume))


def test_single_output_is_gathered() -> None:
    conv = nn.Conv2d(6 * 4, 1, 7, padding=3)
    volume = noise(2, 6, 4, 9, 8)
    empty = functional.pad(volume, (0, 0, 0, 0, 0, 0, 0, 2))
    empty[:, 6:] = 5.0
    with torch.no_grad():
        expected = conv(volume.flatten(1, 2))
        assert close(GatheredConv(conv, 4, 6)(volume), expected)
        assert close(GatheredConv(conv, 4, 8)(empty), expected)


def test_widened_convolution_ignores_and_adds_empty_channels() -> None:
    conv = nn.Conv3d(5, 6, 3, padding=1)
    volume = noise(1, 5, 3, 4, 4)
    with torch.no_grad():
        expected = conv(volume)
        widen(conv, inputs=8, outputs=8)
        found = conv(functional.pad(volume, (0, 0, 0, 0, 0, 0, 0, 3), value=9.0))
    assert close(found[:, :6], expected)
    assert found[:, 6:].abs().max() == 0.0


@pytest.mark.parametrize(("outputs", "up", "guide_up"), [(8, 1, 1), (4, 2, 2), (4, 2, 4)])
def test_folded_block(outputs: int, up: int, guide_up: int) -> None:
    block = SpadeBlock(8, outputs, 6, 5, up=up, guide_up=guide_up)
    invent(block, 3)
    guide = noise(2, 6, 4, 4)
    x = noise(2, 8, 4 * guide_up // up, 4 * guide_up // up, seed=1)
    with torch.no_grad():
        assert close(FoldedBlock(block)(x, guide), block(x, guide))


def test_alignment() -> None:
    assert [aligned(channels) for channels in (1, 8, 22, 110, 142)] == [8, 8, 24, 112, 144]
