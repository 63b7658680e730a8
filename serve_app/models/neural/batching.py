"""Networks at few batch sizes: each size is compiled or captured once, before the replica is ready.

Batches are rounded up to the next size, for every new size costs seconds of compiling. What does not fit
the device's memory is tried in smaller batches, and the size that failed is not tried again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serve_app.errors import ModelNotLoaded, ModelOutOfMemory

logger = logging.getLogger("serve_app.models")

EAGER, COMPILE, GRAPHS = MODES = ("eager", "compile", "graphs")
"""As torch runs it; compiled with Inductor's default search, as `max-autotune` takes minutes at each start;
or replayed as CUDA graphs."""

CAPTURE_ROUNDS = 3
"""Runs before a capture: cuDNN chooses its kernels and libraries take their workspaces in the first."""

VARIANTS = 64
"""Shapes that torch may compile of one piece of code: several networks share torch's own layers."""

COMPILED = Path("~/.serve-app/compiled")
"""Where compiled kernels outlive the process, unless TORCHINDUCTOR_CACHE_DIR names another folder."""

Step = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured run: `inputs` are read and `output` is written by every replay."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    graph: Any


class BucketedStep:
    """A network run at few batch sizes.

    Pads to the next bucket by repeating the last row, and splits above the largest bucket. One thread
    calls; another may use the device beside it.

    Args:
        fn: takes tensors [B, ...] on the device and returns a new tensor [B, ...]; rows do not depend on
            each other.
        buckets: batch sizes.
        device: where it runs.
        mode: one of MODES. "graphs" needs a CUDA device.

    Raises:
        ModelNotLoaded: no such mode, or graphs without CUDA.
    """

    def __init__(self, fn: Step, *, buckets: Sequence[int], device: torch.device, mode: str) -> None:
        if not buckets or min(buckets) < 1:
            raise ValueError(f"expected batch sizes of 1 or more, got {list(buckets)}")
        if mode not in MODES:
            raise ModelNotLoaded(f"expected a mode of {', '.join(MODES)}, found {mode!r}")
        if mode == GRAPHS and device.type != "cuda":
            raise ModelNotLoaded(f"mode 'graphs': expected a CUDA device, found {device.type!r}")
        self._fn = fn
        self._run = _compiled(fn) if mode == COMPILE else fn
        self._device = device
        self._mode = mode
        self._buckets = sorted(set(buckets))
        self._staged: dict[int, tuple[Tensor, ...]] = {}
        self._graphs: dict[int, _Graph] = {}
        self._pool: Any = None
        self._out_of_memory = 0

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are left, ascending."""
        return tuple(self._buckets)

    @property
    def mode(self) -> str:
        """How it runs: "eager" where compiling failed."""
        return self._mode

    @property
    def out_of_memory(self) -> int:
        """How often the device's memory did not suffice."""
        return self._out_of_memory

    def warm(self, example: Callable[[int], tuple[Tensor, ...]]) -> None:
        """Compile or capture every bucket, the largest first, and drop those that do not fit.

        Args:
            example: returns inputs of a batch size, in the dtypes and memory formats of later calls.

        Raises:
            ModelOutOfMemory: none fits.
        """
        for bucket in reversed(self.buckets):
            if bucket > self._buckets[-1]:
                continue
            began_s = time.monotonic()
            with torch.inference_mode():
                fits = self._attempt(lambda b=bucket: self._warm_one(b, example(b)))  # type: ignore[misc]
            if fits is None:
                self._shrink(bucket)
            else:
                logger.info("batches of %d: %s in %.1f s", bucket, self._mode, time.monotonic() - began_s)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return fn(*inputs).

        Args:
            inputs: [B, ...] each, B >= 1 the same for all; on the device or in page-locked memory.

        Raises:
            ValueError: no rows, or not the same number of them.
            ModelOutOfMemory: not even the smallest bucket fits now; a later call may succeed.
        """
        sizes = {len(value) for value in inputs}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(f"expected the same number of rows, 1 or more, got {sorted(sizes)}")
        rows = sizes.pop()
        outputs: list[Tensor] = []
        at = 0
        with torch.inference_mode():
            while at < rows:
                size = min(rows - at, self._buckets[-1])
                bucket = next(bucket for bucket in self._buckets if bucket >= size)
                part = tuple(value[at : at + size] for value in inputs)
                output = self._attempt(lambda b=bucket, p=part: self._run_one(b, p))  # type: ignore[misc]
                if output is None:
                    self._shrink(bucket)
                    continue
                outputs.append(output[:size])
                at += size
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _attempt(self, work: Callable[[], Tensor]) -> Tensor | None:
        """Return what `work` returns, or None when the device's memory did not suffice."""
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: its traceback holds on to the tensors of the attempt.
        self._out_of_memory += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _shrink(self, bucket: int) -> None:
        left = [size for size in self._buckets if size < bucket]
        if not left:
            raise ModelOutOfMemory(
                f"expected memory for a batch of {bucket} on {self._device}, found less; "
                "lower `max_bucket`, or give the model a larger share of the device"
            )
        logger.warning(
            "a batch of %d does not fit %s; at most %d from now on", bucket, self._device, left[-1]
        )
        self._buckets = left
        for kept in (self._staged, self._graphs):
            for size in [size for size in kept if size >= bucket]:
                del kept[size]

    def _warm_one(self, bucket: int, inputs: tuple[Tensor, ...]) -> Tensor:
        if self._mode == EAGER:
            return self._fn(*(value.to(self._device) for value in inputs))
        staged = self._stage(bucket, inputs)
        if self._mode == GRAPHS:
            self._capture(bucket, staged)
            return self._graphs[bucket].output
        try:
            self._run(*staged)
            return self._run(*staged)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # A machine without a C compiler cannot compile; it serves all the same, more slowly.
            logger.warning("not compiled (%s: %.200s); run as it is", type(error).__name__, error)
            self._mode, self._run = EAGER, self._fn
            return self._fn(*staged)

    def _run_one(self, bucket: int, inputs: tuple[Tensor, ...]) -> Tensor:
        if self._mode == EAGER:
            return self._run(*(_padded(value.to(self._device), bucket) for value in inputs))
        staged = self._stage(bucket, inputs)
        if self._mode == COMPILE:
            return self._run(*staged)
        if bucket not in self._graphs:
            self._capture(bucket, staged)
        graph = self._graphs[bucket]
        graph.graph.replay()
        # The graphs share their memory: the next replay, of any bucket, writes here.
        return graph.output.clone()

    def _stage(self, bucket: int, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the bucket's own input tensors, filled: addresses and strides never change."""
        if bucket not in self._staged:
            self._staged[bucket] = tuple(self._room(bucket, value) for value in inputs)
        for room, value in zip(self._staged[bucket], inputs, strict=True):
            size = len(value)
            room[:size].copy_(value, non_blocking=True)
            if size < bucket:
                room[size:].copy_(room[size - 1 : size].expand_as(room[size:]))
        return self._staged[bucket]

    def _room(self, bucket: int, like: Tensor) -> Tensor:
        room = torch.empty((bucket, *like.shape[1:]), dtype=like.dtype, device=self._device)
        if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
            return room.contiguous(memory_format=torch.channels_last)
        return room

    def _capture(self, bucket: int, staged: tuple[Tensor, ...]) -> None:
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_ROUNDS):
                self._fn(*staged)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": an avatar that is being prepared in another thread may allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = self._fn(*staged)
        self._pool = graph.pool() if self._pool is None else self._pool
        self._graphs[bucket] = _Graph(staged, output, graph)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's memory did not suffice, in torch's words or cuBLAS's.

    A capture that breaks off for want of memory ends in an error of its own; what it says stands behind it.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if isinstance(seen, torch.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and ("out of memory" in text or "ALLOC_FAILED" in text):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _compiled(fn: Step) -> Step:
    """Return `fn` compiled, its kernels kept on disk for the next start."""
    import torch._dynamo

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(COMPILED.expanduser()))
    dynamo: Any = torch._dynamo.config  # noqa: SLF001 - torch's documented place of this setting
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
    compiled: Step = torch.compile(fn, dynamic=False)
    return compiled


def _padded(value: Tensor, bucket: int) -> Tensor:
    lacking = bucket - len(value)
    return value if lacking == 0 else torch.cat([value, value[-1:].expand(lacking, *value.shape[1:])])
