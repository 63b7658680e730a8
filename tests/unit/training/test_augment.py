"""Rows of training sound differ in every way but one: the targets stay with the sound."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.hearing_network import HOP, LOOKS_PER_STEP, samples_after, samples_before
from serve_app.training.augment import STEPS, WARPS, Augmenter, Rows
from tests.unit.training.spoken import utterance

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def augmenter() -> Augmenter:
    return Augmenter([utterance(), utterance("espeak test", seed=2)], seed=5, noise_s=6.0)


@pytest.fixture(scope="module")
def rows(augmenter: Augmenter) -> Rows:
    return augmenter.batch(0, 48)


def test_rows_fit_the_network(rows: Rows) -> None:
    assert rows.speech.shape == (48, samples_after(STEPS - 1) - samples_before(0))
    assert rows.targets.shape == (48, LOOKS_PER_STEP * STEPS, len(NAMES))
    assert rows.speech.dtype == rows.targets.dtype == np.float32
    assert np.abs(rows.speech).max() <= 1.0
    assert 0 <= rows.warps.min() <= rows.warps.max() < len(WARPS)


def test_a_step_has_the_same_rows_every_time_and_others_than_the_next(augmenter: Augmenter) -> None:
    one, same, other = augmenter.batch(3, 4), augmenter.batch(3, 4), augmenter.batch(4, 4)
    np.testing.assert_array_equal(one.speech, same.speech)
    np.testing.assert_array_equal(one.targets, same.targets)
    assert np.abs(one.speech - other.speech).max() > 0.0


def test_targets_move_with_the_sound(rows: Rows) -> None:
    looks = -samples_before(0) + np.arange(LOOKS_PER_STEP * STEPS) * HOP
    around = looks[:, None] + np.arange(-HOP // 2, HOP // 2)
    level = np.sqrt((rows.speech[:, around] ** 2).mean(-1))  # [B, looks]
    jaw = rows.targets[..., INDEX["jawOpen"]]
    follows = [
        np.corrcoef(one, other)[0, 1] for one, other in zip(level, jaw, strict=True) if other.max() > 0.0
    ]
    assert np.median(follows) > 0.6
    assert min(follows) > 0.0


def test_some_rows_hold_nobody_and_some_begin_in_digital_silence(augmenter: Augmenter) -> None:
    rows = augmenter.batch(1, 120)
    nobody = rows.targets.max((1, 2)) == 0.0
    assert 0.2 < nobody.mean() < 0.42
    begins = (rows.speech[:, : -samples_before(0)] == 0.0).all(1) & ~nobody
    assert 0.08 < begins.mean() < 0.4
    # What is silent in such a row has no targets, and all that follows has.
    assert (rows.targets[begins].max((1, 2)) > 0.3).all()
