"""How many sessions one core carries, what a further one costs in memory, and what neighbours feel.

Clients run in processes of their own (`load`); only the server's processes are counted: Ray's workers
(`ray::SessionHost`, `ray::ServeReplica:…`, proxies) and its raylet. The baseline is `plain_aiortc`, with the
same clients, in the same run.

    python -m tests.benchmarks.bench_sessions --url ws://127.0.0.1:8765/webrtc --counts 1,2,4,8
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.report import Row, publish

ENOUGH = 0.98
"""Share of frames and of sound packets at which a session counts as served."""

LIMIT_GAP_S = 0.06

ROUNDS = 3
"""How often the largest load is measured: on a shared machine one run is up to a quarter off another."""

PLAIN_SPEAKING, PLAIN_IDLE = "plain aiortc, speaking", "plain aiortc, idle"

Processes = Callable[[], list[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server's processes had used at one moment."""

    cpu_s: dict[int, float]
    kinds: dict[int, str]
    uss_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One load and what it cost the server.

    Attributes:
        sessions: how many.
        cores: cores busy on average, by kind of process.
        uss_bytes: memory of the server's processes that nobody shares.
        counts: what the load process counted.
        rounds: in how many of ROUNDS runs it was served, where it was measured so often.
    """

    sessions: int
    cores: dict[str, float]
    uss_bytes: int
    counts: dict[str, Any]
    rounds: int | None = None

    @property
    def total_cores(self) -> float:
        """Cores busy on average, of all server processes."""
        return sum(self.cores.values())

    @property
    def is_served(self) -> bool:
        """Whether every session got enough of its frames and packets."""
        return bool(self.counts["frames_share"] >= ENOUGH and self.counts["packets_share"] >= ENOUGH)

    @property
    def per_core(self) -> float:
        """Sessions per busy core."""
        return self.sessions / max(1e-9, self.total_cores)


FOLDER = os.environ.get("BENCH_RAY_TMPDIR")
"""Ray's temporary folder of the server to measure; None counts every Ray process of this machine."""


CONNECT_S = 8.0
"""How long the measured sessions may take to connect beside a visitor that comes and goes."""


