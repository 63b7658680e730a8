"""Models by name. Each is imported when it is asked for, so a server pays only for what it runs."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import cast

from serve_app.errors import ModelNotLoaded
from serve_app.models.base import Model
from serve_app.weights.cache import WeightsCache
from serve_app.weights.catalogue import weights_of

logger = logging.getLogger("serve_app.models")

NEURAL = {
    "musetalk": "serve_app.models.musetalk.model:MuseTalk",
    "liveportrait": "serve_app.models.liveportrait.model:LivePortrait",
}
"""Models with weights to fetch, by name: where their classes are."""

MODEL_NAMES = ("portrait", "tracer", *NEURAL)
"""What `load_model` accepts."""

RANDOM = "random"
"""Weights that are invented, for tests; as serve_app.models.neural.checkpoint.RANDOM, without torch."""

EXTRA = "neural"
LIBRARIES = {"diffusers", "transformers", "huggingface_hub"}
"""What the extra brings."""


def load_model(name: str, *, fps: int, device: str, weights: str | None) -> Model:
    """Load a model.

    Args:
        name: one of MODEL_NAMES.
        fps: frames per second it shall make.
        device: "cpu", "cuda", or "auto" for cuda where there is one.
        weights: folder or file; None for the model's own, or for what `avatar models pull` fetched; RANDOM
            for a small neural network that was taught nothing.

    Raises:
        ModelNotLoaded: no such model, device or weights, or the libraries of its extra are not installed;
            the text says what there is, or what to run.
    """
    if name == "tracer":
        from serve_app.models.tracer import Tracer

        return Tracer(fps=fps, device=device, weights=weights)
    if name == "portrait":
        from serve_app.models.portrait import Portrait

        return Portrait(fps=fps, device=_device(device), weights=weights)
    if name in NEURAL:
        return _load_neural(name, fps=fps, device=_device(device), weights=weights_folder(name, weights))
    raise ModelNotLoaded(f"expected a model of: {', '.join(MODEL_NAMES)}; found {name!r}")


def weights_folder(name: str, given: str | None) -> str:
    """Return the folder of a neural model's weights, or RANDOM; nothing is fetched here.

    Args:
        name: one of NEURAL.
        given: a folder in its publisher's layout, RANDOM, or None or one of its repositories' ids on the hub
            for what was fetched.

    Raises:
        ModelNotLoaded: no such folder, or nothing was fetched; the text names the command that does.
    """
    if given == RANDOM:
        logger.warning(
            "model %r has invented weights: it moves, but not as speech does; for tests only", name
        )
        return RANDOM
    weights = weights_of(name)
    if given is None or given in {file.repo for file in weights.files}:
        return str(WeightsCache().require(weights))
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise ModelNotLoaded(f"model {name!r}: expected its weights in the folder {given!r}, found none")
    return str(folder)


def _load_neural(name: str, *, fps: int, device: str, weights: str) -> Model:
    place, _, kind = NEURAL[name].partition(":")
    try:
        made = getattr(importlib.import_module(place), kind)(fps=fps, device=device, weights=weights)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in LIBRARIES:
            raise
        raise ModelNotLoaded(
            f"model {name!r}: expected the library {missing!r}, found none; "
            f"install it with: pip install 'serve-app[{EXTRA}]'"
        ) from error
    return cast("Model", made)


def _device(device: str) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device not in ("cpu", "cuda"):
        raise ModelNotLoaded(f"expected a device of: auto, cpu, cuda; found {device!r}")
    if device == "cuda" and not has_cuda:
        raise ModelNotLoaded("device 'cuda': expected a CUDA device, found none; use 'auto' or 'cpu'")
    return device
