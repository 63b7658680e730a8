"""The server runs as the container confines it: a user without rights, on a read-only file system.

No container engine is needed: a mount namespace of the kernel makes everything read-only but what
compose.yaml leaves writable.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.client.a2v import A2vClient
from tests.deployment import ROOT, yaml_of
from tests.server import READY_S, animator, free_port

pytestmark = pytest.mark.integration

HOME = "/home/avatar"

CONFINE = r"""
set -eu
mount --make-rprivate /
exec 9<"$ROOT"
mount -t tmpfs tmpfs /home
mkdir -p $WRITABLE
for folder in $WRITABLE; do mount -t tmpfs -o mode=0700,uid=$AS,gid=$AS tmpfs "$folder"; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
# A checkout below one of these folders is still to be seen.
if [ ! -e "$SERVE" ]; then mkdir -p "$ROOT"; mount --no-canonicalize --bind /proc/self/fd/9 "$ROOT"; fi
cd "$ROOT"
printf "%s" "$CONFIG" > /tmp/serve.yaml
for place in $(findmnt --noheadings --list --output TARGET | sort -u); do
    case " $WRITABLE /tmp /dev /dev/shm /proc " in
        *" $place "*) ;;
        /proc/*|/sys/*|/dev/*) ;;
        *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
    esac
done
if touch /written "$ROOT/written" /home/written 2>/dev/null; then echo "not read-only" >&2; exit 3; fi
exec setpriv --reuid=$AS --regid=$AS --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    "$SERVE" run --address local /tmp/serve.yaml
"""


def writable() -> list[str]:
    """What compose.yaml leaves writable to the server, besides /tmp; the application's folders apart."""
    service = yaml_of("compose.yaml")["services"]["webrtc-server"]
    volumes = [entry.split(":")[1] for entry in service["volumes"]]
    tmpfs = [entry.split(":")[0] for entry in service["tmpfs"]]
    return [path for path in (*volumes, *tmpfs) if path.startswith(f"{HOME}/")]


def may_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("findmnt"):
        return False
    probe = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def user() -> str:
    """The image's user, or root without capabilities where that user may not enter this Python's folder."""
    # The second process has none of the rights that the first may keep from before the change.
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import ray'], check=True)"
    probe = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", sys.executable, "-c", again]
    return "1000" if subprocess.run(probe, capture_output=True, check=False).returncode == 0 else "0"


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def configuration(port: int) -> dict[str, Any]:
    """compose.yaml's configuration, with a small model and for a client on this machine."""
    document = yaml_of("configs/compose.yaml")
    document["http_options"] |= {"host": "127.0.0.1", "port": port}
    args = document["applications"][0]["args"]
    args |= {"model": "tracer", "animators": {"tracer": animator()}, "ice": {"loopback": True}}
    args["recording"]["directory"] = f"{HOME}/.serve-app/videos"
    return document


@contextlib.contextmanager
def confined(folder: Path, port: int) -> Iterator[Path]:
    """Run a server confined until the block is left; yields its log."""
    log = folder / "serve.log"
    environ = {
        **{name: value for name, value in os.environ.items() if not re.match("RAY_|AVATAR_|TURN_", name)},
        "WRITABLE": " ".join(writable()),
        "CONFIG": yaml.safe_dump(configuration(port)),
        "ROOT": str(ROOT),
        "AS": user(),
        "SERVE": str(Path(sys.executable).with_name("serve")),
        "HOME": HOME,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", CONFINE]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline_s = time.monotonic() + READY_S
        while status(f"http://127.0.0.1:{port}/readyz") != 200:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline_s, log.read_text()[-3000:]
            time.sleep(0.5)
        yield log
    finally:
        # Its namespace of process ids, and everything in it, ends with it.
        process.kill()
        process.wait()


@pytest.mark.skipif(not may_mount(), reason="mount namespaces are not permitted here")
async def test_a_session_shows_its_face_from_a_read_only_file_system(tmp_path: Path) -> None:
    port = free_port()
    with confined(tmp_path, port) as log:
        async with A2vClient(f"ws://127.0.0.1:{port}/webrtc") as client:
            assert client.moments.media_s is not None
        said = log.read_text()
    assert "Read-only file system" not in said
