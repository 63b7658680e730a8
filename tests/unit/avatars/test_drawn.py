"""The built-in avatar is what its drawing makes."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.avatars.bundle import height
from serve_app.avatars.drawn import draw
from serve_app.avatars.store import AvatarStore

pytestmark = pytest.mark.unit


def test_shipped_avatar_is_reproduced() -> None:
    drawn, shipped = draw(), AvatarStore(None).load("default")
    for name in ("avatar_id", "name", "source", "motion"):
        assert getattr(drawn, name) == getattr(shipped, name)
    for name, points in drawn.landmarks.contours().items():
        np.testing.assert_allclose(points, shipped.landmarks.contours()[name], atol=1e-3)
    # Versions of the drawing library round edges differently.
    for name in ("portrait", "matte", "background"):
        apart = np.abs(getattr(drawn, name).astype(int) - getattr(shipped, name))
        assert apart.mean() < 0.2


def test_lips_are_where_the_landmarks_say() -> None:
    bundle = AvatarStore(None).load("default")
    face = bundle.landmarks
    redness = bundle.portrait[..., 0].astype(int) - bundle.portrait[..., 1]
    line, chin = height(face.upper_lip_inner, 256), round(float(face.jaw[:, 1].max()))
    lower_lip = round((line + height(face.lower_lip_outer, 256)) / 2)
    assert redness[lower_lip, 256] > redness[chin - 12, 256] + 20
    shade = bundle.portrait[round(line) - 2 : round(line) + 3, 256].sum(axis=1)
    assert shade.min() < bundle.portrait[lower_lip, 256].sum() - 60


def test_matte_is_the_person_and_the_wall_is_behind() -> None:
    bundle = AvatarStore(None).load("default")
    assert bundle.matte[:40].max() == 0
    assert bundle.matte[200:500, 200:300].min() == 255
    wall = bundle.matte == 0
    np.testing.assert_array_equal(bundle.portrait[wall], bundle.background[wall])
