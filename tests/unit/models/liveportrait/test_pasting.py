"""Cutting a face out and laying it back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from serve_app.avatars.bundle import AvatarBundle
from serve_app.models.drawing.place import Rectangle
from serve_app.models.i420 import rgb
from serve_app.models.liveportrait import crop, pasting
from serve_app.nouns import UInt8

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def square_of(bundle: AvatarBundle) -> crop.Square:
    face = bundle.landmarks
    return crop.square(crop.points_of(face), crop.centres_of(face), crop.SOURCE_SCALE, crop.SOURCE_SHIFT)


def laid(bundle: AvatarBundle, pictures: torch.Tensor) -> tuple[UInt8, pasting.Pasting]:
    where = pasting.pasting(bundle, square_of(bundle), pictures.shape[2], CPU)
    patches = pasting.paste(pictures, where.tensors).numpy()
    return pasting.inlaid(pasting.still(bundle), patches, where.place), where


def test_what_was_cut_out_fits_back(bundle: AvatarBundle) -> None:
    whole = pasting.cut(bundle, square_of(bundle), 512, CPU)
    frames, _ = laid(bundle, whole)
    gap = np.abs(frames[0].astype(np.int16) - pasting.still(bundle))
    assert gap.mean() < 0.5
    assert np.percentile(gap, 99) <= 6


def test_pictures_change_only_what_is_near_the_person(bundle: AvatarBundle) -> None:
    frames, where = laid(bundle, torch.rand(2, 3, 128, 128))
    shown, before = (rgb(frame, 512, 512).astype(int) for frame in (frames[0], pasting.still(bundle)))
    changed = np.abs(shown - before).max(axis=2) > 8
    assert changed.any()
    rows, columns = changed.nonzero()
    assert where.place.y <= rows.min()
    assert rows.max() < where.place.y + where.place.h
    assert where.place.x <= columns.min()
    assert columns.max() < where.place.x + where.place.w
    room = 2 * pasting.ROOM_PX
    far = np.ones((512, 512), bool)
    for y, x in np.argwhere(bundle.matte[::4, ::4] > 0) * 4:
        far[max(0, y - room) : y + room, max(0, x - room) : x + room] = False
    assert far.any()
    assert not changed[far].any()


def test_inside_of_the_face_is_the_picture(bundle: AvatarBundle) -> None:
    colour = torch.tensor([0.2, 0.6, 0.4]).reshape(1, 3, 1, 1)
    frames, _ = laid(bundle, colour.expand(1, 3, 64, 64))
    x, y = (int(value) for value in crop.centres_of(bundle.landmarks).lip)
    middle = rgb(frames[0], 512, 512)[y - 20 : y, x - 20 : x + 20]
    assert np.abs(middle.astype(int) - np.array([51, 153, 102])).max() <= 2


def test_avatar_without_a_person_gets_a_patch(bundle: AvatarBundle) -> None:
    empty = dataclasses.replace(bundle, matte=np.zeros_like(bundle.matte))
    frames, where = laid(empty, torch.rand(1, 3, 64, 64))
    assert (where.place.w, where.place.h) == (512, 512)
    assert np.abs(frames[0].astype(int) - pasting.still(empty)).max() <= 1


def test_source_is_black_beyond_the_portrait(bundle: AvatarBundle) -> None:
    far = crop.Square(np.array([0.0, 0.0]), 512.0, 0.0)
    seen = pasting.cut(
        dataclasses.replace(bundle, portrait=np.full((512, 512, 3), 200, np.uint8)), far, 256, CPU
    )
    assert seen[0, :, :120, :120].max() == 0.0
    assert seen[0, :, 136:, 136:].min() == pytest.approx(200 / 255, abs=1e-5)


def test_patches_lie_where_they_belong() -> None:
    place = Rectangle(10, 20, 4, 6)
    patches = np.arange(36, dtype=np.uint8)[None] + 100
    frame = pasting.inlaid(np.zeros(512 * 512 * 3 // 2, np.uint8), patches, place)[0]
    luma, chroma = frame[: 512 * 512].reshape(512, 512), frame[512 * 512 :].reshape(2, 256, 256)
    assert luma[20:26, 10:14].flatten().tolist() == list(range(100, 124))
    assert chroma[0, 10:13, 5:7].flatten().tolist() == list(range(124, 130))
    assert chroma[1, 10:13, 5:7].flatten().tolist() == list(range(130, 136))
    assert int((frame > 0).sum()) == 36
