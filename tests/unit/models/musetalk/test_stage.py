"""A prepared avatar: what is cut out of a base frame goes back to where it was."""

from __future__ import annotations

import pytest
import torch

from serve_app.models.drawing.place import Rectangle
from serve_app.models.musetalk import blending, crop
from serve_app.models.musetalk.model import MuseTalk

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("avatar_id", ["default", "filmed"])
def test_painting_what_was_seen_changes_nothing(musetalk: MuseTalk, avatar_id: str) -> None:
    group = musetalk._resident.get(avatar_id)
    loop, place = musetalk._avatars[avatar_id]
    some = slice(0, 8)
    frames, boxes = torch.from_numpy(loop.frames[some].copy()), group["boxes"][some]
    seen = crop.faces(blending.to_rgb(frames, loop.width, loop.height), boxes)
    painted = blending.to_i420(blending.pasted(seen, boxes, place))
    base, cover = group["base"][some], group["cover"][some]
    result = blending.blended(base, painted, cover)
    noise = ((result.float() - base.float()) / 255).square().mean()
    assert -10 * noise.log10() > 45
    shifted = blending.to_i420(blending.pasted(seen, boxes + torch.tensor([1.0, 0.0, 1.0, 0.0]), place))
    apart = ((blending.blended(base, shifted, cover).float() - base.float()) / 255).square().mean()
    assert apart > 4 * noise


def test_colours_come_back() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, 4, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    flat = blending.to_i420(pictures)
    assert flat.shape == (2, 48 * 32 * 3 // 2)
    again = blending.to_rgb(flat.round().to(torch.uint8), 48, 32)
    inner = torch.zeros(32, 48, dtype=torch.bool)
    inner.view(4, 8, 6, 8)[:, 2:6, :, 2:6] = True
    assert (again - pictures).abs()[..., inner].max() < 0.02


def test_blend_keeps_and_hides() -> None:
    base = torch.tensor([10, 10, 10], dtype=torch.uint8)
    painted = torch.tensor([200.0, 200.0, 200.4])
    cover = torch.tensor([0, 255, 128], dtype=torch.uint8)
    assert blending.blended(base, painted, cover).tolist() == [10, 200, 106]


def test_paste_repeats_edges_outside_of_the_box() -> None:
    face = torch.zeros(1, 1, 256, 256)
    face[..., :128] = 1.0
    (pasted,) = blending.pasted(face, torch.tensor([[20.0, 20.0, 60.0, 60.0]]), Rectangle(10, 10, 60, 60))
    assert pasted[0, :, :28].min() == 1.0
    assert pasted[0, :, 32:].max() == 0.0
