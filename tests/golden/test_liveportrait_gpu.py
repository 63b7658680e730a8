"""LivePortrait on a GPU: half precision, compiled and captured, against float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from serve_app.models.liveportrait.networks import Networks, build, place
from serve_app.models.liveportrait.sizes import OFFICIAL
from serve_app.models.neural.batching import BucketedStep
from tests.golden import recipe
from tests.golden.half import LIKENESS_DB, likeness_db

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]

CASES = recipe.cases("liveportrait")
MODULES = {"warping": "warping_module", "generator": "spade_generator"}


def filled() -> Networks:
    networks = build(OFFICIAL)
    for part, name in MODULES.items():
        recipe.fill(getattr(networks, part), "a", name)
    return networks


def inputs(device: torch.device) -> tuple[Tensor, ...]:
    """Return three rows of feature, source and driving keypoints; the rows differ."""
    feature = recipe.make_input("a", "warping_module.feature_3d", (1, 32, 16, 64, 64), 0.7)
    source, driving = (CASES.tensor(f"a/warping/{name}") for name in ("kp_source", "kp_driving"))
    ways = torch.tensor([1.0, 0.5, -0.3])[:, None, None]
    rows = (feature.expand(3, -1, -1, -1, -1), source.expand(3, -1, -1), source + ways * (driving - source))
    return tuple(row.contiguous().to(device) for row in rows)


@pytest.fixture(scope="module")
def reference() -> Iterator[Tensor]:
    """Return the pictures of the networks as published, float32, [3, 3, 512, 512] on the CPU."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda")
    networks = filled()
    for part in MODULES:
        getattr(networks, part).to(device)
    feature, source, driving = inputs(device)
    with torch.inference_mode():
        compressed = networks.warping.compressed(feature)
        given = (feature, compressed, source, driving)
        rows = [networks.picture(*(value[row : row + 1] for value in given)) for row in range(len(feature))]
    yield torch.cat(rows).cpu()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("mode", ["eager", "compile", "graphs"])
def test_picture_in_half_precision(mode: str, reference: Tensor) -> None:
    device = torch.device("cuda")
    networks = place(filled(), device)
    feature, source, driving = inputs(device)
    with torch.inference_mode():
        compressed = networks.warping.compressed(feature)
        step = BucketedStep(networks.picture, buckets=(2, 4), device=device, mode=mode)
        step.warm(
            lambda batch: tuple(
                value[:1].expand(batch, *value.shape[1:]).contiguous()
                for value in (feature, compressed, source, driving)
            )
        )
        pictures = step(feature, compressed, source, driving).float().cpu()
    assert step.mode == mode
    likeness = likeness_db(pictures, reference)
    assert (likeness >= LIKENESS_DB).all(), f"expected {LIKENESS_DB} dB, found {likeness.tolist()}"
