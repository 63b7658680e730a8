"""A server with two of everything, and one with one."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import CHROMIUM
from tests.server import GATEWAY, HOST, READY_S, TRACER, Server, animator, running

DRAIN_S = 8.0
"""How long a gateway that is replaced keeps its sockets here."""

DISK_BYTES = 8 * 1_048_576

LOGGED_S = 10.0

ENVIRON = {
    # Serve replaces a proxy after three failed checks; they are 10 s apart by default.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.1",
    # Each line of the log counts here.
    "RAY_DEDUP_LOGS": "0",
}


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

    def wait_until_whole(self) -> None:
        """Wait until what earlier faults took is there again."""
        deadline_s = time.monotonic() + READY_S
        while missing := self._missing():
            assert time.monotonic() < deadline_s, f"expected two of everything, missing: {missing}"
            time.sleep(0.3)

    def holder(self, title: str, session_id: str) -> psutil.Process:
        """Return the gateway or the host, by its title, that opened a session; its log says so."""
        pattern = re.compile(
            rf"{re.escape(title)}\b.*? pid=(\d+)\).* session {session_id}:? (socket )?opened"
        )
        deadline_s = time.monotonic() + LOGGED_S
        while not (found := pattern.findall(self.server.log.read_text(errors="replace"))):
            assert time.monotonic() < deadline_s, f"expected the log to tell which {title} opened the session"
            time.sleep(0.1)
        return psutil.Process(int(found[-1][0]))

    def _missing(self) -> list[str]:
        missing = [title for title in (GATEWAY, TRACER) if len(self.server.workers(title)) != 2]
        try:
            with urllib.request.urlopen(f"{self.server.http}/readyz", timeout=5) as answer:
                hosts = json.load(answer)["hosts"]
        except OSError:
            hosts = 0
        return [*missing, *([] if hosts == 2 else [HOST])]


@pytest.fixture
def single(running_single: Server) -> Server:
    """The server with one of everything, ready."""
    running_single.wait_until_ready()
    return running_single


@pytest.fixture(scope="package")
def running_single() -> Iterator[Server]:
    """A server whose parts have nobody to stand in for them while they are replaced."""
    args = {"model": "tracer", "animators": {"tracer": animator()}, "session": {"resume_grace_s": 60.0}}
    with running(args) as server:
        yield server


@pytest.fixture
def house(running_house: House) -> House:
    """The server, whole."""
    running_house.wait_until_whole()
    return running_house


@pytest.fixture(scope="package")
def running_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with two hosts, two replicas and two gateways; each fault leaves it whole."""
    with _small_disk(tmp_path_factory.mktemp("recorded")) as (recordings, has_own_disk):
        args = {
            "model": "tracer",
            "animators": {"tracer": animator(2)},
            "gateway": {"num_replicas": 2, "drain_s": DRAIN_S},
            "session": {"hosts": 2, "host_num_cpus": 0.2, "resume_grace_s": 60.0, "retry_after_s": 1.0},
            "recording": {"enabled": True, "directory": str(recordings)},
        }
        with running(args, environ=ENVIRON) as server:
            yield House(server, recordings, has_own_disk)


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Chromium without a window; for one test, because nothing asynchronous runs beside it."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


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
