"""How long `make run` takes to serve its first page, and its first session, when everything is installed.

python -m tests.benchmarks.bench_startup
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from tests.benchmarks.report import Row, publish
from tests.server import ROOT

HTTP = "http://127.0.0.1:8765"
LIMIT_S = 120.0
ENDING_S = 30.0


def answers(path: str) -> bool:
    """Return whether a GET gives 200."""
    try:
        with urllib.request.urlopen(HTTP + path, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def until(path: str, since_s: float) -> float:
    """Return the seconds from `since_s` to the first 200."""
    while not answers(path):
        if time.monotonic() - since_s > LIMIT_S:
            raise RuntimeError(f"no 200 from {HTTP}{path} within {LIMIT_S:g} s")
        time.sleep(0.05)
    return time.monotonic() - since_s


def start_once() -> tuple[float, float]:
    """Run `make run`; return the seconds to the first page and to readiness."""
    since_s = time.monotonic()
    while answers("/"):  # the round before may still be ending
        if time.monotonic() - since_s > ENDING_S:
            raise RuntimeError(f"expected nothing at {HTTP}, found a server; end it first")
        time.sleep(0.5)
    since_s = time.monotonic()
    server = subprocess.Popen(
        ["make", "run"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return until("/", since_s), until("/readyz", since_s)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pages, ready = zip(*(start_once() for _ in range(options.rounds)), strict=True)
    note = f"median of {options.rounds}; a session can be opened after {np.median(ready):.1f} s"
    publish(
        [Row("warm `make run` → first page", float(np.median(pages)), "s", 15.0, note=note)], options.json
    )


if __name__ == "__main__":
    main()
