"""How fast the neural models are on this device, against the published loop at the same weights.

    python -m tests.benchmarks.bench_neural --tiny                          any CPU, a few minutes
    python -m tests.benchmarks.bench_neural --random-full --model musetalk  a GPU, nothing to fetch
    python -m tests.benchmarks.bench_neural                                 a GPU, what was pulled

Needs torch and the extra `neural`, no Ray. Prints Markdown: frames a second by batch size, time by part,
memory, share of the matmul ceiling, likeness to float32, and live sessions with p50, p99 and the worst gap.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from serve_app.animator.capacity import DEADLINE_S, SHARE
from serve_app.models.registry import RANDOM, weights_folder
from tests.benchmarks.neural_sessions import PLAYOUT_S, Watched, simulate
from tests.benchmarks.neural_subjects import (
    FPS,
    SUBJECTS,
    Subject,
    animate,
    full_size,
    voice,
    window,
)

WINDOW_FRAMES = 3
"""Frames of a session's window, as live sessions send them."""


class Clock:
    """Times work on a device.

    Args:
        device: "cpu" or "cuda".
        min_s: how long to repeat it.
    """

    def __init__(self, device: str, min_s: float) -> None:
        self._is_gpu = device == "cuda"
        self._min_s = min_s

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one run: the median of several, the device waited for each time."""
        for _ in range(2):
            work()
        self._wait()
        took: list[float] = []
        while sum(took) < self._min_s or len(took) < 3:
            began_s = time.perf_counter()
            work()
            self._wait()
            took.append(time.perf_counter() - began_s)
        return sorted(took)[len(took) // 2]

    def _wait(self) -> None:
        if self._is_gpu:
            torch.cuda.synchronize()


def matmul_flops(device: str, clock: Clock) -> float:
    """Return the operations a second of a large product: half precision on a GPU, float32 on a CPU."""
    size, dtype = (8192, torch.float16) if device == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / clock.seconds(lambda: left @ right)


def flops_of(work: Callable[[], object]) -> float:
    """Return the operations of a run."""
    from torch.utils.flop_counter import FlopCounterMode

    counter: Any = FlopCounterMode(display=False)
    # Inference mode hides the operations from the counter.
    with torch.no_grad(), counter:
        work()
    return float(counter.get_total_flops())


def psnr(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return 10 log10(1 / mean squared difference) of pictures in [0, 1], in dB."""
    error = (found.float() - exact.float()).square().mean().clamp_min(1e-12)
    return float(-10 * torch.log10(error))


def device_name(device: str) -> str:
    """Return what a reader knows the device by."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return f"{name}, {torch.get_num_threads()} threads"
    return platform.processor()


def memory(device: str) -> str:
    """Return the most memory used so far."""
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the card"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of the process"


def windows_of(subject: Subject, frames: int) -> list[Any]:
    """Return windows of several sessions that hold so many frames."""
    sound = voice(3.0, 0)
    sizes = [WINDOW_FRAMES] * (frames // WINDOW_FRAMES) + [frames % WINDOW_FRAMES] * bool(
        frames % WINDOW_FRAMES
    )
    return [window(subject.model, number, 40, size, sound) for number, size in enumerate(sizes)]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    sys.stdout.flush()


def speed(subject: Subject, batches: Sequence[int], clock: Clock) -> tuple[float, float]:
    """Print frames a second by batch size; return the published loop's best and ours within the deadline."""
    rows, best, within = [], 0.0, 0.0
    for batch in batches:
        due = windows_of(subject, batch)
        mine_s = clock.seconds(lambda due=due: animate(subject.model, due))  # type: ignore[misc]
        plain = ""
        if batch in subject.plain_batches:
            plain_s = clock.seconds(lambda batch=batch: subject.plain(batch))  # type: ignore[misc]
            plain, best = f"{batch / plain_s:.1f}", max(best, batch / plain_s)
        if mine_s <= DEADLINE_S or not within:
            within = max(within, batch / mine_s)
        rows.append((batch, plain, f"{batch / mine_s:.1f}", f"{mine_s * 1000:.1f}"))
    head = ("frames", "published loop, frames/s", "ours, frames/s", "ours, ms a step")
    table("Frames a second by batch (ours: from speech to I420 patches on the host)", head, rows)
    sessions = int(SHARE * within / FPS)
    print(
        f"\nOurs within {DEADLINE_S * 1000:.0f} ms a step: {within:.0f} frames/s, {within / best:.2f} times "
        f"the published loop's best ({best:.0f}); {SHARE:.0%} of that are {sessions} sessions"
    )
    return best, within


