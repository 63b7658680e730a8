"""MuseTalk's geometry, masks and blending against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serve_app.models.drawing.place import Rectangle
from serve_app.models.musetalk import blending, crop, masks
from serve_app.nouns import UInt8
from tests.golden import recipe

pytestmark = pytest.mark.golden

CASES = recipe.cases("musetalk")
HEIGHT, WIDTH = 540, 720
BOTH = pytest.mark.parametrize("case", ["a", "b"])
BOXES = pytest.mark.parametrize("number", [0, 1, 2])


def pattern(height: int, width: int, slope: tuple[int, int, int], start: int) -> UInt8:
    """Return [height, width, 3] of (x * slope[0] + y * slope[1] + c * slope[2] + start) mod 256."""
    y, x, channel = np.mgrid[0:height, 0:width, 0:3]
    return ((slope[0] * x + slope[1] * y + slope[2] * channel + start) % 256).astype(np.uint8)


@BOTH
def test_kernels(case: str) -> None:
    np.testing.assert_array_equal(masks.JAW_KERNEL, CASES.whole(f"{case}/blend/jaw_kernel_u8"))
    np.testing.assert_array_equal(masks.CHEEK_KERNEL, CASES.whole(f"{case}/blend/cheek_kernel_u8"))


@BOTH
@BOXES
def test_box_of_landmarks(case: str, number: int) -> None:
    found = crop.face_box(CASES.whole(f"{case}/geometry/lm68_{number}"))
    np.testing.assert_array_equal(found, CASES.whole(f"{case}/geometry/lm68_boxes")[number])


@BOTH
@BOXES
def test_square_of_the_mask(case: str, number: int) -> None:
    wanted = CASES.whole(f"{case}/blend/geometry")[number]
    box = crop.lowered(wanted[:4].astype(np.float64), HEIGHT).astype(np.int64)
    left, top, side = crop.mask_square(box)
    assert box[3] == wanted[4]
    assert [left, top, left + side, top + side] == wanted[5:9].tolist()
    assert [side // 2, side, side] == wanted[9:12].tolist()
    assert [box[0] - left, box[1] - top] == wanted[12:14].tolist()
    assert int(side * masks.UPPER_KEPT) == wanted[14]
    assert [int(blur * side // 2 * 2) + 1 for blur in (masks.OFFLINE, masks.REALTIME)] == wanted[15:].tolist()


@BOTH
@pytest.mark.parametrize("mode", ["jaw", "neck", "raw"])
def test_region(case: str, mode: masks.Mode) -> None:
    found = masks.region(CASES.whole(f"{case}/blend/labels_u8"), mode)
    CASES.check_pixels(found, f"{case}/blend/mask512_{mode}_u8")


@BOTH
@BOXES
def test_mask(case: str, number: int) -> None:
    CASES.check_pixels(mask_of(case, number, masks.REALTIME)[0], f"{case}/blend/mask_{number}_u8")


@BOTH
@BOXES
@pytest.mark.parametrize("program", ["realtime", "offline"])
def test_blend(case: str, number: int, program: str) -> None:
    blur = masks.REALTIME if program == "realtime" else masks.OFFLINE
    mask, box, (left, top, _) = mask_of(case, number, blur)
    frame_start, face_start = CASES.whole(f"{case}/blend/frame_constants").tolist()
    frame = pattern(HEIGHT, WIDTH, (3, 5, 70), frame_start)
    x1, y1, x2, y2 = box.tolist()
    face = pattern(y2 - y1, x2 - x1, (7, 2, 90), face_start)
    place = Rectangle(x1, y1, x2 - x1, y2 - y1)
    where = torch.from_numpy(box.astype(np.float32))[None]
    pasted = blending.pasted(torch.from_numpy(face).permute(2, 0, 1)[None].float(), where, place)[0].round()
    cover = torch.from_numpy(mask[y1 - top : y2 - top, x1 - left : x2 - left]).expand(3, -1, -1)
    under = torch.from_numpy(frame[place.rows, place.columns]).permute(2, 0, 1)
    frame[place.rows, place.columns] = blending.blended(under, pasted, cover).permute(1, 2, 0).numpy()
    CASES.check_pixels(frame, f"{case}/blend/result_{program}_{number}_u8")


def mask_of(case: str, number: int, blur: float) -> tuple[UInt8, crop.Whole, tuple[int, int, int]]:
    geometry = CASES.whole(f"{case}/blend/geometry")[number]
    box = crop.lowered(geometry[:4].astype(np.float64), HEIGHT).astype(np.int64)
    square = crop.mask_square(box)
    kept = masks.region(CASES.whole(f"{case}/blend/labels_u8"))
    return masks.soft_mask(kept, box, square, blur), box, square
