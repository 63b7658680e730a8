from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from serve_app.errors import ModelNotLoaded, ModelOutOfMemory
from serve_app.models.neural.batching import BucketedStep, is_out_of_memory

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


class Device:
    """Doubles its input; notes the batch sizes, and has memory for `room` rows."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 2 * x + y


def step(fn: Device, *buckets: int) -> BucketedStep:
    return BucketedStep(fn, buckets=buckets or (1, 2, 4, 8), device=CPU, mode="eager")


def rows(number: int) -> tuple[Tensor, Tensor]:
    return torch.arange(float(number)).view(-1, 1), torch.ones(number, 1)


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (19, [8, 8, 4])],
)
def test_rows_are_padded_and_split(number: int, sizes: list[int]) -> None:
    device = Device()
    x, y = rows(number)
    assert torch.equal(step(device)(x, y), 2 * x + y)
    assert device.sizes == sizes


def test_bucket_that_does_not_fit_is_dropped_for_good() -> None:
    device = Device(room=3)
    doubled = step(device)
    x, y = rows(9)
    assert torch.equal(doubled(x, y), 2 * x + y)
    assert device.sizes == [8, 4, 2, 2, 2, 2, 1]
    assert doubled.buckets == (1, 2)
    assert doubled.out_of_memory == 2
    device.sizes.clear()
    assert torch.equal(doubled(x, y), 2 * x + y)
    assert 4 not in device.sizes


def test_larger_buckets_go_with_the_one_that_failed() -> None:
    device = Device(room=3)
    doubled = step(device)
    doubled(*rows(3))
    assert doubled.buckets == (1, 2)


def test_smallest_bucket_that_fails_is_told_and_tried_again_later() -> None:
    device = Device(room=0)
    doubled = step(device)
    with pytest.raises(ModelOutOfMemory, match="a batch of 1 on cpu"):
        doubled(*rows(2))
    device.room = 1
    x, y = rows(2)
    assert torch.equal(doubled(x, y), 2 * x + y)


def test_warm_up_runs_every_bucket_and_drops_what_does_not_fit() -> None:
    device = Device(room=4)
    doubled = step(device, 8, 1, 4, 2)
    doubled.warm(rows)
    assert device.sizes == [8, 4, 2, 1]
    assert doubled.buckets == (1, 2, 4)
    with pytest.raises(ModelOutOfMemory):
        step(Device(room=0)).warm(rows)


def test_other_errors_pass() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    failing = BucketedStep(broken, buckets=[1], device=CPU, mode="eager")
    with pytest.raises(RuntimeError, match="shapes differ"):
        failing(torch.ones(1))


def test_inputs_of_different_lengths_or_none_are_refused() -> None:
    doubled = step(Device())
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        doubled(torch.ones(1), torch.ones(2))
    with pytest.raises(ValueError, match="1 or more"):
        doubled(torch.ones(0), torch.ones(0))


def test_mode_and_buckets_are_checked() -> None:
    with pytest.raises(ModelNotLoaded, match="eager, compile, graphs, found 'fast'"):
        BucketedStep(Device(), buckets=[1], device=CPU, mode="fast")
    with pytest.raises(ModelNotLoaded, match="expected a CUDA device"):
        BucketedStep(Device(), buckets=[1], device=CPU, mode="graphs")
    with pytest.raises(ValueError, match="batch sizes"):
        BucketedStep(Device(), buckets=[0, 1], device=CPU, mode="eager")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_capture_that_breaks_off_for_want_of_memory_is_told() -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError) as caught:
        capture()
    assert is_out_of_memory(caught.value)


class Compiler:
    """Stands in for torch.compile: notes what its code is given, or cannot compile."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.addresses: dict[int, set[int]] = {}
        self.strides: set[tuple[int, ...]] = set()

    def __call__(self, fn: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        assert not dynamic

        def compiled(*inputs: Tensor) -> Tensor:
            if not self.works:
                raise OSError("no C compiler")
            self.addresses.setdefault(len(inputs[0]), set()).add(inputs[0].data_ptr())
            self.strides.add(inputs[0].stride()[1:])
            return fn(*inputs)

        return compiled


def pictures(batch: int) -> tuple[Tensor, ...]:
    ramp = torch.arange(batch * 12.0).view(batch, 3, 2, 2)
    return (ramp.contiguous(memory_format=torch.channels_last),)


def test_compiled_code_sees_few_shapes_at_fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler)
    halved = BucketedStep(lambda x: x / 2, buckets=[1, 4], device=CPU, mode="compile")
    halved.warm(pictures)
    for rows in (1, 3, 4, 6):
        (x,) = pictures(rows)
        assert torch.equal(halved(x), x / 2)
    assert {size: len(at) for size, at in compiler.addresses.items()} == {1: 1, 4: 1}
    assert len(compiler.strides) == 1
    assert halved.mode == "compile"


def test_machine_that_cannot_compile_serves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(works=False))
    halved = BucketedStep(lambda x: x / 2, buckets=[1, 4], device=CPU, mode="compile")
    halved.warm(pictures)
    assert halved.mode == "eager"
    (x,) = pictures(3)
    assert torch.equal(halved(x), x / 2)
