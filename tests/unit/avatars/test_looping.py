"""Loops close where moments are alike, and run forth and back where none are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.avatars.looping import ALIKE, FADE_S, MIN_LOOP_S, Loop, close, distances

pytestmark = pytest.mark.unit

FPS = 20


def places(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return points that are at `x` in each picture."""
    y = np.arange(12.0) * 10
    grid = np.stack([x[:, None] + 0 * y, y + 0 * x[:, None]], axis=2)
    return grid.astype(np.float32)


def still(length: int) -> npt.NDArray[np.float32]:
    return np.full((length, 4, 4), 100, np.float32)


def positions(loop: Loop, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return loop.mixed(places(x))[:, 0, 0]


@pytest.mark.parametrize("period_s", [2.0, 2.7, 3.9])
def test_motion_that_repeats_is_cut_after_whole_periods(period_s: float) -> None:
    x = 30 * np.sin(2 * np.pi * np.arange(160) / FPS / period_s)
    loop = close(places(x), still(160), FPS, 120)
    assert loop.fades
    periods = len(loop.first) / FPS / period_s
    assert abs(periods - round(periods)) < 0.05
    assert MIN_LOOP_S * FPS <= len(loop.first) <= 120
    shown = positions(loop, x)
    assert np.abs(np.diff(shown, append=shown[0])).max() < 1.2 * np.abs(np.diff(x)).max()


def test_the_end_fades_into_what_precedes_the_beginning() -> None:
    x = 3 * np.sin(2 * np.pi * np.arange(160) / FPS / 2.5) + np.linspace(0, 1.5, 160)
    loop = close(places(x), still(160), FPS, 120)
    fade = round(FADE_S * FPS)
    assert (loop.share[:-fade] == 0).all()
    assert (np.diff(loop.share[-fade:]) > 0).all()
    assert 0 < loop.share[-fade] < loop.share[-1] < 1
    np.testing.assert_array_equal(loop.first - loop.second, np.where(loop.share > 0, len(loop.first), 0))
    assert loop.second.min() >= 0
    shown = positions(loop, x)
    assert np.abs(np.diff(shown, append=shown[0])).max() < 1.0


def test_motion_that_never_comes_back_runs_forth_and_back() -> None:
    x = np.linspace(0, 200, 100)
    loop = close(places(x), still(100), FPS, 120)
    assert not loop.fades
    assert (loop.share == 0).all()
    assert len(loop.first) <= 120
    assert set(np.abs(np.diff(loop.first, append=loop.first[0]))) == {1}


def test_turns_are_where_it_is_stillest() -> None:
    # It stands still at 12 and at 71, hurries in between, and never comes back.
    speed = (
        4.0
        - 3.9 * np.exp(-(((np.arange(100) - 12) / 3) ** 2))
        - 3.9 * np.exp(-(((np.arange(100) - 71) / 3) ** 2))
    )
    loop = close(places(np.cumsum(speed)), still(100), FPS, 240)
    assert not loop.fades
    assert abs(loop.first.min() - 12) <= 2
    assert abs(loop.first.max() - 71) <= 2


def test_pictures_count_where_the_face_is_alike() -> None:
    x, small = np.zeros(100), still(100)
    # Somebody switches the light on.
    small[45:, :2] = 220
    shown = close(places(x), small, FPS, 60).mixed(small)
    assert (shown == shown[0]).all()
    apart = distances(places(x), small)
    assert apart[0, 44] == 0 < ALIKE < apart[0, 45]


def test_a_still_picture_may_be_cut_anywhere() -> None:
    loop = close(places(np.zeros(60)), still(60), FPS, 240)
    assert loop.fades
    # All but what fades.
    assert len(loop.first) == 60 - round(FADE_S * FPS) - 1


def test_the_shortest_video_has_a_loop() -> None:
    length = round(MIN_LOOP_S * FPS)
    loop = close(places(np.random.default_rng(0).normal(0, 30, length)), still(length), FPS, 240)
    assert len(loop.first) >= FPS
