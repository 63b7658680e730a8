"""Rows of what was measured, and one Markdown table of them.

python -m tests.benchmarks.report latency.json sessions.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: what was measured, with its statistic.
        reached: the figure.
        unit: its unit.
        target: the figure to reach; None where there is none.
        at_least: whether more is better.
        baseline: the same on plain aiortc in the same run; None where it was not measured.
        note: how many samples, or what limits the figure.
    """

    what: str
    reached: float
    unit: str
    target: float | None = None
    at_least: bool = False
    baseline: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.reached >= self.target if self.at_least else self.reached <= self.target


def spread(values_s: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 95th percentile and the maximum of seconds, in milliseconds."""
    if not len(values_s):
        return (float("nan"),) * 3
    array = np.asarray(values_s) * 1000
    return float(np.median(array)), float(np.percentile(array, 95)), float(array.max())


def latency_rows(what: str, values_s: Sequence[float], target_ms: float | None) -> list[Row]:
    """Return the rows of a latency: its 95th percentile is what the target is about."""
    median_ms, p95_ms, worst_ms = spread(values_s)
    note = f"p50 {median_ms:.0f}, worst {worst_ms:.0f}, n = {len(values_s)}"
    return [Row(f"{what}, p95", p95_ms, "ms", target_ms, note=note)]


def machine() -> str:
    """Name this machine, for the line above the table."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def _ratio(row: Row) -> str:
    if not row.baseline:
        return ""
    return f"{_figure(row.baseline, row.unit)} ({row.reached / row.baseline:.1f}×)"


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    lines = ["| what | target | reached | | plain aiortc | note |", "|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        target = "" if row.target is None else f"{sign} {_figure(row.target, row.unit)}"
        mark = {True: "✓", False: "✗", None: ""}[row.is_met]
        reached = f"**{_figure(row.reached, row.unit)}**"
        lines.append(f"| {row.what} | {target} | {reached} | {mark} | {_ratio(row)} | {row.note} |")
    return "\n".join(lines)


def publish(rows: Sequence[Row], path: Path | None) -> None:
    """Print the table and, when a path is given, keep the rows as JSON."""
    print(f"\n{machine()}\n\n{table(rows)}", flush=True)
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))


def rows_of(path: Path) -> list[Row]:
    """Return the rows that a benchmark kept."""
    return [Row(**row) for row in json.loads(path.read_text())]


def main() -> None:
    """Print one table from the JSON files of several benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    rows = [row for path in parser.parse_args().files for row in rows_of(path)]
    publish(rows, None)


if __name__ == "__main__":
    main()
