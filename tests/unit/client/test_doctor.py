"""Checks of the machine. Sockets here stay on this host."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioice import stun

from serve_app.client import doctor
from serve_app.client.finding import Finding
from serve_app.config import AppConfig, IceConfig, IceServer, RecordingConfig
from serve_app.errors import AvatarError

pytestmark = pytest.mark.unit


class _Server(http.server.BaseHTTPRequestHandler):
    statuses: dict[str, int]

    def do_GET(self) -> None:
        self.send_response(self.statuses.get(self.path, 404))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def served() -> Iterator[tuple[int, dict[str, int]]]:
    statuses: dict[str, int] = {}
    handler = type("Handler", (_Server,), {"statuses": statuses})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], statuses
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_old_python_fails_with_the_version_to_install() -> None:
    finding = doctor.check_python((3, 8, 1))
    assert finding.level == "fail"
    assert ">=3." in finding.remedy
    assert doctor.check_python().level == "ok"


def test_a_package_of_another_version_fails_with_the_command_that_mends_it() -> None:
    findings = doctor.check_packages(["numpy>=1", "numpy>=99", "no-such-package>=1", 'x>=1; extra == "test"'])
    assert [finding.level for finding in findings] == ["ok", "fail", "fail"]
    assert findings[1].remedy == "pip install 'numpy>=99'"
    assert "not installed" in findings[2].found


def test_a_free_port_is_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert doctor.check_port(port, "server").found == "free"


def test_our_own_server_on_the_port_is_recognised_ready_or_not(served: tuple[int, dict[str, int]]) -> None:
    port, statuses = served
    assert doctor.check_port(port, "server").level == "fail"
    statuses["/healthz"] = 200
    statuses["/readyz"] = 503
    assert doctor.check_port(port, "server").level == "warn"
    statuses["/readyz"] = 200
    assert doctor.check_port(port, "server").level == "ok"


def test_udp_comes_back_on_every_address_and_the_range_is_tried() -> None:
    findings = doctor.check_udp(AppConfig(ice=IceConfig(loopback=True, udp_port_range=(40_000, 40_003))))
    assert findings[-1].check == "UDP ports 40000-40003"
    assert {finding.level for finding in findings} <= {"ok", "warn"}


def test_a_range_without_a_free_port_fails() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        finding = doctor._bind_range("127.0.0.1", port, port)
    assert finding.level == "fail"
    assert "udp_port_range" in finding.remedy


class _StunServer(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = stun.parse_message(data)
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = ("192.0.2.77", addr[1])
        self.transport.sendto(bytes(response), addr)


async def test_a_stun_server_that_answers_is_ok_and_says_what_it_sees() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_StunServer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    try:
        (finding,) = await doctor.check_ice_servers([IceServer(urls=[f"stun:127.0.0.1:{port}"])])
    finally:
        transport.close()
    assert finding == Finding(f"stun:127.0.0.1:{port}", "ok", "it sees this machine as 192.0.2.77")


async def test_ice_servers_that_do_not_answer_or_cannot_be_read_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ICE_ANSWER_S", 0.05)
    servers = [IceServer(urls=["stun:127.0.0.1:9", "turn:127.0.0.1:9?transport=tcp", "http://nonsense"])]
    findings = await doctor.check_ice_servers(servers)
    assert [finding.level for finding in findings] == ["fail"] * 3
    assert all(finding.remedy for finding in findings)


async def test_without_ice_servers_nothing_is_asked() -> None:
    (finding,) = await doctor.check_ice_servers([])
    assert finding.level == "ok"


def test_encoders_are_there() -> None:
    assert {finding.level for finding in doctor.check_codecs()} == {"ok"}


def test_haproxy_asked_for_by_a_wrong_path_fails() -> None:
    environ = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_BINARY_PATH": "/no/such/haproxy"}
    levels = {finding.check: finding.level for finding in doctor.check_ray(environ)}
    assert levels["HAProxy"] == "fail"


def test_token_mode_without_a_token_fails(tmp_path: Path) -> None:
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "auth_token")}
    assert {f.check: f.level for f in doctor.check_ray(environ)}["Ray token"] == "fail"
    (tmp_path / "auth_token").write_text("t")
    assert {f.check: f.level for f in doctor.check_ray(environ)}["Ray token"] == "ok"


def test_a_cluster_that_does_not_answer_is_a_warning() -> None:
    (finding,) = doctor.check_ray({"RAY_ADDRESS": "127.0.0.1:9"})
    assert finding.level == "warn"
    assert "127.0.0.1:9" in finding.found


def test_the_recording_folder_is_measured_where_it_will_be_made(tmp_path: Path) -> None:
    app = AppConfig(recording=RecordingConfig(enabled=True, directory=tmp_path / "not" / "yet"))
    finding = doctor.check_disk(app)
    assert finding.check == "recordings"
    assert str(tmp_path / "not" / "yet") in finding.found


async def test_a_clock_that_jumps_is_a_warning() -> None:
    wall = iter([2_000_000_000.0, 2_000_000_001.5, 2_000_000_001.5])
    finding = await doctor.check_clock(wall=lambda: next(wall), steady=lambda: 0.0)
    assert finding.level == "warn"


def test_a_configuration_gives_its_port_and_application(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("http_options: {port: 9000}\napplications: [{args: {fps: 25}}]\n")
    setup = doctor.load_config(path)
    assert (setup.port, setup.app.fps) == (9000, 25)
    path.write_text("applications: [{args: {frames: 25}}]\n")
    with pytest.raises(AvatarError, match="frames"):
        doctor.load_config(path)


def test_findings_are_printed_with_their_remedies() -> None:
    findings = [Finding("a", "ok", "fine"), Finding("bb", "fail", "broken", "mend it")]
    table = doctor.to_table(findings)
    assert "fail  bb  broken" in table
    assert "→ mend it" in table
    assert "1 failed, 0 with a warning, 1 ok" in table
    assert json.loads(doctor.to_json(findings))[1]["remedy"] == "mend it"
