"""Weights of others: reads the files they are published in and fills networks with them, strictly.

Nothing here executes what a file holds: safetensors have no code, and pickles are read by torch's
restricted unpickler.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve_app.errors import ModelNotLoaded

RANDOM = "random"
"""Value of a model's `weights` that asks for small networks with invented weights. For tests alone."""

PREFIXES = ("module.", "model.")
"""What wrappers put before every key: DataParallel, and training loops that call their network `model`."""

COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps: inference does not read it and many files lack it."""

NAMED = 8
"""Keys of each kind of fault that a message names."""

POWER_STEPS = 8


def read_tensors(file: Path) -> dict[str, Any]:
    """Return what a file of weights holds; its large tensors are mapped, not read, where the format can.

    Args:
        file: .safetensors, or .pth, .pt or .bin of torch.save.

    Returns:
        Tensors on the CPU by their keys; mappings within mappings stay so.

    Raises:
        ModelNotLoaded: there is no such file, it is cut off, or it does not hold weights.
    """
    if not file.is_file():
        raise ModelNotLoaded(f"expected weights in {str(file)!r}, found no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        # The older of torch's two formats cannot be mapped.
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        size = file.stat().st_size
        raise ModelNotLoaded(
            f"expected weights in {str(file)!r}, found {size} bytes that cannot be read as such "
            f"({type(error).__name__}); the file is cut off, or of another kind"
        ) from error
    if not isinstance(found, Mapping):
        raise ModelNotLoaded(
            f"expected a mapping of tensors in {str(file)!r}, found a {type(found).__name__}"
        )
    return {str(key): value for key, value in found.items()}


def fill(
    module: nn.Module,
    tensors: Mapping[str, Any],
    *,
    file: Path,
    rename: Callable[[str], str] | None = None,
    ignore: Callable[[str], bool] | None = None,
) -> None:
    """Put published tensors into a network: every key and every shape must match.

    A prefix that all keys share and the network lacks is removed (PREFIXES). Tensors take the dtype and
    the device of the network's own; those of a network on the meta device stay on the CPU. BatchNorm's
    counters are not read.

    Args:
        module: the network.
        tensors: as from `read_tensors`.
        file: where they are from, for messages.
        rename: from a key of the file, without the prefix, to the network's key.
        ignore: tells keys of the file, as they stand there, that the network does not need.

    Raises:
        ModelNotLoaded: keys or shapes differ; the text names up to NAMED of each kind.
    """
    expected = module.state_dict()
    found = {key: value for key, value in tensors.items() if ignore is None or not ignore(key)}
    found = _without_prefix(found, expected)
    if rename is not None:
        renamed: dict[str, Any] = {}
        for key, value in found.items():
            name = rename(key)
            if name in renamed:
                raise ModelNotLoaded(f"{str(file)!r}: expected one tensor for {name!r}, found two")
            renamed[name] = value
        found = renamed
    found = {key: value for key, value in found.items() if not _is_counter(key)}
    found |= {key: torch.zeros(own.shape) for key, own in expected.items() if _is_counter(key)}
    if faults := _faults(expected, found):
        kind = type(module).__name__
        raise ModelNotLoaded(f"{str(file)!r}: expected the weights of {kind}, found {'; '.join(faults)}")
    module.load_state_dict(
        {key: found[key].to(own.dtype) for key, own in expected.items()},
        assign=any(own.is_meta for own in expected.values()),
    )


@torch.no_grad()
def invent(module: nn.Module, seed: int) -> None:
    """Fill a network with random weights that keep what flows through it finite and of order one.

    Matrices and kernels are normal with variance 1 / fan-in, gains are one, shifts near zero; the vectors
    of spectral normalisation belong to their matrices.

    Args:
        module: the network; its own values are lost.
        seed: the same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor, scale: float) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale

    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            parameter.copy_(noise(parameter, 1.0 / math.sqrt(max(1, parameter[0].numel()))))
        elif name.endswith("weight"):
            parameter.copy_(1.0 + noise(parameter, 0.02))
        else:
            parameter.copy_(noise(parameter, 0.02))
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
        elif name.endswith("running_var"):
            buffer.fill_(1.0)
    for part in module.modules():
        if hasattr(part, "weight_orig") and hasattr(part, "weight_u"):
            _find_singular_vectors(part)


def _find_singular_vectors(part: Any) -> None:  # noqa: ANN401 - a layer under torch's spectral_norm
    """Power iteration: the layer divides by u W v, which must be W's largest singular value."""
    matrix = part.weight_orig.flatten(1).float()
    v = torch.ones(matrix.shape[1]) / math.sqrt(matrix.shape[1])
    u = matrix @ v
    for _ in range(POWER_STEPS):
        u = nn.functional.normalize(matrix @ v, dim=0)
        v = nn.functional.normalize(matrix.T @ u, dim=0)
    part.weight_u.copy_(u)
    if hasattr(part, "weight_v"):
        part.weight_v.copy_(v)


def _without_prefix(found: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(found)
    again = bool(result)
    while again:
        again = False
        for prefix in PREFIXES:
            is_shared = all(key.startswith(prefix) for key in result)
            if is_shared and not all(key.startswith(prefix) for key in expected):
                result = {key.removeprefix(prefix): value for key, value in result.items()}
                again = True
    return result


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == COUNTER


def _faults(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    differing = [
        f"{key} (expected {_shape(own)}, found {_shape(found[key])})"
        for key, own in expected.items()
        if key in found and not _is_counter(key) and _shape(own) != _shape(found[key])
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
    return [f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in kinds if keys]


def _shape(value: Any) -> str:  # noqa: ANN401 - a file may hold anything under a key
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = "" if value.is_floating_point() else " whole numbers"
    return f"{list(value.shape)}{kind}"


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", …" if len(keys) > NAMED else "")
