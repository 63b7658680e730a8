"""Half precision as a GPU computes it, on a CPU: stored in 16 bits, multiplied and added up in 32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

LIKENESS_DB = 45.0
"""Least PSNR of a picture in half precision, compiled or captured, against float32 as torch runs it."""


class HalfPrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, operations on float16 tensors compute in float32 and round what they return to float16.

    So do tensor cores and cuDNN. A CPU's own float16 takes minutes for what this does in seconds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounded = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func.is_view or func._schema.is_mutable or func is torch.ops.aten._to_copy.default:
            return func(*args, **given)
        is_half = False

        def widened(value: Any) -> Any:
            nonlocal is_half
            if isinstance(value, Tensor) and value.dtype == torch.float16:
                is_half = True
                return value.float()
            return value

        wide_args, wide_given = tree_map(widened, (args, given))
        if not is_half:
            return func(*args, **given)
        self.rounded += 1
        if given.get("dtype") is torch.float16:
            wide_given["dtype"] = torch.float32
        output = func(*wide_args, **wide_given)
        return output if given.get("dtype") is torch.float32 else tree_map(_narrowed, output)


def _narrowed(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def likeness_db(pictures: Tensor, exact: Tensor) -> Tensor:
    """Return the PSNR of each of [B, 3, H, W] pictures from 0 to 1, in dB."""
    errors = (pictures.float() - exact).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(errors)
