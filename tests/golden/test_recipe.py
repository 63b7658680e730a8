"""The recipe gives the reference's weights on this machine, and its comparison can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden import recipe

pytestmark = pytest.mark.golden


def test_recipe_reproduces_the_reference_weights() -> None:
    assert recipe.self_check() == 0


@pytest.mark.parametrize("model", ["liveportrait", "musetalk"])
def test_groups_have_limits(model: str) -> None:
    cases = recipe.cases(model)
    groups = {name.split("/")[1] for name in cases.index if not name.endswith("_u8")}
    compared = groups - {"input", "blend", "geometry"}
    assert compared <= set(recipe.LIMITS[model])


def test_error_is_in_units_of_the_reference() -> None:
    cases = recipe.cases("liveportrait")
    reference = cases.whole("a/motion/kp")
    unit = max(reference.std(), np.abs(reference).mean())
    assert cases.error(reference, "a/motion/kp") == 0.0
    off = reference.copy()
    off[1, 7] += 0.5 * unit
    assert cases.error(off, "a/motion/kp") == pytest.approx(0.5, rel=1e-4)
    assert cases.error(reference[:2], "a/motion/kp") == float("inf")
    assert cases.error(np.full_like(reference, np.nan), "a/motion/kp") == float("inf")
    with pytest.raises(AssertionError, match="a/motion/kp"):
        cases.check(torch.from_numpy(off), "a/motion/kp")


def test_pixels_may_differ_a_little() -> None:
    cases = recipe.cases("musetalk")
    name = "a/blend/mask_0_u8"
    mask = cases.whole(name).copy()
    cases.check_pixels(mask, name)
    mask[:3, 0] ^= 1
    cases.check_pixels(mask, name)
    mask[:20] ^= 1
    with pytest.raises(AssertionError, match="differ"):
        cases.check_pixels(mask, name)


def test_subsample_is_not_taken_for_the_whole() -> None:
    with pytest.raises(ValueError, match="whole"):
        recipe.cases("liveportrait").whole("a/generator/image")
