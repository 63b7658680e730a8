"""Models by name. Each is imported when it is asked for, so a server pays only for what it runs."""

from __future__ import annotations

from serve_app.errors import ModelNotLoaded
from serve_app.models.base import Model

MODEL_NAMES = ("portrait", "tracer")
"""What `load_model` accepts."""


def load_model(name: str, *, fps: int, device: str, weights: str | None) -> Model:
    """Load a model.

    Args:
        name: one of MODEL_NAMES.
        fps: frames per second it shall make.
        device: "cpu", "cuda", or "auto" for cuda where there is one.
        weights: folder, file or hub id; None for the model's own.

    Raises:
        ModelNotLoaded: no such model, device or weights; the text says what there is.
    """
    if name == "tracer":
        from serve_app.models.tracer import Tracer

        return Tracer(fps=fps, device=device, weights=weights)
    if name == "portrait":
        from serve_app.models.portrait import Portrait

        return Portrait(fps=fps, device=_device(device), weights=weights)
    raise ModelNotLoaded(f"expected a model of: {', '.join(MODEL_NAMES)}; found {name!r}")


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
