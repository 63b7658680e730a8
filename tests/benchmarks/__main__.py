"""Every figure of the README's table, on this machine: starts the servers it needs, prints one table.

python -m tests.benchmarks [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.report import Row, publish, rows_of
from tests.server import ROOT, running

BENCH = ROOT / "configs" / "bench.yaml"
SAMPLE = ROOT / "serve_app" / "gateway" / "web" / "sample.wav"


def run(module: str, *arguments: str, environ: dict[str, str] | None = None) -> list[Row]:
    """Run one benchmark in a process of its own and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments, "--json", str(path)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **(environ or {})}, check=True)
        return rows_of(path)


def main() -> None:
    """Measure everything, one after the other, so that nothing disturbs the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a look")
    parser.add_argument("--speech", type=Path, default=SAMPLE, help="WAV to speak")
    options = parser.parse_args()
    number, seconds, sync_s = ("8", "6", "20") if options.quick else ("30", "12", "120")
    turns = "8" if options.quick else "20"
    counts, idle = ("1,8,12", "1,8,40") if options.quick else ("1,4,8,12,16", "1,8,24,40")
    rows: list[Row] = []
    with running(config=BENCH, environ={"RAY_SERVE_ENABLE_HA_PROXY": "1"}) as server:
        url = f"ws://127.0.0.1:{server.port}/webrtc"
        rows += run("bench_latency", "--url", url, "--number", number, "--sync-s", sync_s)
        sweep = ["--counts", counts, "--idle-counts", idle, "--speech", str(options.speech)]
        counted = {"BENCH_RAY_TMPDIR": str(server.folder)}
        rows += run("bench_sessions", "--url", url, "--seconds", seconds, *sweep, environ=counted)
    # Calls get the default model, and only `tracer` paints what tells a speaking face from an idle one.
    traced = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "MODEL_TYPE": "tracer"}
    with running(config=BENCH, environ=traced) as server:
        rows += run("bench_voice", "--url", server.http, "--number", turns)
    rows += run("bench_startup")
    publish(rows, None)


if __name__ == "__main__":
    main()
