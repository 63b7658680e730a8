"""Models are found by name, and refusals say what there is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from serve_app.errors import ModelNotLoaded
from serve_app.models.neural import checkpoint
from serve_app.models.registry import MODEL_NAMES, NEURAL, RANDOM, load_model, weights_folder
from serve_app.weights.catalogue import CATALOGUE

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("fps", [25, 30])
def test_every_name_loads(name: str, fps: int) -> None:
    weights = RANDOM if name in NEURAL else None
    spec = load_model(name, fps=fps, device="cpu", weights=weights).spec
    assert (spec.name, spec.fps, spec.width, spec.height) == (name, fps, 512, 512)


def test_unknown_name_lists_the_models() -> None:
    with pytest.raises(ModelNotLoaded, match=r"portrait, tracer, musetalk, liveportrait; found 'wav2lip'"):
        load_model("wav2lip", fps=30, device="cpu", weights=None)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ModelNotLoaded, match="found 'tpu'"):
        load_model("portrait", fps=30, device="tpu", weights=None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ModelNotLoaded, match="expected a CUDA device"):
        load_model("portrait", fps=30, device="cuda", weights=None)


def test_every_neural_model_has_weights_to_fetch() -> None:
    assert set(NEURAL) == set(CATALOGUE)
    assert checkpoint.RANDOM == RANDOM


@pytest.mark.parametrize("name", NEURAL)
def test_weights_that_were_not_fetched_name_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AVATAR_MODELS", str(tmp_path))
    for given in (None, CATALOGUE[name].files[0].repo):
        with pytest.raises(ModelNotLoaded, match=f"avatar models pull {name}"):
            load_model(name, fps=25, device="cpu", weights=given)
    assert not list(tmp_path.iterdir())


def test_folder_of_weights_may_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert weights_folder("musetalk", str(tmp_path)) == str(tmp_path)
    with pytest.raises(ModelNotLoaded, match="in the folder '/no/such'"):
        weights_folder("musetalk", "/no/such")
    assert not caplog.records
    assert weights_folder("musetalk", RANDOM) == RANDOM
    assert "for tests only" in caplog.text


def test_missing_extra_names_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model_that_needs.py").write_text("import diffusers.models")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(NEURAL, "musetalk", "model_that_needs:Model")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelNotLoaded, match=r"'diffusers', found none.*pip install 'serve-app\[neural\]'"):
        load_model("musetalk", fps=25, device="cpu", weights=RANDOM)
