"""The reference's recipe, typed: synthetic weights, inputs, stored cases and the limits of agreement.

`data/README.md` specifies all of it; `data/fill_weights.py` is the recipe itself and stays as it came.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"

LIMITS = {
    "liveportrait": {
        "appearance": 1e-4,
        "motion": 1e-4,
        "motion_black": 1e-4,
        "generator": 1e-4,
        "retarget": 1e-4,
        "transform": 1e-4,
        "relative": 1e-4,
        "camera": 1e-4,
        "geometry": 1e-5,
        "warping": 1e-3,
        "chain": 1e-3,
    },
    "musetalk": {"audio": 3e-4, "unet": 3e-4, "vae": 3e-4, "chain": 1e-3},
}
"""Largest `Cases.error` of a group in float32 on a CPU: the table of section 3."""

LEVELS, SHARE = 1, 0.01
"""8-bit pictures and masks may differ by LEVELS on a SHARE of their pixels."""

Module = TypeVar("Module", bound=nn.Module)


@functools.cache
def _recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill_weights", DATA / "fill_weights.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"expected a module at {DATA / 'fill_weights.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(module: Module, case: str, name: str) -> Module:
    """Load the synthetic weights of a manifest's module strictly, and set eval mode.

    Args:
        module: its state dict has exactly the keys and shapes of the manifest.
        case: "a" or "b".
        name: the module's name in the manifest, such as "spade_generator".
    """
    _recipe().fill_module(module, case, name)
    return module


def state_dict(manifest: str, case: str, name: str) -> dict[str, Tensor]:
    """Return a module's synthetic weights by the keys of a manifest, "liveportrait" or "musetalk"."""
    tensors: dict[str, Tensor] = _recipe().state_dict_from_manifest(
        str(DATA / f"{manifest}_manifest.json"), case, name
    )
    return tensors


def write_checkpoints(manifest: str, case: str, folder: Path, modules: Sequence[str] = ()) -> None:
    """Write synthetic weights as torch files with the official names, nesting and prefixes."""
    _recipe().write_checkpoints(str(DATA / f"{manifest}_manifest.json"), case, str(folder), list(modules))


def make_input(case: str, name: str, shape: Sequence[int], std: float = 1.0) -> Tensor:
    """Return a synthetic input, float32: std times the normal numbers of the name's own generator."""
    return torch.from_numpy(_recipe().make_input(case, name, tuple(shape), std))


def self_check() -> int:
    """Return how many of the recipe's known checksums fail on this machine, and print them all."""
    return int(_recipe().self_check())


@dataclass(frozen=True)
class Cases:
    """The stored inputs and outputs of one model.

    Attributes:
        model: "liveportrait" or "musetalk".
        tensors: stored arrays by name ("a/motion/kp"); large ones are subsamples, see section 3.
        index: whole shape, dtype and stride by name.
    """

    model: str
    tensors: dict[str, npt.NDArray[Any]]
    index: dict[str, dict[str, Any]]

    def whole(self, name: str) -> npt.NDArray[Any]:
        """Return an array that is stored whole.

        Raises:
            ValueError: only a subsample of it is stored.
        """
        if self.index[name]["stride"] != 1:
            raise ValueError(
                f"{name}: expected an array that is stored whole, found every {self.index[name]}"
            )
        return self.tensors[name]

    def tensor(self, name: str) -> Tensor:
        """Return an array that is stored whole, as a float32 tensor; 8-bit values become value / 255."""
        array = self.whole(name)
        scale = np.float32(255.0) if array.dtype == np.uint8 else np.float32(1.0)
        return torch.from_numpy(array.astype(np.float32) / scale)

    def error(self, candidate: Tensor | npt.NDArray[Any], name: str) -> float:
        """Return the normalised error of a whole candidate; infinite for a wrong shape or a NaN."""
        return float(_recipe().error(candidate, name, self.tensors, self.index))

    def limit(self, name: str) -> float:
        """Return the limit of a name's group ("a/motion/kp" is of the group "motion")."""
        return LIMITS[self.model][name.split("/")[1]]

    def check(self, candidate: Tensor | npt.NDArray[Any], name: str) -> None:
        """Assert that a candidate agrees with what is stored under a name."""
        error, limit = self.error(candidate, name), self.limit(name)
        assert error <= limit, f"{self.model} {name}: expected an error of at most {limit:g}, found {error:g}"

    def check_pixels(self, candidate: npt.NDArray[np.uint8], name: str) -> None:
        """Assert that an 8-bit picture or mask agrees with what is stored under a name."""
        info = self.index[name]
        assert list(candidate.shape) == info["shape"], f"{name}: {candidate.shape} is not {info['shape']}"
        mine = np.ascontiguousarray(candidate)
        mine = mine if info["stride"] == 1 else mine.reshape(-1)[:: info["stride"]]
        gap = np.abs(mine.astype(np.int16) - self.tensors[name].astype(np.int16))
        differing = float((gap > 0).mean())
        assert gap.max() <= LEVELS, f"{name}: expected a gap of at most {LEVELS}, found {gap.max()}"
        assert differing <= SHARE, f"{name}: expected {SHARE:.0%} of pixels to differ, found {differing:.2%}"


@functools.cache
def cases(model: str) -> Cases:
    """Return the stored cases of "liveportrait" or "musetalk"."""
    tensors, index = _recipe().load_cases(str(DATA / f"{model}_cases.safetensors"))
    return Cases(model, tensors, index)
