"""Pictures come off the device whole, in order and under their names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serve_app.models.drawing.place import Rectangle
from serve_app.models.neural.landing import Copies, clips
from serve_app.nouns import Clip, ClipFailure, Window

pytestmark = pytest.mark.unit

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    ),
]


def rows(first: int, count: int) -> torch.Tensor:
    """Return pictures that say which they are, [count, 6]."""
    return torch.arange(first, first + count, dtype=torch.uint8)[:, None].expand(-1, 6).contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_arrive_in_the_order_they_were_made(device: str) -> None:
    landing = Copies(torch.device(device)).landing({"ann": 5, "bob": 2})
    landing.add("ann", rows(0, 3).to(device))
    landing.add("ann", rows(3, 1).to(device))
    landing.add("bob", rows(100, 2).to(device))
    landing.add("ann", rows(4, 1).to(device))
    arrays = landing.arrays()
    assert arrays["ann"].tolist() == rows(0, 5).tolist()
    assert arrays["bob"].tolist() == rows(100, 2).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_what_arrived_is_not_written_to_again(device: str) -> None:
    copies = Copies(torch.device(device))
    pictures = rows(7, 2).to(device)
    first = copies.landing({"ann": 2})
    first.add("ann", pictures)
    kept = first.arrays()["ann"]
    pictures.zero_()
    second = copies.landing({"ann": 2})
    second.add("ann", pictures)
    assert second.arrays()["ann"].max() == 0
    assert kept.tolist() == rows(7, 2).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_waits_for_its_pictures_and_not_for_the_work_behind_them() -> None:
    device = torch.device("cuda")
    busy = torch.randn(4096, 4096, device=device)
    landing = Copies(device).landing({"ann": 64})
    for number in range(64):
        pictures = (busy @ busy)[:1, :6].mul(0).to(torch.uint8) + number
        landing.add("ann", pictures)
    behind = torch.cuda.Event()  # type: ignore[no-untyped-call]
    for _ in range(200):
        busy = (busy @ busy).clamp(-1, 1)
    behind.record()
    arrived = landing.arrays()["ann"]
    assert not behind.query()  # type: ignore[no-untyped-call]
    assert arrived[:, 0].tolist() == list(range(64))


def test_clips_are_cut_from_their_avatars_pictures() -> None:
    def window(session_id: str, avatar_id: str, num_frames: int) -> Window:
        speech = np.zeros(0, np.int16)
        return Window(session_id, 0, 0, avatar_id, 0, num_frames, 0, speech, 0, is_last=False)

    windows = [window("a", "ann", 2), window("b", "ann", 1), window("c", "bob", 2), window("d", "ann", 1)]
    failed = ClipFailure("frame_not_finite", "expected numbers")
    pixels = {"ann": rows(0, 4).numpy(), "bob": rows(50, 2).numpy()}
    place = Rectangle(2, 4, 2, 2)
    results = clips(windows, [None, failed, None, None], pixels, {"ann": place, "bob": place})
    assert results[1] is failed
    shown = [(one.session_id, one.patches[:, 0].tolist()) for one in results if isinstance(one, Clip)]
    assert shown == [("a", [0, 1]), ("c", [50, 51]), ("d", [3])]
