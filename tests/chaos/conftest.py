"""A server with two of everything, and how long recoveries took, printed below the results."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server import Server, animator, running

DRAIN_S = 8.0
"""How long a gateway that is replaced keeps its sockets here."""

DISK_BYTES = 8 * 1_048_576

PROXY_CHECKS = {"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.3"}
"""Serve replaces a proxy after three failed checks; they are 10 s apart by default."""


@dataclass(frozen=True, slots=True)
class House:
    """A server whose sessions are recorded.

    Attributes:
        server: the server.
        recordings: where recordings go.
        has_own_disk: whether that is a file system of its own, DISK_BYTES large.
    """

    server: Server
    recordings: Path
    has_own_disk: bool


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with two hosts and two replicas; each fault leaves it whole."""
    with _small_disk(tmp_path_factory.mktemp("recorded")) as (recordings, has_own_disk):
        args = {
            "model": "tracer",
            "animators": {"tracer": animator(2)},
            "gateway": {"drain_s": DRAIN_S},
            "session": {"hosts": 2, "host_num_cpus": 0.2, "resume_grace_s": 60.0, "retry_after_s": 1.0},
            "recording": {"enabled": True, "directory": str(recordings)},
        }
        with running(args, environ=PROXY_CHECKS) as server:
            yield House(server, recordings, has_own_disk)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[tuple[Path, bool]]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield folder, is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded of themselves."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name} {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write("\n".join(sorted(lines)) + "\n")
