"""A real server for a test: `serve run` in processes of its own, on a Ray cluster that nobody else can join.

Everything lies in one temporary folder: the configuration, the log and Ray's session. The processes are told
by that folder's path in their environment, so that exactly they are ended, whoever started them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parent.parent
DEV = ROOT / "configs" / "dev.yaml"

READY_S = 120.0
"""Longest wait for a server: about twelve seconds on a free machine, far more on a busy one."""

METRICS_S = 20.0
"""Longest wait for a figure to reach Ray's metrics port; it is reported every second here."""

GATEWAY = "ServeReplica:avatar:Gateway"
TRACER = "ServeReplica:avatar:Animator-tracer"
HOST = "SessionHost"
REGISTRY = "SessionRegistry"
CONTROLLER = "ServeController"
PROXY = "ProxyActor"
"""Titles of Ray's worker processes, without the leading ray::."""


def animator(num_replicas: int = 1) -> dict[str, Any]:
    """Return the configuration of a small Animator, which leaves out nothing on a busy machine."""
    return {
        "device": "cpu",
        "num_replicas": num_replicas,
        "ray_actor_options": {"num_cpus": 0.2},
        "degrade": "never",
    }


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        port: of its HTTP proxy.
        log: what `serve run` and all workers print.
        folder: Ray's temporary folder.
    """

    port: int
    log: Path
    folder: Path

    @property
    def http(self) -> str:
        """Return the server's address for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str = "/webrtc", **query: str) -> str:
        """Return the door's address; the model is `tracer` unless another is named."""
        fields = {"model": "tracer", **query}
        return f"ws://127.0.0.1:{self.port}{path}?" + "&".join(f"{key}={fields[key]}" for key in fields)

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this server."""
        return _processes_of(self.folder)

    def workers(self, title: str) -> list[psutil.Process]:
        """Return this cluster's worker processes with a title, oldest first."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if (process.cmdline() or [""])[0].startswith(f"ray::{title}"):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def kill(self, title: str) -> psutil.Process:
        """Kill one worker process with a title, as the kernel kills when memory runs out."""
        workers = self.workers(title)
        assert workers, f"expected a worker process {title}, found none"
        workers[0].kill()
        return workers[0]

    def wait_for(self, title: str, number: int, *, without: psutil.Process, timeout_s: float = 60.0) -> None:
        """Wait until `number` workers with a title run, none of which is `without`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            workers = [worker for worker in self.workers(title) if worker != without]
            if len(workers) >= number:
                return
            assert time.monotonic() < deadline_s, f"expected {number} of {title}, found {len(workers)}"
            time.sleep(0.2)

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until /readyz says 200."""
        deadline_s = time.monotonic() + timeout_s
        while _status(f"{self.http}/readyz") != 200:
            assert time.monotonic() < deadline_s, f"not ready after {timeout_s:g} s:\n{self.last_words()}"
            time.sleep(0.2)

    def deploy(
        self,
        args: Mapping[str, Any] | None = None,
        *,
        deployments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Ask Serve for another version of the application, as `serve deploy` does; returns at once.

        Args:
            args: keys of AppConfig to set besides those that the server was started with.
            deployments: options of deployments by name, in place of the application's own.
        """
        found = re.search(r"View the dashboard at \S*?(http://[\d.:]+)", self.log.read_text(errors="replace"))
        assert found, "expected the address of Ray's dashboard in the log"
        path = self.folder / "serve.yaml"
        document = yaml.safe_load(path.read_text())
        application = document["applications"][0]
        application["args"] = _merged(application["args"], args or {})
        application["deployments"] = [{"name": name, **own} for name, own in (deployments or {}).items()]
        path.write_text(yaml.safe_dump(document))
        command = [str(Path(sys.executable).with_name("serve")), "deploy", "--address", found[1], str(path)]
        # Ray asks for a token that it has put into the home directory itself.
        environ = _environment(self.folder, {"RAY_AUTH_MODE": "token"})
        subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)

    def metrics(self) -> dict[str, float]:
        """Return Ray's metrics of all nodes: "name{label="value",...}" to value."""
        targets = json.loads((self.folder / "ray" / "prom_metrics_service_discovery.json").read_text())
        values: dict[str, float] = {}
        for target in targets[0]["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            for line in lines:
                if line and not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    values[name] = float(value)
        return values

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of one metric over everything that has these labels; 0 when there is none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value
            for series, value in self.metrics().items()
            if series.partition("{")[0] == name and all(label in series for label in wanted)
        )

    def last_words(self, lines: int = 30) -> str:
        """Return the end of the log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def running(
    args: Mapping[str, Any] | None = None,
    *,
    config: Path = DEV,
    environ: Mapping[str, str] | None = None,
    ready_s: float = READY_S,
    cluster: Callable[[Path, dict[str, str]], str] = lambda folder, environ: "local",
) -> Iterator[Server]:
    """Run a server until the block is left.

    Args:
        args: keys of AppConfig to set, merged into those of the file; `animators` replaces the file's.
        config: a Serve config file; its HTTP port is replaced by a free one.
        environ: variables besides this process's own.
        ready_s: longest wait for /readyz.
        cluster: starts a Ray cluster, given the folder and the variables of its processes, and returns its
            address; without one the server starts a node of its own.
    """
    # Ray's sockets lie below this folder, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="avatar-", dir="/tmp"))
    server = Server(free_port(), folder / "serve.log", folder)
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(_configured(config, server.port, args or {})))
    variables = _environment(folder, environ or {})
    process: subprocess.Popen[bytes] | None = None
    with server.log.open("wb") as log:
        try:
            process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).with_name("serve")), "run"),
                    *("--address", cluster(folder, variables), str(path)),
                ],
                cwd=ROOT,
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            _await_ready(server, process, ready_s)
            yield server
        finally:
            _end(process, folder)
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not re.match("RAY_|AVATAR_|TURN_", name)},
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "PYTHONUNBUFFERED": "1",
        # Two HAProxies of one machine must not share these; below them come 57 of a socket's 97 characters.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        **environ,
    }


def _configured(config: Path, port: int, args: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(config.read_text())
    document["http_options"]["port"] = port
    application = document["applications"][0]
    application["args"] = _merged(application["args"], args)
    if "animators" in args:
        application["args"]["animators"] = args["animators"]
    return document


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _await_ready(server: Server, process: subprocess.Popen[bytes], ready_s: float) -> None:
    deadline_s = time.monotonic() + ready_s
    while _status(f"{server.http}/readyz") != 200:
        if fault := _fault(server, process, is_late=time.monotonic() > deadline_s):
            expected = f"expected a server on port {server.port} in {ready_s:g} s"
            raise RuntimeError(f"{expected}, found {fault}\n{server.last_words()}")
        time.sleep(0.2)


def _fault(server: Server, process: subprocess.Popen[bytes], *, is_late: bool) -> str:
    if process.poll() is not None:
        return f"that it ended with {process.returncode}"
    if any(sign in server.last_words() for sign in ("DEPLOY_FAILED", "Failed to update the deployments")):
        return "that it could not be deployed"
    return "none that is ready" if is_late else ""


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def _processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == str(folder):
                found.append(process)
    return found


def _end(process: subprocess.Popen[bytes] | None, folder: Path) -> None:
    """Kill everything at once: an orderly shutdown of Serve takes ten seconds, and nothing here needs one."""
    if process is not None:
        process.kill()
        process.wait()
    while left := _processes_of(folder):
        for one in left:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=1)
