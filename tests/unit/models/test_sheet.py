"""The contact sheet: each sound has its mouth, and nothing else of the picture changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch

from serve_app.avatars.bundle import SIZE
from serve_app.avatars.store import AvatarStore
from serve_app.media.i420 import overlaid
from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.drawing.measures import measure
from serve_app.models.sheet import BASE_FRAME, CELL, SHAPES, Studio, coefficients_of, contact_sheet
from serve_app.nouns import Patch, UInt8

pytestmark = pytest.mark.unit

AVATARS = AvatarStore(None).ids()


@pytest.fixture(scope="module", params=AVATARS)
def studio(request: pytest.FixtureRequest) -> Studio:
    torch.set_num_threads(1)
    return Studio(AvatarStore(None).load(request.param))


def luma(frames: UInt8) -> npt.NDArray[np.int16]:
    return frames[..., : SIZE * SIZE].reshape(-1, SIZE, SIZE).astype(np.int16)


def drawn(studio: Studio, coefficients: torch.Tensor, base_frame: int = BASE_FRAME) -> UInt8:
    """Return whole frames."""
    at = studio.patch
    return np.stack(
        [
            overlaid(studio.frames[base_frame], SIZE, SIZE, Patch(at.x, at.y, at.w, at.h, patch))
            for patch in studio.patches(coefficients, base_frame)
        ]
    )


def shapes(studio: Studio) -> dict[str, npt.NDArray[np.int16]]:
    frames = drawn(studio, coefficients_of(list(SHAPES.values())))
    return dict(zip(SHAPES, luma(frames), strict=True))


def aperture(studio: Studio, coefficients: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the pixels between the lips: those that change when everything behind the lips does."""
    face = measure(studio.bundle)
    inside = studio._painter._interior
    before = luma(drawn(studio, coefficients))
    green = dataclasses.replace(
        inside,
        pictures=torch.zeros_like(inside.pictures),
        dark=torch.tensor([255.0, 0.0, 0.0]),
        soft=torch.tensor([255.0, 0.0, 0.0]),
    )
    studio._painter._interior = green
    try:
        after = luma(drawn(studio, coefficients))
    finally:
        studio._painter._interior = inside
    return (np.abs(after - before) > 8).sum(axis=(1, 2)) / face.unit**2


def test_apertures_are_ordered_as_the_sounds_are(studio: Studio) -> None:
    areas = dict(zip(SHAPES, aperture(studio, coefficients_of(list(SHAPES.values()))), strict=True))
    assert areas["rest"] == 0.0
    assert areas["m b p"] < 0.01
    assert areas["m b p"] < areas["f v"] < areas["th"] < areas["eh"] < areas["aa"]
    assert areas["oo"] < areas["oh"] < areas["aa"]
    assert areas["s"] < areas["ee"] < areas["eh"]
    assert areas["f v"] > 0.03


def test_closed_is_the_base_frame(studio: Studio) -> None:
    frames = drawn(studio, torch.zeros(2, len(NAMES)))
    np.testing.assert_array_equal(frames[0], studio.frames[BASE_FRAME])
    hush = 0.019 * torch.rand(3, len(NAMES), generator=torch.Generator().manual_seed(5))
    for frame in drawn(studio, hush):
        np.testing.assert_array_equal(frame, studio.frames[BASE_FRAME])
    # The jaw may hang behind shut lips: nothing shows between them.
    jaws = coefficients_of([{"jawOpen": jaw, "mouthClose": jaw} for jaw in (0.1, 0.3, 0.5)])
    assert aperture(studio, jaws).max() < 0.01


def test_every_two_shapes_differ_to_the_eye(studio: Studio) -> None:
    face = measure(studio.bundle)
    rows = slice(round(face.y - 0.6 * face.unit), round(face.y + 1.2 * face.unit))
    columns = slice(round(face.x - 1.2 * face.unit), round(face.x + 1.2 * face.unit))
    seen = {name: picture[rows, columns] for name, picture in shapes(studio).items()}
    names = list(seen)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            assert np.abs(seen[one] - seen[other]).mean() > 1.0, (one, other)


def test_background_is_untouched(studio: Studio) -> None:
    background = studio.bundle.matte == 0
    # What a matte leaves out of the person and what the head's motion may cover.
    far = background.copy()
    for axis in (0, 1):
        for by in range(-6, 7):
            far &= np.roll(background, by, axis)
    assert far.mean() > 0.1
    base = luma(studio.frames)
    assert (base.max(axis=0) - base.min(axis=0))[far].max() <= 1
    for picture in shapes(studio).values():
        assert np.abs(picture - base[BASE_FRAME])[far].max() <= 1


