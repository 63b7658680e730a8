"""Writes the weights that the server loads, as a checkpoint has them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from serve_app.models.hearing import WEIGHTS
from serve_app.models.hearing_network import HearingNetwork


def trained(folder: Path) -> HearingNetwork:
    """Return the network of a folder's checkpoint.

    Raises:
        FileNotFoundError: nothing has been trained there.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint at {path}: run `train` first")
    network = HearingNetwork()
    network.load_state_dict(torch.load(path, weights_only=True)["mean"])
    return network.eval()


def export(network: HearingNetwork, path: Path = WEIGHTS) -> None:
    """Write a network's weights as safetensors; the same weights give the same file."""
    weights = {name: tensor.contiguous() for name, tensor in sorted(network.state_dict().items())}
    save_file(weights, path, metadata={"network": "serve_app.models.hearing_network"})
    path.chmod(0o644)  # the file came into being readable by its owner alone
