"""How many WebSockets one client address may hold open at a gateway, whatever the door."""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.config import GatewayConfig
from serve_app.gateway.door_socket import TRY_AGAIN_LATER

logger = logging.getLogger("serve_app.gateway")

IPV6_SITE_BITS = 64
"""An IPv6 client has the addresses of a whole /64 (RFC 4291, section 2.5.4), so that is what is counted."""


class AddressLimit:
    """ASGI middleware: one socket too many of an address is accepted and at once closed with 1013.

    Browsers show a close code to their page, but not why a handshake was refused.

    Args:
        app: gets everything else.
        config: `max_sockets_per_address` and `address_header`.
    """

    def __init__(self, app: ASGIApp, config: GatewayConfig) -> None:
        self._app = app
        self._most = config.max_sockets_per_address
        self._header = config.address_header
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or a socket while its address has not got too many."""
        if scope["type"] != "websocket" or self._most is None:
            await self._app(scope, receive, send)
            return
        address = client_address(scope, self._header)
        if self._open[address] >= self._most:
            await self._refuse(WebSocket(scope, receive, send))
            return
        self._open[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                # Addresses that are gone must not be remembered: there are many.
                del self._open[address]

    async def _refuse(self, websocket: WebSocket) -> None:
        logger.info("a socket was refused: %d of its address are open", self._most)
        try:
            await websocket.accept()
            await websocket.close(
                TRY_AGAIN_LATER, f"expected at most {self._most} sockets of one address, found more"
            )
        except (WebSocketDisconnect, RuntimeError):
            logger.info("a client left before its socket was refused")


def client_address(scope: Scope, header: str | None) -> str:
    """Return what stands for a client: its IPv4 address, or the /64 of its IPv6 address.

    Args:
        scope: ASGI's, of a request or a socket.
        header: the one in which this server's own proxy names the client; its last entry is that proxy's,
            those before it may be the client's invention. None: the peer of the connection is the client.
    """
    found = ""
    if header is not None:
        found = ",".join(Headers(scope=scope).getlist(header)).rpartition(",")[2].strip()
    peer = scope.get("client")
    for text in (found, peer[0] if peer else ""):
        try:
            address = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv4Address):
            return str(address)
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), IPV6_SITE_BITS), strict=False))
    return ""