def test_pictures_at_rest_are_the_portrait(studio: Studio) -> None:
    """Cutting out the person and putting them back loses nothing but the head's motion."""
    still = dataclasses.replace(studio.bundle.motion, head_px=0.0, breath_px=0.0)
    frame = Studio(dataclasses.replace(studio.bundle, motion=still)).pictures(torch.zeros(1, len(NAMES)))
    apart = np.abs(frame[0].astype(np.int16).mean(axis=2) - studio.bundle.portrait.mean(axis=2))
    assert np.percentile(apart, 99.5) < 8


def test_edges_of_the_patch_are_the_base_frame(studio: Studio) -> None:
    at = studio.patch
    everything = coefficients_of(
        [
            *SHAPES.values(),
            {"browInnerUp": 1.0, "headNod": 1.0, "jawOpen": 1.0, "mouthPucker": 1.0},
            {"headNod": -1.0, "mouthSmile": 1.0, "mouthStretch": 1.0},
        ]
    )
    base = luma(studio.frames)[BASE_FRAME, at.rows, at.columns]
    for frame in luma(drawn(studio, everything)):
        mine = frame[at.rows, at.columns]
        for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
            np.testing.assert_array_equal(mine[edge], base[edge])
        for near in (np.s_[2:5], np.s_[-5:-2], np.s_[:, 2:5], np.s_[:, -5:-2]):
            assert np.abs(mine[near] - base[near]).mean() <= 1.0


def test_batches_are_what_single_frames_are(studio: Studio) -> None:
    values = torch.rand(9, len(NAMES), generator=torch.Generator().manual_seed(3)) * 0.6
    together = studio.patches(values)
    np.testing.assert_array_equal(together, studio.patches(values))
    for row, patch in zip(values, together, strict=True):
        apart = np.abs(studio.patches(row[None])[0].astype(np.int16) - patch)
        assert apart.max() <= 1


def test_any_coefficients_give_a_picture(studio: Studio) -> None:
    wild = torch.cat([torch.ones(1, len(NAMES)), -torch.ones(1, len(NAMES)), 3 * torch.eye(len(NAMES))])
    frames = drawn(studio, wild)
    assert frames.shape == (len(wild), SIZE * SIZE * 3 // 2)


def test_every_coefficient_moves_the_picture(studio: Studio) -> None:
    for name in NAMES:
        shape = {"jawOpen": 0.4, name: 1.0} if name != "jawOpen" else {"jawOpen": 1.0}
        with_it = coefficients_of([shape, {"jawOpen": 0.4}])
        one, other = luma(drawn(studio, with_it))
        assert np.abs(one - other).max() > 20, name


def test_lips_drag_nothing_beyond_the_face(studio: Studio) -> None:
    face = measure(studio.bundle)
    base = luma(studio.frames)[BASE_FRAME]
    wide = luma(drawn(studio, coefficients_of([{"mouthStretch": 1.0}, {"mouthPucker": 1.0}])))
    beyond = np.ones((SIZE, SIZE), bool)
    aside = 1.2 * face.jaw_half
    beyond[:, round(face.face_x - aside) : round(face.face_x + aside)] = False
    assert np.abs(wide - base)[:, beyond].max() == 0


def test_inner_brows_go_up_and_eyes_stay(studio: Studio) -> None:
    face = measure(studio.bundle)
    base = luma(studio.frames)[BASE_FRAME]
    raised = luma(drawn(studio, coefficients_of([{"browInnerUp": 1.0}])))[0]
    x, y = (round(part) for part in face.left_brow)
    assert np.abs(raised - base)[y - 10 : y + 5, x - 12 : x + 4].mean() > 2
    rows = slice(round(face.y), round(face.chin))
    assert np.abs(raised - base)[rows].max() <= 1


def test_sheet_has_a_row_for_each_avatar_and_a_column_for_each_shape() -> None:
    bundle = AvatarStore(None).load("default")
    sheet = contact_sheet([bundle])
    assert sheet.width == CELL * len(SHAPES)
    assert sheet.height > CELL
    cells = np.asarray(sheet.convert("L"), np.int16)[-CELL:].reshape(CELL, len(SHAPES), CELL)
    rest, aa = cells[:, 0], cells[:, list(SHAPES).index("aa")]
    assert np.abs(rest - aa).mean() > 5


def test_shapes_name_coefficients() -> None:
    assert {name for shape in SHAPES.values() for name in shape} <= set(INDEX)
