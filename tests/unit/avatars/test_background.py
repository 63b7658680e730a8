"""People keep their own background, or get another; what is outside the matte is exactly the background."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.background import (
    GREEN,
    Background,
    image_background,
    mix,
    on_canvas,
    parse_background,
    plain,
    png_of,
    set_behind,
)
from serve_app.avatars.bundle import SIZE
from serve_app.avatars.matte import box_mean, fill_holes, refine_matte
from serve_app.avatars.photo import PhotoRefused
from tests.avatar_tools import encoded

pytestmark = pytest.mark.unit


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Return a red disc on a blue wall, and its matte with a soft edge."""
    y, x = np.mgrid[:SIZE, :SIZE]
    matte = np.clip((160 - np.hypot(x - 256, y - 256)) / 4, 0, 1)[..., None]
    rgb = matte * np.array([200, 30, 30]) + (1 - matte) * np.array([20, 40, 220])
    return rgb.round().astype(np.uint8), (matte[..., 0] * 255).round().astype(np.uint8)


def test_own_background_is_kept_and_filled_behind_the_person() -> None:
    portrait, matte = scene()
    shown, behind = set_behind(portrait, matte, Background())
    assert np.array_equal(shown, portrait)
    assert np.array_equal(behind[matte == 0], portrait[matte == 0])
    assert np.abs(behind[256, 256].astype(int) - (20, 40, 220)).max() < 4


def test_another_background_leaves_no_halo() -> None:
    portrait, matte = scene()
    shown, behind = set_behind(portrait, matte, plain((255, 255, 255)))
    assert (behind == 255).all()
    assert (shown[matte == 0] == 255).all()
    assert np.array_equal(shown[matte == 255], portrait[matte == 255])
    edge = (matte > 40) & (matte < 215)
    assert (shown[edge].astype(int)[:, 2] <= shown[edge].astype(int)[:, 0] + 8).all(), "blue of the old wall"


def test_words_and_colors_are_backgrounds() -> None:
    assert parse_background("photo").picture is None
    green, gray = parse_background("green").picture, parse_background("#808182").picture
    assert green is not None
    assert gray is not None
    assert tuple(green[0, 0]) == GREEN
    assert tuple(gray[511, 511]) == (128, 129, 130)


@pytest.mark.parametrize("text", ["blue", "#12345", "#zzzzzz", "photo ", "../x"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(PhotoRefused, match="background: expected photo"):
        parse_background(text)


def test_a_picture_is_cut_to_a_square_from_its_middle() -> None:
    image = Image.new("RGB", (900, 300), "red")
    image.paste("blue", (300, 0, 600, 300))
    picture = image_background(encoded(image)).picture
    assert picture is not None
    assert picture.shape == (SIZE, SIZE, 3)
    assert (picture[:, 20:-20, 2] > 240).all()


def test_transparent_photos_are_laid_on_a_plain_wall() -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    opacity = np.array([[0, 255]] * 4, np.uint8).repeat(2, axis=1)
    laid = on_canvas(rgb, opacity)
    assert (laid[:, :2] > 190).all()
    assert (laid[:, 2:] == 0).all()
    assert on_canvas(rgb, None) is rgb


def test_mixing_is_exact_at_both_ends() -> None:
    front, back = np.full((2, 2, 3), 77, np.uint8), np.full((2, 2, 3), 201, np.uint8)
    assert (mix(front, back, np.zeros((2, 2), np.uint8)) == 201).all()
    assert (mix(front, back, np.full((2, 2), 255, np.uint8)) == 77).all()


def test_previews_have_the_asked_side() -> None:
    with Image.open(io.BytesIO(png_of(np.zeros((SIZE, SIZE, 3), np.uint8), 256))) as image:
        assert image.size == (256, 256)


def test_a_coarse_matte_moves_to_the_edge_of_the_picture() -> None:
    portrait, matte = scene()
    coarse = np.asarray(
        Image.fromarray(matte).resize((64, 64)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    )
    before = np.abs(coarse.astype(int) - matte).mean()
    refined = refine_matte(portrait, coarse)
    assert np.abs(refined.astype(int) - matte).mean() < 0.75 * before
    assert refined[256, 256] == 255
    assert refined[5, 5] == 0


def test_box_mean_is_the_mean_of_a_square() -> None:
    values = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    assert box_mean(values, 2)[10, 10] == pytest.approx(values[8:13, 8:13].mean(), abs=1e-6)
    assert box_mean(np.ones((7, 9), np.float32), 3) == pytest.approx(1.0)


def test_holes_are_filled_and_the_known_stays() -> None:
    rgb = np.full((33, 47, 3), 120, np.uint8)
    known = np.ones((33, 47), np.float32)
    known[10:20, 10:30] = 0
    rgb[10:20, 10:30] = 255
    assert (fill_holes(rgb, known) == 120).all()
    assert fill_holes(rgb, np.zeros((33, 47), np.float32)).shape == rgb.shape
