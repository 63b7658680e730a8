"""Network namespaces of this process: made for one test run, named after it, gone with it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import TracebackType

COMMAND_S = 10.0
TUN = Path("/dev/net/tun")
PROBE_RULES = """
table ip probe {
    chain out {
        type nat hook postrouting priority 100
        masquerade
    }
}
"""

_numbers = itertools.count()


@cache
def missing() -> str | None:
    """Return why namespaces cannot be made here, or None."""
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not TUN.exists():
        return f"there is no {TUN}"
    try:
        with Namespace("probe") as probe:
            probe.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
            probe.nft(PROBE_RULES)
    except CommandFailed as error:
        return f"network namespaces are not permitted: {error}"
    return None


class CommandFailed(Exception):
    """A command of iproute2 or nftables failed; says what it was and what it wrote."""


class Namespace:
    """A network namespace with its loopback up.

    Args:
        role: goes into the name, for whoever lists namespaces while a test runs.
    """

    def __init__(self, role: str) -> None:
        self.name = f"avatar-{os.getpid()}-{next(_numbers)}-{role}"
        call("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the namespace; its devices go with it."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)

    def command(self, *words: str) -> list[str]:
        """Return `words` as a command that runs in here."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command in here and return its output.

        Raises:
            CommandFailed: it ended with an error.
        """
        return call(*self.command(*words), stdin=stdin)

    def nft(self, rules: str) -> None:
        """Put these rules in place of all others."""
        self.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}\n")

    def address(self, device: str, address: str) -> None:
        """Give a device an address (CIDR) and set it up."""
        self.run("ip", "address", "add", address, "dev", device)
        self.run("ip", "link", "set", device, "up")

    def forward(self) -> None:
        """Make this namespace a router."""
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def join(self, other: Namespace, device: str, other_device: str) -> None:
        """Lay a cable (a pair of veth) to another namespace; each end is named as its owner sees it."""
        self.run("ip", "link", "add", device, "type", "veth", "peer", other_device, "netns", other.name)


def call(*words: str, stdin: str = "") -> str:
    """Run a command and return its output.

    Raises:
        CommandFailed: it ended with an error.
    """
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