def measure(name: str, subject: Subject, options: argparse.Namespace) -> None:
    """Print all tables of one model."""
    device: str = options.device
    clock = Clock(device, options.seconds)
    batches = [int(size) for size in options.batches.split(",")]
    print(f"\n### {name} on {device_name(device)}, torch {torch.__version__}, weights: {options.named}")
    _, within = speed(subject, batches, clock)
    largest = options.part_batch
    parts = subject.parts(largest)
    whole_s = clock.seconds(lambda: animate(subject.model, windows_of(subject, largest)))
    with torch.inference_mode():
        times = {part: clock.seconds(work) for part, work in parts.items()}
    *_, together = times
    rows = [(part, f"{took * 1000:.1f}", f"{took / whole_s:.0%}") for part, took in times.items()]
    rest_s = max(0.0, whole_s - times[together])
    rows.append(
        ("hearing, drawing, I420, copies (what is left)", f"{rest_s * 1000:.1f}", f"{rest_s / whole_s:.0%}")
    )
    table(f"Time by part, {largest} frames, {whole_s * 1000:.1f} ms in all", ("part", "ms", "share"), rows)
    ceiling = matmul_flops(device, clock)
    each = flops_of(subject.networks(1))
    print(
        f"\nA frame is {each / 1e9:.0f} GFLOP; the matmul ceiling measured here is {ceiling / 1e12:.2f} "
        f"TFLOP/s, or {ceiling / each:.0f} frames/s: ours reaches {within * each / ceiling:.0%} of it. "
        f"Memory: {memory(device)}."
    )
    print(f"Likeness to float32, uncompiled: PSNR {psnr(*subject.likeness()):.1f} dB.")
    counts = [int(count) for count in options.sessions.split(",") if count]
    watched = [simulate(subject.model, count, options.live_seconds) for count in counts]
    sessions_table(watched, options.live_seconds)


def sessions_table(watched: Sequence[Watched], seconds: float) -> None:
    """Print what live sessions saw."""
    rows = [
        (
            seen.sessions,
            f"{seen.smooth} of {seen.sessions}",
            f"{seen.p50_ms:.0f}",
            f"{seen.p99_ms:.0f}",
            f"{seen.worst_gap_ms:.0f}",
            f"{seen.batch:.1f}",
        )
        for seen in watched
    ]
    head = ("sessions", "smooth", "window p50, ms", "p99, ms", "worst gap, ms", "windows a step")
    title = (
        f"Live sessions, {FPS} frames/s, {seconds:g} s, shown {PLAYOUT_S * 1000:.0f} ms after their speech"
    )
    table(title, head, rows)


def arguments() -> argparse.Namespace:
    """Read the command line and fill in what the device asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*SUBJECTS, "all"], default="all")
    parser.add_argument("--weights", help="folder in the published layout; default: what was pulled")
    parser.add_argument("--random-full", action="store_true", help="invented weights of the official size")
    parser.add_argument("--tiny", action="store_true", help="small networks with invented weights")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--mode", choices=["eager", "compile", "graphs"], help="default: the model's choice")
    parser.add_argument("--batches", help="frames in a step, comma-separated")
    parser.add_argument("--part-batch", type=int, help="frames of the table of parts")
    parser.add_argument("--sessions", help="numbers of live sessions, comma-separated; empty for none")
    parser.add_argument("--seconds", type=float, help="how long each figure is measured")
    parser.add_argument("--live-seconds", type=float, help="how long sessions live")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    is_gpu = options.device == "cuda"
    is_slow = not is_gpu and not options.tiny
    choices = {
        "batches": "1,2,4,8,16,20,32,64" if is_gpu else "1" if is_slow else "1,2,4,8",
        "part_batch": 16 if is_gpu else 1 if is_slow else 8,
        "sessions": "8,16,24,32,40,48" if is_gpu else "" if is_slow else "1,2",
        "seconds": 2.0 if is_gpu else 0.5,
        "live_seconds": 20.0 if is_gpu else 4.0,
    }
    for name, value in choices.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure one model after the other."""
    options = arguments()
    for name in SUBJECTS if options.model == "all" else [options.model]:
        with tempfile.TemporaryDirectory() as folder:
            if options.tiny:
                options.named, weights = "small, invented", RANDOM
            elif options.random_full:
                options.named, weights = "full size, invented", full_size(name, Path(folder) / name)
            else:
                weights = weights_folder(name, options.weights)
                options.named = weights
            began_s = time.perf_counter()
            subject = SUBJECTS[name](weights, options.device, options.mode)
            print(f"{name}: loaded, warmed and two avatars prepared in {time.perf_counter() - began_s:.1f} s")
            measure(name, subject, options)
            del subject
        if options.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
