"""What torch.compile makes of a network, kernels and all, against the network as torch runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from serve_app.models.liveportrait.networks import load
from serve_app.models.neural.batching import BucketedStep
from tests.golden.half import LIKENESS_DB, likeness_db

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, as torch's CPU kernels do"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


def test_compiled_pictures_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    device = torch.device("cpu")
    networks = load("random", device)
    sizes = networks.sizes
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, sizes.volume, sizes.depth, sizes.grid, sizes.grid, generator=generator)
    source = 0.3 * torch.randn(2, 21, 3, generator=generator)
    driving = source + 0.02 * torch.randn(2, 21, 3, generator=generator)
    with torch.inference_mode():
        given = (feature, networks.warping.compressed(feature).float(), source, driving)
        exact = networks.picture(*given)
    step = BucketedStep(networks.picture, buckets=(2,), device=device, mode="compile")
    step.warm(lambda size: tuple(value[:size] for value in given))
    pictures = step(*given)
    assert step.mode == "compile"
    assert any(tmp_path.rglob("*.so"))
    assert likeness_db(pictures, exact).min() >= LIKENESS_DB
    assert exact.std() > 0.01
