"""What the doctor says of servers that work, refuse, hide behind proxies, or are not there."""

from __future__ import annotations

import asyncio
import http
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from serve_app.client.doctor import check_ice_servers
from serve_app.client.finding import Finding
from serve_app.client.server_check import check_ready, check_server
from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, IceConfig, IceServer
from serve_app.errors import AdmissionRefused
from serve_app.gateway.a2v.door import A2vDoor
from serve_app.gateway.auth import Keyring
from tests.asgi_server import served
from tests.benchmarks.plain_aiortc import PlainDoor
from tests.fakes import FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

CLOSED = AuthConfig(required=True, keys=[ApiKeyConfig(id="one", sha256="0" * 64)])


async def no_servers(_: Iterable[IceServer]) -> list[Finding]:
    return []


def door(opener: FakeSessionOpener, config: AppConfig, ready: int = 200) -> Starlette:
    async def readyz(_: Any) -> PlainTextResponse:
        return PlainTextResponse("", ready)

    routes = A2vDoor(opener, Keyring(config.auth), config).routes()
    return Starlette(routes=[Route("/readyz", readyz), *routes])


@pytest.fixture
async def plain() -> AsyncIterator[str]:
    plain = PlainDoor()
    yield await plain.start()
    await plain.close()


async def test_each_step_of_a_session_that_works_is_told(plain: str) -> None:
    findings = await check_server(plain, None, check_ice_servers)
    by_check = {finding.check: finding for finding in findings}
    assert list(by_check) == [
        "server: ready",
        "server: WebSocket",
        "server: ICE servers",
        "server: WebRTC",
        "server: path",
        "server: pictures",
        "server: sound",
        "server: synchrony",
    ]
    assert {finding.level for finding in findings if finding.check != "server: pictures"} == {"ok"}
    assert "host" in by_check["server: path"].found
    assert "of 30" in by_check["server: pictures"].found


async def test_a_server_that_is_not_there_is_told_with_how_to_start_one() -> None:
    ready, socket = await check_server("ws://127.0.0.1:9/webrtc", None, no_servers)
    assert (ready.level, socket.level) == ("fail", "fail")
    assert "make run" in ready.remedy
    assert "make run" in socket.remedy


@pytest.mark.parametrize("url", ["localhost:8765", "ftp://127.0.0.1/", ""])
def test_an_address_of_no_server_is_told_with_one_that_is(url: str) -> None:
    finding = check_ready(url)
    assert finding.level == "fail"
    assert "wss://host/webrtc" in finding.remedy


async def test_a_server_that_wants_a_key_is_told_with_where_to_give_it() -> None:
    opener = FakeSessionOpener(FakeSessionLink())
    with served(door(opener, AppConfig(auth=CLOSED))) as host:
        ready, key = await check_server(f"ws://{host}/webrtc", "not-a-key-of-this-server", no_servers)
    assert ready.level == "ok"
    assert (key.check, key.level) == ("server: key", "fail")
    assert "--token" in key.remedy
    assert "not-a-key" not in key.found


async def test_a_full_server_is_told_with_when_to_come_again() -> None:
    opener = FakeSessionOpener(FakeSessionLink())
    opener.fail = AdmissionRefused("no room: 8 sessions run", 2.0)
    with served(door(opener, AppConfig())) as host:
        findings = await check_server(f"ws://{host}/webrtc", None, no_servers)
    assert [finding.check for finding in findings] == ["server: ready", "server: room"]
    assert "no room" in findings[-1].found


async def test_a_server_that_starts_is_a_warning() -> None:
    with served(door(FakeSessionOpener(FakeSessionLink()), AppConfig(), ready=503)) as host:
        finding = await asyncio.to_thread(check_ready, f"ws://{host}/webrtc")
    assert finding.level == "warn"
    assert "warm" in finding.remedy


async def test_a_proxy_that_knows_no_websockets_is_told() -> None:
    def plain_answer(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(http.HTTPStatus.NOT_FOUND, "nothing here")

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=plain_answer) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        findings = await check_server(f"ws://127.0.0.1:{port}/webrtc", None, no_servers)
    assert findings[-1].level == "fail"
    assert "WebSocket upgrades" in findings[-1].remedy


async def test_ice_servers_that_the_server_names_are_asked_with_its_credentials_when_media_fails() -> None:
    config = AppConfig(ice=IceConfig(servers=[IceServer(urls=["turn:127.0.0.1:9"], username="u")]))
    asked: list[IceServer] = []

    async def ask(servers: Iterable[IceServer]) -> list[Finding]:
        asked.extend(servers)
        return [Finding("turn:127.0.0.1:9", "fail", "no answer", "start it")]

    link = FakeSessionLink()
    with served(door(FakeSessionOpener(link), config)) as host:
        findings = await check_server(f"ws://{host}/webrtc", None, ask, watch_s=0.1)
    assert [(server.urls, server.username) for server in asked] == [(["turn:127.0.0.1:9"], "u")]
    checks = {finding.check: finding for finding in findings}
    assert checks["server: turn:127.0.0.1:9"].remedy == "start it"
    assert checks["server: WebRTC"].level == "fail"
    assert "udp_port_range" in checks["server: WebRTC"].remedy
