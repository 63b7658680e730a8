"""Sounds of the examination have a level of 1, and are none of the training's."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.training.noises import KINDS
from serve_app.training.scenes import SCENES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", sorted(SCENES))
@pytest.mark.parametrize("size", [32_000, 40_001])
def test_a_scene_has_the_size_and_level_it_says(name: str, size: int) -> None:
    for seed in range(2):
        sound = SCENES[name](np.random.default_rng(seed), size)
        assert sound.shape == (size,)
        assert sound.dtype == np.float32
        assert np.sqrt(np.mean(sound**2)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_seed_makes_the_same_scene_and_another_one_a_different(name: str) -> None:
    one, same, other = (SCENES[name](np.random.default_rng(seed), 32_000) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_no_scene_is_a_kind_of_the_training() -> None:
    assert not SCENES.keys() & KINDS.keys()
    assert not {make.__module__ for make in SCENES.values()} & {make.__module__ for make in KINDS.values()}
