"""One address holds so many sockets and no more; others, and it again later, get in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection

from serve_app.config import GatewayConfig
from serve_app.gateway.address_limit import AddressLimit, client_address
from tests.asgi_server import served

pytestmark = pytest.mark.protocol

MOST = 3


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("here")


@contextlib.contextmanager
def server(**config: Any) -> Iterator[str]:
    limit = Middleware(AddressLimit, config=GatewayConfig(**config))
    with served(
        Starlette(routes=[WebSocketRoute("/", echo), Route("/page", page)], middleware=[limit])
    ) as address:
        yield f"ws://{address}/"


@contextlib.asynccontextmanager
async def held(url: str, number: int, **headers: str) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(url, **headers)) for _ in range(number)]


def connect(url: str, **headers: str) -> websockets.connect:
    return websockets.connect(url, proxy=None, additional_headers=headers)


async def works(socket: ClientConnection) -> bool:
    """Return whether a socket is served; False when it is closed for now."""
    try:
        await socket.send("hello")
        return await asyncio.wait_for(socket.recv(), 5) == "hello"
    except websockets.ConnectionClosed:
        assert socket.close_code == 1013
        assert socket.close_reason == f"expected at most {MOST} sockets of one address, found more"
        return False


async def test_one_address_gets_so_many_sockets() -> None:
    with server(max_sockets_per_address=MOST) as url:
        async with held(url, MOST) as sockets:
            for _ in range(3):
                async with connect(url) as one_more:
                    assert not await works(one_more)
            assert all([await works(socket) for socket in sockets])
        async with held(url, MOST) as sockets:
            assert all([await works(socket) for socket in sockets])


async def test_a_flood_of_sockets_is_refused_and_then_forgotten() -> None:
    with server(max_sockets_per_address=MOST) as url:
        async with held(url, MOST) as sockets:

            async def knock() -> bool:
                async with connect(url) as socket:
                    return await works(socket)

            assert not any(await asyncio.gather(*(knock() for _ in range(100))))
            sockets[0].transport.abort()
            async with asyncio.timeout(5):
                while not await knock():  # noqa: ASYNC110 - the server learns of it in its own time
                    await asyncio.sleep(0.02)
            assert await works(sockets[1])


async def test_without_a_limit_there_is_none() -> None:
    with server() as url:
        async with held(url, 20) as sockets:
            assert all([await works(socket) for socket in sockets])


async def test_clients_behind_a_proxy_are_counted_apart() -> None:
    names = [{"x-forwarded-for": f"192.0.2.{number}"} for number in range(2)]
    with server(max_sockets_per_address=MOST, address_header="X-Forwarded-For") as url:
        async with held(url, MOST, **names[0]):
            async with connect(url, **names[1]) as other:
                assert await works(other)
            async with connect(url, **{"x-forwarded-for": "198.51.100.7, 192.0.2.0"}) as lying:
                assert not await works(lying)


def test_a_header_that_nobody_configured_tells_nothing() -> None:
    headers = [(b"x-forwarded-for", b"192.0.2.7")]
    assert (
        client_address({"type": "websocket", "headers": headers, "client": ("192.0.2.1", 1)}, None)
        == "192.0.2.1"
    )


@pytest.mark.parametrize(
    ("named", "peer", "expected"),
    [
        (None, "192.0.2.1", "192.0.2.1"),
        ("", "192.0.2.1", "192.0.2.1"),
        ("nonsense", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.7", "192.0.2.1", "192.0.2.7"),
        ("10.9.9.9,192.0.2.7", "192.0.2.1", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "::1", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]", "::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "::1", "192.0.2.7"),
        (None, None, ""),
        ("fe80::1%eth0", "::1", "fe80::/64"),
    ],
)
def test_clients_are_told_apart(named: str | None, peer: str | None, expected: str) -> None:
    headers = [] if named is None else [(b"x-forwarded-for", named.encode())]
    scope = {"type": "websocket", "headers": headers, "client": None if peer is None else (peer, 1)}
    assert client_address(scope, "x-forwarded-for") == expected
