"""Boxes and crops of faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serve_app.models.musetalk import crop
from serve_app.models.musetalk.networks import SIDE

pytestmark = pytest.mark.unit


def boxes(*edges: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(edges, dtype=torch.float32)


def test_box_is_centred_on_the_nose() -> None:
    points = np.zeros((2, 68, 2))
    points[:, :, 0] = np.linspace(100, 200, 68)
    points[:, :, 1] = 150
    points[0, [8, crop.NOSE], 1] = 260, 180
    points[1, [8, crop.NOSE], 1] = 260, 120
    assert crop.face_box(points).tolist() == [[100, 100, 200, 260], [100, 0, 200, 260]]


def test_margin_stays_within_the_frame() -> None:
    low = crop.lowered(np.array([[10.0, 20.0, 90.0, 400.0], [10.0, 20.0, 90.0, 507.0]]), 512)
    assert low[:, 3].tolist() == [410.0, 512.0]


def test_crop_of_the_networks_own_size_is_the_picture() -> None:
    picture = torch.rand(1, 3, 300, 320)
    (face,) = crop.faces(picture, boxes((20, 30, 20 + SIDE, 30 + SIDE)))
    torch.testing.assert_close(face, picture[0, :, 30 : 30 + SIDE, 20 : 20 + SIDE], atol=1e-6, rtol=0)


def test_crop_follows_parts_of_a_pixel() -> None:
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(220.0), indexing="ij")
    wave = 0.5 + 0.2 * torch.sin(x / 9) + 0.2 * torch.cos(y / 7)
    where = boxes((30.25, 40.5, 150.75, 170.5))
    (face,) = crop.faces(wave[None, None], where)
    index = torch.arange(SIDE) + 0.5
    at_x = 30.25 + index * (150.75 - 30.25) / SIDE - 0.5
    at_y = 40.5 + index * (170.5 - 40.5) / SIDE - 0.5
    wanted = 0.5 + 0.2 * torch.sin(at_x / 9) + 0.2 * torch.cos(at_y / 7)[:, None]
    assert (face[0] - wanted).abs().max() < 1e-3


def test_crop_repeats_the_edge_outside_of_the_picture() -> None:
    picture = torch.full((1, 1, 100, 100), 0.3)
    (face,) = crop.faces(picture, boxes((-20, 60, 70, 130)))
    torch.testing.assert_close(face, torch.full_like(face, 0.3), atol=1e-5, rtol=0)


def test_weights_are_lanczos_with_four_lobes() -> None:
    (matrix,) = crop.lanczos(torch.tensor([50.0]), torch.tensor([50.0 + SIDE / 2]), 300)
    torch.testing.assert_close(matrix.sum(1), torch.ones(SIDE))
    # The 21st place lies a quarter of a pixel before the middle of pixel 60.
    distance = np.arange(56, 64) - 59.75
    wanted = np.sinc(distance) * np.sinc(distance / 4)
    np.testing.assert_allclose(matrix[20, 56:64].numpy(), wanted / wanted.sum(), atol=1e-5)
    assert matrix[20].count_nonzero() == 8
