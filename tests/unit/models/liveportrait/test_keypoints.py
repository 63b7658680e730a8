"""Keypoints: rotation, and which parts of a motion are taken over."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from serve_app.models.liveportrait import keypoints
from serve_app.models.liveportrait.keypoints import Motion

pytestmark = pytest.mark.unit


def motion(seed: int, batch: int = 1) -> Motion:
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator) * scale

    return Motion(
        kp=numbers(21, 3, scale=0.3),
        exp=numbers(21, 3, scale=0.02),
        pitch=numbers(scale=15.0),
        yaw=numbers(scale=15.0),
        roll=numbers(scale=15.0),
        scale=1.3 + numbers(1, scale=0.1),
        t=numbers(3, scale=0.1),
    )


def test_rotations_turn_and_nothing_else() -> None:
    turns = motion(0, batch=8).rotation
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(8, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(8), atol=1e-5)


def test_quarter_turn_about_each_axis() -> None:
    zero, quarter = torch.zeros(1), torch.full((1,), 90.0)
    point = torch.tensor([[[0.0, 1.0, 0.0]]])
    assert torch.allclose(
        point @ keypoints.rotation(quarter, zero, zero), torch.tensor([[[0.0, 0.0, 1.0]]]), atol=1e-6
    )
    assert torch.allclose(
        point @ keypoints.rotation(zero, zero, quarter), torch.tensor([[[-1.0, 0.0, 0.0]]]), atol=1e-6
    )
    assert torch.allclose(point @ keypoints.rotation(zero, quarter, zero), point, atol=1e-6)


def test_depth_of_a_translation_is_never_used() -> None:
    one = motion(1)
    deep = dataclasses.replace(one, t=one.t + torch.tensor([[0.0, 0.0, 5.0]]))
    assert torch.equal(keypoints.transform(one), keypoints.transform(deep))


def test_driving_head_that_does_not_move_leaves_the_source() -> None:
    source, driving = motion(2), motion(3)
    moved = keypoints.relative(source, driving, driving)
    assert torch.allclose(moved, keypoints.transform(source), atol=1e-5)


def test_absolute_motion_keeps_what_carries_identity() -> None:
    source, current = motion(4), motion(5, batch=3)
    zero = torch.zeros(3)
    still = dataclasses.replace(current, pitch=zero, yaw=zero, roll=zero, t=torch.zeros(3, 3))
    placed = keypoints.absolute(source, still)
    exp = placed / source.scale[:, :, None] - source.kp
    for point in (0, 7, 10):
        assert torch.allclose(exp[:, point], source.exp[:, point].expand(3, 3), atol=1e-5)
    for point in (1, 2, 6, *range(11, 21)):
        assert torch.allclose(exp[:, point], current.exp[:, point], atol=1e-5)
    for point, taken in {3: [1], 4: [1], 5: [2], 8: [2], 9: [1, 2]}.items():
        for axis in range(3):
            of = current if axis in taken else source
            assert torch.allclose(exp[:, point, axis], of.exp[:, point, axis].expand(3), atol=1e-5)


def test_multiplier_scales_the_way_from_the_source() -> None:
    source, driving = torch.randn(1, 21, 3), torch.randn(4, 21, 3)
    assert torch.allclose(keypoints.multiplied(source, driving, 1.0), driving, atol=1e-6)
    assert torch.allclose(keypoints.multiplied(source, driving, 0.0), source.expand(4, 21, 3), atol=1e-6)
    half = keypoints.multiplied(source, driving, 0.5)
    assert torch.allclose(half, (source + driving) / 2, atol=1e-6)


def test_angles_are_the_expectation_of_classes() -> None:
    scores = torch.full((2, 66), -1e4)
    scores[0, 32] = 0.0
    scores[1, 32:34] = 0.0
    assert keypoints.degrees(scores).tolist() == pytest.approx([-1.5, 0.0])
