"""What speech and idling do to keypoints."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from serve_app.avatars.bundle import Motion as Stillness
from serve_app.models import blendshapes
from serve_app.models.liveportrait import driving, keypoints
from serve_app.models.liveportrait.crop import Ratios
from serve_app.models.liveportrait.driving import SHAPES, SLIDERS, Driver
from serve_app.models.liveportrait.keypoints import LIP_POINTS
from serve_app.models.liveportrait.networks import load
from tests.unit.models.liveportrait.test_keypoints import motion

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
LENGTH = 133


def driver(lip: float = 0.0, still: Stillness | None = None) -> Driver:
    pace = driving.idle(still or Stillness(), LENGTH, 25, 450.0, CPU)
    return Driver(motion(0), Ratios(0.3, 0.28, lip), load("random", CPU).stitcher, pace)


def coefficients(**shapes: float) -> torch.Tensor:
    values = torch.zeros(1, len(blendshapes.NAMES))
    for name, value in shapes.items():
        values[:, blendshapes.INDEX[name]] = value
    return values


def moved(**shapes: float) -> torch.Tensor:
    """Return how far expression moves each keypoint, [K, 3]."""
    return (coefficients(**shapes) @ driving.expression_basis().flatten(1)).reshape(21, 3)


def test_tables_name_shapes_that_exist() -> None:
    assert set(SHAPES) == set(blendshapes.NAMES) - {"headNod"}
    assert {slider for pushes in SHAPES.values() for slider in pushes} == set(SLIDERS)


def test_speech_moves_lips_and_what_they_pull() -> None:
    mouth = {name: 1.0 for name in blendshapes.NAMES if name not in ("browInnerUp", "headNod")}
    touched = {point for point in range(21) if moved(**mouth)[point].abs().max() > 0}
    assert set(LIP_POINTS) & touched == {14, 17, 19, 20}
    assert touched <= {3, 7, 13, 16} | set(LIP_POINTS)


def test_brows_rise_alone() -> None:
    brow = moved(browInnerUp=1.0)
    assert {point for point in range(21) if brow[point].abs().max() > 0} == {1, 2}


def test_shapes_pull_the_ways_their_names_say() -> None:
    assert moved(jawOpen=1.0)[19, 1] > 0.03  # down
    assert moved(jawOpen=1.0, mouthClose=1.0)[19, 1] < moved(jawOpen=1.0)[19, 1]
    assert moved(mouthPucker=1.0)[14, 1] > 0 > moved(mouthStretch=1.0)[14, 1]
    assert moved(mouthSmile=1.0)[20, 1] < 0  # corners up
    assert moved(mouthPress=1.0)[19, 1] < 0


def test_no_slider_leaves_the_range_of_its_editor() -> None:
    ranges = {
        "open": (-90, 120),
        "grin": (-20, 15),
        "purse": (-20, 15),
        "smile": (-0.3, 1.3),
        "brow": (0, 30),
    }
    for slider, (low, high) in ranges.items():
        units = [pushes.get(slider, 0.0) for pushes in SHAPES.values()]
        assert low <= min(units)
        assert max(units) <= high


def test_silence_is_the_base_loop() -> None:
    head = driver()
    index = torch.arange(LENGTH)
    assert torch.equal(head.speak(index, coefficients().expand(LENGTH, -1)), head.rest(index))


def test_frames_do_not_depend_on_their_neighbours() -> None:
    head = driver()
    index = torch.tensor([5, 90, 17])
    values = torch.rand(3, len(blendshapes.NAMES), generator=torch.Generator().manual_seed(0))
    together = head.speak(index, values)
    for row in range(3):
        alone = head.speak(index[row : row + 1], values[row : row + 1])
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_still_avatar_with_a_shut_mouth_is_its_stitched_source() -> None:
    head = driver(still=Stillness(head_px=0.0, breath_px=0.0, blink_every_s=60.0))
    stitcher = load("random", CPU).stitcher
    rest = head.rest(torch.tensor([0, 60]))
    assert torch.allclose(rest, stitcher.stitch(head.x_source, head.x_source).expand(2, 21, 3), atol=1e-5)


def test_mouth_that_is_open_in_the_portrait_is_shut_at_rest() -> None:
    still = Stillness(head_px=0.0, breath_px=0.0, blink_every_s=60.0)
    first = torch.tensor([0])
    # 0.03 is where the published code begins.
    barely, ajar = driver(lip=0.029, still=still), driver(lip=0.031, still=still)
    stitched = load("random", CPU).stitcher.stitch(barely.x_source, barely.x_source)
    assert torch.allclose(barely.rest(first), stitched, atol=1e-5)
    assert (ajar.rest(first) - stitched).abs().max() > 1e-3


def test_lips_part_as_far_as_is_heard() -> None:
    head, zero = driver(), torch.tensor([0])
    rest = head.rest(zero)
    gaps = [float((head.speak(zero, coefficients(jawOpen=value)) - rest).norm()) for value in (0.2, 0.5, 1.0)]
    assert 0 < gaps[0] < gaps[1] < gaps[2]


def test_nod_bows_the_head() -> None:
    head, zero = driver(), torch.tensor([0])
    held = driving.idle(Stillness(), LENGTH, 25, 450.0, CPU).frames(zero)
    source = motion(0)
    bowed = keypoints.turned(source, held.pitch + driving.NOD_DEG, held.yaw, held.roll)
    lift = torch.stack([held.rise * 0, -held.rise, held.rise * 0], dim=1)
    expected = keypoints.place(source.kp, bowed, source.exp, source.scale, source.t + lift)
    stitched = load("random", CPU).stitcher.stitch(head.x_source, expected)
    assert torch.allclose(head.speak(zero, coefficients(headNod=1.0)), stitched, atol=1e-4)


def test_idle_motion_is_endless_and_small() -> None:
    pace = driving.idle(Stillness(), LENGTH, 25, 450.0, CPU)
    for field in dataclasses.fields(pace):
        values = getattr(pace, field.name)
        steps = torch.cat([values, values[:1]]).diff().abs()
        assert steps[-1] <= steps.max()
        assert values.abs().max() <= 3.0
        assert values.std() > 0


def test_lids_blink_at_the_avatars_pace() -> None:
    closed = driving.idle(Stillness(blink_every_s=1.0, blink_s=0.3), 125, 25, 450.0, CPU).closed
    shut = (closed > 0.5).int()
    assert int((shut.diff() == 1).sum()) == 5
    assert float(closed.max()) > 0.8
    assert float(closed[0]) == float(closed[-1]) == 0.0
    assert float(closed.min()) == 0.0
