"""Models are found by name, and refusals say what there is."""

from __future__ import annotations

import pytest
import torch

from serve_app.errors import ModelNotLoaded
from serve_app.models.registry import MODEL_NAMES, load_model

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("fps", [25, 30])
def test_every_name_loads(name: str, fps: int) -> None:
    spec = load_model(name, fps=fps, device="auto", weights=None).spec
    assert (spec.name, spec.fps, spec.width, spec.height) == (name, fps, 512, 512)


def test_unknown_name_lists_the_models() -> None:
    with pytest.raises(ModelNotLoaded, match=r"portrait, tracer; found 'wav2lip'"):
        load_model("wav2lip", fps=30, device="cpu", weights=None)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ModelNotLoaded, match="found 'tpu'"):
        load_model("portrait", fps=30, device="tpu", weights=None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ModelNotLoaded, match="expected a CUDA device"):
        load_model("portrait", fps=30, device="cuda", weights=None)
