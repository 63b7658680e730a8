"""LivePortrait's crops and ratios give the reference's numbers from the reference's landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.models.liveportrait import crop
from tests.golden import recipe

pytestmark = pytest.mark.golden

CASES = recipe.cases("liveportrait")


@pytest.mark.parametrize("case", ["a", "b"])
def test_squares(case: str) -> None:
    points203, points106 = (CASES.whole(f"{case}/geometry/lmk{count}") for count in (203, 106))
    of203, of106 = crop.centres_of_203(points203), crop.centres_of_106(points106)
    source = {
        "source203": crop.square(points203, of203, crop.SOURCE_SCALE, crop.SOURCE_SHIFT),
        "source106": crop.square(points106, of106, crop.SOURCE_SCALE, crop.SOURCE_SHIFT),
    }
    for name, square in source.items():
        to_crop = square.to_crop(512)
        CASES.check(to_crop, f"{case}/geometry/{name}_M_o2c")
        CASES.check(np.linalg.inv(to_crop), f"{case}/geometry/{name}_M_c2o")
    runner = crop.square(points203, of203, crop.LANDMARK_SCALE, crop.LANDMARK_SHIFT)
    CASES.check(runner.to_crop(224), f"{case}/geometry/runner224_M_o2c")
    driving = crop.square(points203, of203, crop.DRIVING_SCALE, crop.DRIVING_SHIFT)
    CASES.check(driving.upright(), f"{case}/geometry/driving_bbox")


@pytest.mark.parametrize("case", ["a", "b"])
def test_ratios(case: str) -> None:
    ratios = crop.ratios_of_203(CASES.whole(f"{case}/geometry/lmk203"))
    CASES.check(np.array([[ratios.left_eye, ratios.right_eye]]), f"{case}/geometry/eye_ratio")
    CASES.check(np.array([[ratios.lip]]), f"{case}/geometry/lip_ratio")
