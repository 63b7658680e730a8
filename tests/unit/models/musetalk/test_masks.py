"""Masks: what is repainted of a face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.avatars.points68 import points68
from serve_app.avatars.store import AvatarStore
from serve_app.models.musetalk import crop, masks

pytestmark = pytest.mark.unit


def slow_dilation(region: masks.Bools, kernel: masks.Bools) -> masks.Bools:
    above, before = kernel.shape[0] // 2, kernel.shape[1] // 2
    found = np.zeros_like(region)
    for y in range(region.shape[0]):
        for x in range(region.shape[1]):
            for down, right in zip(*np.nonzero(kernel), strict=True):
                at_y, at_x = y + down - above, x + right - before
                if 0 <= at_y < region.shape[0] and 0 <= at_x < region.shape[1] and region[at_y, at_x]:
                    found[y, x] = True
    return found


@pytest.mark.parametrize("kernel", [masks.JAW_KERNEL, masks.CHEEK_KERNEL], ids=["jaw", "cheek"])
def test_growing_and_thinning_by_definition(kernel: masks.Bools) -> None:
    region = np.random.default_rng(0).random((20, 24)) < 0.02
    np.testing.assert_array_equal(masks.dilated(region, kernel), slow_dilation(region, kernel))
    full = ~region
    np.testing.assert_array_equal(
        masks.eroded(full, kernel), ~slow_dilation(~full, np.ascontiguousarray(kernel[::-1, ::-1]))
    )


@pytest.mark.parametrize("width", [3, 17, 33])
def test_blur_keeps_flat_parts_and_brightness(width: int) -> None:
    flat = np.full((60, 70), 255, np.uint8)
    np.testing.assert_array_equal(masks.blurred(flat, width), flat)
    dot = np.zeros((101, 101), np.uint8)
    dot[40:60, 40:60] = 255
    blurred = masks.blurred(dot, width).astype(np.int64)
    assert blurred.sum() == pytest.approx(int(dot.sum()), rel=2e-3)
    np.testing.assert_array_equal(blurred, blurred.T)
    # The edge is softened evenly, as far as the other edge does not reach it.
    assert blurred[50, 39] + blurred[50, 40] == pytest.approx(255, abs=16)
    assert blurred[50, 39] > 0


def landmarks() -> npt.NDArray[np.float32]:
    return points68(AvatarStore(None).load("default").landmarks)


def test_mask_of_landmarks_covers_the_mouth_and_spares_the_eyes() -> None:
    points = landmarks()
    box = np.round(crop.lowered(crop.face_box(points), 512)).astype(np.int64)
    left, top, _ = square = crop.mask_square(box)
    mask = masks.soft_mask(masks.region(masks.classes_of(points, square)), box, square)

    def at(point: npt.NDArray[np.float32]) -> int:
        return int(mask[round(float(point[1])) - top, round(float(point[0])) - left])

    assert min(at(point) for point in points[48:68]) == 255
    assert max(at(point) for point in points[36:48]) == 0
    assert at(points[8]) > 64
    y, x = np.nonzero(mask)
    assert y.min() + top > box[1]
    # The soft edge may reach beyond the box, where nothing is painted.
    reach = int(masks.REALTIME * square[2]) // 2 + 1
    assert x.min() + left >= box[0] - reach
    assert x.max() + left < box[2] + reach
    assert y.max() + top < box[3] + reach


def test_narrow_blur_is_none() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert masks.blurred(picture, 1) is picture
