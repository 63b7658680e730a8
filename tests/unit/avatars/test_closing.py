"""Smiles are shut: the lips meet, and what is not around the mouth stays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from serve_app.avatars.bundle import Landmarks, height
from serve_app.avatars.closing import close_mouth
from serve_app.avatars.store import AvatarStore
from serve_app.nouns import UInt8

pytestmark = pytest.mark.unit


@pytest.fixture
def smile() -> tuple[UInt8, Landmarks]:
    """Return a portrait whose lips are 10 px apart in the middle, and white between."""
    bundle = AvatarStore(None).load("default")
    face, picture = bundle.landmarks, bundle.portrait.copy()
    line = face.upper_lip_inner
    arch = 5 * (1 - ((line[:, 0] - 256) / 38) ** 2)
    upper, lower = line.copy(), line.copy()
    upper[:, 1] -= arch
    lower[:, 1] += arch
    for x in range(round(float(line[0, 0])), round(float(line[-1, 0]))):
        picture[round(height(upper, x)) : round(height(lower, x)), x] = 255
    # The lips themselves are where they were: as thick as the gap leaves them.
    outer_up, outer_down = face.upper_lip_outer.copy(), face.lower_lip_outer.copy()
    outer_up[1:-1, 1] -= 6
    outer_down[1:-1, 1] += 6
    return picture, dataclasses.replace(
        face,
        upper_lip_inner=upper,
        lower_lip_inner=lower,
        upper_lip_outer=outer_up,
        lower_lip_outer=outer_down,
    )


def test_nothing_is_left_between_the_lips(smile: tuple[UInt8, Landmarks]) -> None:
    picture, face = smile
    closed, after = close_mouth(picture, face)
    assert (picture[290:320, 225:288].min(axis=2) == 255).sum() > 200
    assert (closed[290:320, 225:288].min(axis=2) > 240).sum() < 20
    np.testing.assert_array_equal(after.upper_lip_inner, after.lower_lip_inner)
    middle = height(after.upper_lip_inner, 256)
    assert height(face.upper_lip_inner, 256) < middle < height(face.lower_lip_inner, 256)
    assert height(after.upper_lip_outer, 256) < middle < height(after.lower_lip_outer, 256)


def test_the_rest_of_the_picture_stays(smile: tuple[UInt8, Landmarks]) -> None:
    picture, face = smile
    closed, _ = close_mouth(picture, face)
    changed = np.nonzero((closed != picture).any(axis=2))
    assert changed[0].min() >= height(face.nose, 256) - 1
    assert changed[0].max() <= face.jaw[:, 1].max() + 1
    assert changed[1].min() >= face.upper_lip_inner[0, 0] - 4
    assert changed[1].max() <= face.upper_lip_inner[-1, 0] + 4


def test_closed_mouth_is_left_alone() -> None:
    bundle = AvatarStore(None).load("default")
    closed, face = close_mouth(bundle.portrait, bundle.landmarks)
    assert closed is bundle.portrait
    assert face is bundle.landmarks