def ray_processes() -> list[psutil.Process]:
    """Return the server's processes on this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if FOLDER is not None and process.environ().get("RAY_TMPDIR") != FOLDER:
                continue
            title = " ".join(process.cmdline())
            worker = title.startswith("ray::") and not title.startswith("ray::IDLE")
            if worker or process.name() in ("raylet", "haproxy"):
                found.append(process)
    return found


def kind_of(process: psutil.Process) -> str:
    """Name a process by what it is for: SessionHost, Gateway, Animator …"""
    title = process.cmdline()[0] if process.cmdline() else process.name()
    if not title.startswith("ray::"):
        return process.name()
    words = title.removeprefix("ray::").replace(":", ".").split(".")
    return next((word for word in reversed(words[:3]) if word and not word.startswith("__")), title)


def usage(processes: Processes, *, memory: bool = False) -> Usage:
    """Read CPU time and, when asked for, memory of all processes now.

    Reading memory stops a process for a tenth of a second, so it must not happen while gaps are measured.
    """
    cpu_s: dict[int, float] = {}
    kinds: dict[int, str] = {}
    uss_bytes = 0
    for process in processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            kinds[process.pid] = kind_of(process)
            cpu_s[process.pid] = times.user + times.system
            uss_bytes += process.memory_full_info().uss if memory else 0
    return Usage(cpu_s, kinds, uss_bytes)


def start_load(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a load process that prints JSON lines."""
    command = [sys.executable, "-m", "tests.benchmarks.load", "--url", url, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lines_of(load: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield what a load says.

    Raises:
        RuntimeError: it failed.
    """
    assert load.stdout is not None
    for line in load.stdout:
        said = json.loads(line)
        if said["event"] == "failed" or said.get("failed"):
            raise RuntimeError(f"a load failed: {said}")
        yield said


def run_load(url: str, sessions: int, seconds: float, *, speech: list[str], processes: Processes) -> Measured:
    """Hold `sessions` and measure the server meanwhile; `speech` makes them speak."""
    load = start_load(url, "--clients", str(sessions), "--seconds", str(seconds), *speech)
    before = after = usage(processes)
    counts: dict[str, Any] = {}
    uss_bytes = 0
    try:
        for said in lines_of(load):
            if said["event"] == "ready":
                uss_bytes = usage(processes, memory=True).uss_bytes
            elif said["event"] == "begin":
                before = usage(processes)
            elif said["event"] == "end":
                after, counts = usage(processes), said
    finally:
        if not counts:
            load.terminate()
        load.wait()
    if not counts:
        raise RuntimeError(f"the load of {sessions} sessions ended without a result")
    cores: dict[str, float] = {}
    for pid, cpu_s in after.cpu_s.items():
        # A worker's title changes with what it does; the first one seen names it.
        kind = before.kinds.get(pid, after.kinds[pid])
        used_s = cpu_s - before.cpu_s.get(pid, 0.0)
        cores[kind] = cores.get(kind, 0.0) + used_s / counts["elapsed_s"]
    measured = Measured(sessions, cores, uss_bytes, counts)
    print(describe(measured), flush=True)
    return measured


def describe(measured: Measured) -> str:
    """Return one line on a load."""
    parts = ", ".join(
        f"{kind} {cores:.2f}" for kind, cores in sorted(measured.cores.items()) if cores > 0.005
    )
    counts = measured.counts
    return (
        f"{measured.sessions:3d} sessions: {measured.total_cores:.2f} cores ({parts}) = "
        f"{measured.per_core:.1f} per core; frames {counts['frames_share']:.1%}, "
        f"packets {counts['packets_share']:.1%}, worst gap "
        f"{counts['worst_gap_s'] * 1000:.0f} ms, {counts['bits_per_s'] / 1e6:.2f} Mb/s each, "
        f"load {counts['load_cores']:.2f} cores, {measured.uss_bytes / 2**20:.0f} MB"
    )


def sweep(
    name: str, url: str, counts: list[int], seconds: float, *, speech: list[str], processes: Processes
) -> list[Measured]:
    """Measure rising numbers of sessions until they are no longer served, twice in a row.

    The largest that was served is measured ROUNDS times; its median takes the place of the first run.
    """
    print(f"\n{name}", flush=True)
    series: list[Measured] = []
    for count in counts:
        measured = run_load(url, count, seconds, speech=speech, processes=processes)
        if not measured.is_served:
            measured = run_load(url, count, seconds, speech=speech, processes=processes)
        series.append(measured)
        if not measured.is_served:
            break
    if (top := best(series)) is not None:
        more = [
            run_load(url, top.sessions, seconds, speech=speech, processes=processes)
            for _ in range(ROUNDS - 1)
        ]
        series[series.index(top)] = median([top, *more])
    return series


def median(rounds: Sequence[Measured]) -> Measured:
    """Return the run of median cost among those that were served."""
    served = sorted((one for one in rounds if one.is_served), key=lambda one: one.total_cores)
    return replace(served[len(served) // 2], rounds=len(served))


def best(series: list[Measured]) -> Measured | None:
    """Return the largest load that was served."""
    return max((m for m in series if m.is_served), key=lambda m: m.sessions, default=None)


def growth(sweeps: Mapping[str, Sequence[Measured]]) -> str:
    """Return a Markdown table of the cores that each load took, by number of sessions."""
    numbers = sorted({measured.sessions for series in sweeps.values() for measured in series})
    lines = [
        f"| cores busy with | {' | '.join(map(str, numbers))} sessions |",
        "|---" * (1 + len(numbers)) + "|",
    ]
    for name, series in sweeps.items():
        of = {measured.sessions: measured for measured in series}
        cells = [_cost(of[number]) if number in of else "" for number in numbers]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(measured: Measured) -> str:
    served = "" if measured.is_served else f", {measured.counts['frames_share']:.0%} of the frames"
    return f"{measured.total_cores:.2f}{served}"


def bytes_per_session(series: list[Measured]) -> float:
    """Return the slope of memory over sessions; the first load is left out, it pays for what all share."""
    later = series[1:]
    if len(later) < 2:
        return float("nan")
    slope, _ = np.polyfit([m.sessions for m in later], [m.uss_bytes for m in later], 1)
    return float(slope)


@contextlib.contextmanager
def plain_door() -> Iterator[tuple[str, Processes]]:
    """Run the baseline server in a process of its own."""
    door = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.plain_aiortc", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert door.stdout is not None
        url = door.stdout.readline().strip()
        yield url, lambda: [psutil.Process(door.pid)]
    finally:
        door.terminate()
        door.wait()


def neighbours(url: str, count: int, seconds: float, speech: list[str]) -> tuple[float, float, int]:
    """Return the worst frame gap of sessions alone, beside one that comes and goes, and how often it came."""
    print("\nneighbours", flush=True)
    quiet = run_load(url, count, seconds, speech=speech, processes=ray_processes)
    # The visitor's process is up before gaps are measured: starting Python takes a core for seconds.
    churn = start_load(url, "--churn", "--seconds", str(seconds + CONNECT_S))
    said_by_churn = lines_of(churn)
    next(said for said in said_by_churn if said["event"] == "begin")
    load = start_load(url, "--clients", str(count), "--seconds", str(seconds), *speech)
    worst_s = float("nan")
    for said in lines_of(load):
        if said["event"] == "end":
            worst_s = said["worst_gap_s"]
            print(f"    with a neighbour: worst gap {worst_s * 1000:.0f} ms, {said['late_gaps']} above 60 ms")
    load.wait()
    rounds = next((said["rounds"] for said in said_by_churn if said["event"] == "end"), 0)
    churn.wait()
    return quiet.counts["worst_gap_s"], worst_s, rounds


def session_rows(name: str, target: float, series: list[Measured], plain: list[Measured]) -> list[Row]:
    """Return the row of a sweep."""
    top, plain_top = best(series), best(plain)
    if top is None:
        return [Row(name, 0.0, "", target, at_least=True, note="no load was served")]
    note = (
        f"at {top.sessions} sessions, median of {top.rounds} served runs of {ROUNDS}: "
        f"{top.total_cores:.2f} cores, frames {top.counts['frames_share']:.1%}"
    )
    baseline = None if plain_top is None else plain_top.per_core
    return [Row(name, top.per_core, "", target, at_least=True, baseline=baseline, note=note)]


def bench(options: argparse.Namespace) -> list[Row]:
    """Make the measurements that were asked for."""
    counts = [int(count) for count in options.counts.split(",")]
    idle_counts = [int(count) for count in options.idle_counts.split(",")]
    speech = ["--speaking", *([] if options.speech is None else ["--speech", str(options.speech)])]
    speaking_url = f"{options.url}?model={options.model}"
    sweeps: dict[str, list[Measured]] = {}
    rows: list[Row] = []
    if options.baseline:
        with plain_door() as (url, processes):
            for name, said in ((PLAIN_SPEAKING, speech), (PLAIN_IDLE, [])):
                sweeps[name] = sweep(name, url, counts[:3], options.seconds, speech=said, processes=processes)
    whole = [*speech, "--whole"]
    for model, target, how, said in (
        (options.model, 8.0, "whole utterances", whole),
        (options.model, 8.0, "live chunks of 40 ms", speech),
        ("tracer", 12.0, "whole utterances, transport alone", whole),
    ):
        if model == "tracer" and not options.transport:
            continue
        name = f"speaking sessions per core, {model}, {how}"
        url = f"{options.url}?model={model}"
        series = sweep(name, url, counts, options.seconds, speech=said, processes=ray_processes)
        sweeps[f"{model}, {how}"] = series
        rows += session_rows(name, target, series, sweeps.get(PLAIN_SPEAKING, []))
    name = "idle sessions per core"
    series = sweep(name, speaking_url, idle_counts, options.seconds, speech=[], processes=ray_processes)
    sweeps["idle"] = series
    rows += session_rows(name, 40.0, series, sweeps.get(PLAIN_IDLE, []))
    print(f"\n{growth(sweeps)}", flush=True)
    memory = Row(
        "memory per further session", bytes_per_session(series) / 2**20, "MB", 12.0, note="USS, idle"
    )
    quiet_s, worst_s, rounds = neighbours(speaking_url, options.neighbours, options.seconds, speech)
    note = f"{quiet_s * 1000:.0f} ms alone; neighbour came and went {rounds} times"
    gap = Row("worst frame gap beside a neighbour", worst_s * 1000, "ms", LIMIT_GAP_S * 1000, note=note)
    return [*rows, memory, gap]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="ws://127.0.0.1:8765/webrtc")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--counts", default="1,2,4,8,12,16")
    parser.add_argument("--idle-counts", default="1,4,8,16,32")
    parser.add_argument("--neighbours", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--speech", type=Path, help="WAV to speak; a buzzing voice without one")
    parser.add_argument("--no-baseline", dest="baseline", action="store_false")
    parser.add_argument("--no-transport", dest="transport", action="store_false", help="leave the tracer out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    publish(bench(options), options.json)


if __name__ == "__main__":
    main()
