"""Credentials made from a shared secret, at a real TURN server: both ends of a call use them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from pydantic import SecretStr

from serve_app.client.doctor import check_ice_servers
from serve_app.config import IceConfig, IceServer
from serve_app.rtc.ice import apply_ice_config, rtc_configuration
from tests.never_shown import NeverShown
from tests.server import free_port

pytestmark = pytest.mark.protocol

SECRET = "a secret that two servers share"
START_S = 15.0


@pytest.fixture(scope="module")
def turn_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a coturn that knows no user, only the secret."""
    binary = shutil.which("turnserver")
    if binary is None:
        pytest.skip("coturn is not installed")
    folder, port = tmp_path_factory.mktemp("turn"), free_port()
    log = folder / "turn.log"
    command = [
        binary, "-n", "--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=avatar.test",
        "--listening-ip=127.0.0.1", f"--listening-port={port}", "--relay-ip=127.0.0.1",
        "--allow-loopback-peers", "--min-port=41000", "--max-port=41099",
        "--no-tls", "--no-dtls", "--no-cli", "--no-rfc5780", "--relay-threads=1",
        f"--userdb={folder / 'turn.db'}", f"--pidfile={folder / 'turn.pid'}",
        "--log-file=stdout", "--simple-log",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        _await_start(process, port, log)
        yield f"turn:127.0.0.1:{port}?transport=udp"
    finally:
        process.kill()
        process.wait()


def _await_start(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while asyncio.run(_refusal(f"turn:127.0.0.1:{port}?transport=udp")) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.1)


async def _refusal(url: str) -> str | None:
    """Return what the server says to nobody in particular; None when it says nothing."""
    (finding,) = await check_ice_servers(
        [IceServer(urls=[url], username="nobody", credential=SecretStr("-"))]
    )
    return finding.found if "refused" in finding.found else None


def shared(url: str, secret: str = SECRET) -> IceServer:
    return IceServer(urls=[url], secret=SecretStr(secret))


async def candidate_types(configuration: RTCConfiguration, ice: IceConfig | None = None) -> set[str]:
    pc = RTCPeerConnection(configuration)
    pc.createDataChannel("x")
    if ice is not None:
        apply_ice_config(pc, ice)
    await pc.setLocalDescription(await pc.createOffer())
    assert pc.sctp is not None
    candidates = pc.sctp.transport.transport.iceGatherer.getLocalCandidates()
    await pc.close()
    return {candidate.type for candidate in candidates}


async def test_this_server_relays_with_the_secret(turn_url: str) -> None:
    ice = IceConfig(servers=[shared(turn_url)])
    assert "relay" in await candidate_types(rtc_configuration(ice), ice)


async def test_a_client_relays_with_what_it_is_given(turn_url: str) -> None:
    given = shared(turn_url).for_client()
    NeverShown(SECRET).check(given)
    server = RTCIceServer(urls=given["urls"], username=given["username"], credential=given["credential"])
    assert "relay" in await candidate_types(RTCConfiguration([server]))


async def test_nobody_relays_with_another_secret_or_after_the_end(turn_url: str) -> None:
    wrong = IceConfig(servers=[shared(turn_url, "another secret")])
    username, credential = shared(turn_url).credentials(time.time() - 24 * 3600)
    expired = IceServer(urls=[turn_url], username=username, credential=SecretStr(credential or ""))
    late = IceConfig(servers=[expired])
    for ice in (wrong, late):
        assert await candidate_types(rtc_configuration(ice), ice) <= {"host"}


async def test_the_doctor_asks_with_the_secret(turn_url: str) -> None:
    (good, bad) = await check_ice_servers([shared(turn_url), shared(turn_url, "another secret")])
    assert (good.level, good.found) == ("ok", "it relays at 127.0.0.1")
    assert bad.level == "fail"
    NeverShown(SECRET).check(good, bad)
