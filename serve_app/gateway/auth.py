"""Who may enter: API keys and browser origins, the same for every door."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from serve_app.config import AuthConfig, GatewayConfig
from serve_app.errors import Unauthorized
from serve_app.session.usage import KeyLimits

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who knocks.

    Attributes:
        key_id: name of the API key; None on an open server.
        limits: what the key's sessions may take; None on an open server.
    """

    key_id: str | None = None
    limits: KeyLimits | None = None


class Keyring:
    """The configured API keys.

    Args:
        config: whose keys may enter; without any, and where none is required, everybody may.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._is_open = config.is_open
        self._keys = [(key.sha256, Caller(key.id, KeyLimits.of(config, key.id))) for key in config.keys]

    def authenticate(self, connection: HTTPConnection, given: str | None = None) -> Caller:
        """Return whose key a request carries: `given`, x-api-key, Authorization: Bearer or ?token=.

        The first that is there counts.

        Args:
            connection: a request or a socket that opens.
            given: a key that the door found elsewhere, in a subprotocol or a query of its own.

        Raises:
            Unauthorized: the key is missing or not known; the message never shows it.
        """
        if self._is_open:
            return Caller()
        key = given or connection.headers.get("x-api-key") or bearer_of(connection)
        key = key or connection.query_params.get("token", "")
        if not key:
            raise Unauthorized(f"{_EXPECTED}, found none")
        # A lone surrogate, which JSON may bring, is no UTF-8.
        found = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        # All are compared, each in constant time, so that the time taken tells nothing.
        known = [caller for sha256, caller in self._keys if hmac.compare_digest(sha256, found)]
        if not known:
            raise Unauthorized(f"{_EXPECTED}, found one that is not known")
        return known[0]


_EXPECTED = "expected an API key in x-api-key, Authorization: Bearer or ?token="


def bearer_of(connection: HTTPConnection) -> str:
    """Return the token of Authorization: Bearer (RFC 6750, section 2.1), or an empty text."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def check_origin(connection: HTTPConnection, config: GatewayConfig) -> None:
    """Check where a browser's page comes from (RFC 6454); other clients send no Origin.

    Without configured origins a page of this server's own host may enter; "*" lets every page in.

    Raises:
        Unauthorized: pages of that origin may not enter.
    """
    origin = connection.headers.get("origin")
    if origin is None:
        return
    allowed = [item.rstrip("/").lower() for item in config.allowed_origins]
    if "*" in allowed or origin.lower() in allowed:
        return
    if not allowed and _is_own(origin, connection.headers.get("host", "")):
        return
    raise Unauthorized("expected a page of an allowed origin (gateway.allowed_origins), found another")


def _is_own(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        own = urlsplit(f"{parts.scheme}://{host}")
        default = _DEFAULT_PORTS.get(parts.scheme)
        return (
            default is not None
            and parts.hostname is not None
            and (parts.hostname, parts.port or default) == (own.hostname, own.port or default)
        )
    except ValueError:
        return False
