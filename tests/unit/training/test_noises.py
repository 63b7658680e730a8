"""Sounds without speech have a level of 1 and no end to their variety."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.training.noises import KINDS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_noise_has_the_size_and_level_it_says(kind: str) -> None:
    for seed in range(5):
        sound = KINDS[kind](np.random.default_rng(seed), 32_000)
        assert sound.shape == (32_000,)
        assert np.isfinite(sound).all()
        assert np.sqrt(np.mean(sound**2)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_seed_makes_the_same_noise_and_another_one_a_different(kind: str) -> None:
    one, same, other = (KINDS[kind](np.random.default_rng(seed), 16_000) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
