"""Where clients reach this server, for the addresses that answers name."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from serve_app.config import GatewayConfig


def http_url(connection: HTTPConnection, config: GatewayConfig) -> str:
    """Return the server's address without a path: the configured one, or where this request went."""
    if config.public_url is not None:
        return config.public_url
    forwarded = connection.headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
    scheme = forwarded or {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme)
    if scheme not in {"http", "https"}:
        scheme = "http"
    return f"{scheme}://{connection.headers.get('host') or connection.url.netloc}"


def ws_url(connection: HTTPConnection, config: GatewayConfig) -> str:
    """Return the same address for WebSockets."""
    return "ws" + http_url(connection, config).removeprefix("http")
