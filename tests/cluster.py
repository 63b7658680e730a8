"""Several Ray nodes on one machine, with logical resources, in a process of their own.

Run as a module it is that process: the first argument is a JSON list of nodes; "remove <name>" on its input
kills a node as a machine without power dies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.server import ROOT, free_port


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node; the first of a cluster is its head.

    Attributes:
        name: names it here.
        num_cpus: logical CPUs.
        num_gpus: logical GPUs.
        resources: custom resources.
        labels: what actors may prefer it by.
    """

    name: str
    num_cpus: float = 2
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Nodes:
    """A cluster of nodes; `start` goes into `running(cluster=...)`.

    Args:
        specs: the nodes, the head first.
    """

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        self._specs = specs
        self._process: subprocess.Popen[str] | None = None
        self._raylets: dict[str, int] = {}

    def start(self, folder: Path, environ: dict[str, str]) -> str:
        """Start the nodes; return the cluster's address."""
        specs = json.dumps([asdict(spec) for spec in self._specs])
        with (folder / "cluster.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster", specs],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        told = self._told()
        self._raylets = told["raylets"]
        return str(told["address"])

    def remove(self, name: str) -> None:
        """Kill a node and everything on it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"remove {name}\n")
        self._process.stdin.flush()
        assert self._told() == {"removed": name}

    def where(self, worker: psutil.Process) -> str:
        """Return the name of the node that a worker process runs on."""
        return next(name for name, raylet in self._raylets.items() if raylet == worker.ppid())

    def _told(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError(f"expected the cluster's answer, found that it ended: {self._process.poll()}")


def _ports_of_head() -> dict[str, int]:
    """Return ports of its own for what `ray start --head` expects at fixed ones."""
    names = ("gcs_server_port", "dashboard_port", "dashboard_agent_listen_port")
    return {name: free_port() for name in names}


def main(specs: list[dict[str, object]]) -> None:
    """Run the nodes until the input ends."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes: dict[object, Any] = {}
    for spec in specs:
        name = spec.pop("name")
        given = {key: value for key, value in spec.items() if value}
        nodes[name] = cluster.add_node(**given, **({} if nodes else _ports_of_head()))
    raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in nodes.items()}
    sys.stdout.write(json.dumps({"address": cluster.address, "raylets": raylets}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name = line.rstrip("\n").removeprefix("remove ")
        cluster.remove_node(nodes[name], allow_graceful=False)
        sys.stdout.write(json.dumps({"removed": name}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
