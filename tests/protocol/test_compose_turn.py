"""The TURN server of compose.yaml, by its own command and file, lets in whom the server sends."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.client.doctor import check_ice_servers
from serve_app.config import AppConfig, with_environment
from tests.deployment import text_of, yaml_of
from tests.server import free_port

pytestmark = pytest.mark.protocol

TURNSERVER = shutil.which("turnserver", path=os.environ["PATH"] + ":/usr/sbin:/usr/bin")
SECRET = "a-secret-of-this-test"
STARTED_S = 10.0


def command() -> list[str]:
    """What compose runs, with its escaped dollars as a shell sees them."""
    service = yaml_of("compose.yaml")["services"]["coturn"]
    (script,) = service["command"]
    return [*service["entrypoint"], script.replace("$$", "$")]


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    port = free_port()
    conf = tmp_path / "turnserver.conf"
    conf.write_text(
        text_of("configs/coturn/turnserver.conf").replace("listening-port=3478", f"listening-port={port}")
    )
    shell, option, script = command()
    script = script.replace("/etc/coturn/turnserver.conf", str(conf)).replace(
        "turnserver ", f"{TURNSERVER} ", 1
    )
    script += (
        f" --listening-ip=127.0.0.1 --relay-ip=127.0.0.1 --pidfile={tmp_path}/pid --userdb={tmp_path}/db"
    )
    environ = {"PATH": os.environ["PATH"], "TURN_SECRET": SECRET}
    process = await asyncio.create_subprocess_exec(
        shell, option, script, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(STARTED_S):
            while not await _listens(port):
                assert process.returncode is None
                await asyncio.sleep(0.1)
        yield port
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.skipif(TURNSERVER is None, reason="coturn is not installed")
async def test_it_relays_for_who_has_credentials_made_of_the_shared_secret(port: int) -> None:
    urls = f"turn:127.0.0.1:{port}?transport=udp,turn:127.0.0.1:{port}?transport=tcp"
    for secret, level in ((SECRET, "ok"), ("another-secret", "fail")):
        config = with_environment(AppConfig(), {"TURN_URLS": urls, "TURN_SECRET": secret})
        findings = await check_ice_servers(config.ice.servers)
        assert [finding.level for finding in findings] == [level, level], findings


def test_it_does_not_start_without_a_secret() -> None:
    done = subprocess.run(
        command(), env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "expected the secret that the server shares" in done.stderr
