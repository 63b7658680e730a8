"""What a room's address, token and name must look like before an SDK is given them."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from serve_app.errors import InvalidMessage
from serve_app.rooms.base import RoomSpec

MAX_URL_CHARS = 2_048
MAX_TOKEN_CHARS = 16_384
MAX_NAME_CHARS = 128

_SCHEMES = {"livekit": ("wss", "https"), "daily": ("https",)}
_LOOPBACK_SCHEMES = {"livekit": ("wss", "https", "ws", "http"), "daily": ("https", "http")}


def check_spec(spec: RoomSpec) -> str:
    """Return the host of a room that may be given to its SDK.

    TLS is asked for everywhere but on this machine: the token travels to that address.

    Args:
        spec: the room; a Daily room may be public and have no token.

    Raises:
        InvalidMessage: an address, token or name that no room can have; says what was expected and found,
            never the token.
    """
    if len(spec.display_name) > MAX_NAME_CHARS:
        raise InvalidMessage(
            f"room display_name: expected at most {MAX_NAME_CHARS} characters, got {len(spec.display_name)}"
        )
    _check_token(spec)
    parts = _split(spec.url)
    host = parts.hostname or ""
    if not host:
        raise InvalidMessage("room url: expected an address with a host, got none")
    schemes = _LOOPBACK_SCHEMES[spec.platform] if is_loopback(host) else _SCHEMES[spec.platform]
    if parts.scheme not in schemes:
        raise InvalidMessage(
            f"room url: expected {' or '.join(f'{s}://' for s in schemes)}, got {parts.scheme[:16] or 'no'}://"
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidMessage("room url: expected no user or password before the host, got some")
    if spec.platform == "daily" and not parts.path.strip("/"):
        raise InvalidMessage("room url: expected a Daily room, https://<domain>/<room>, got no room name")
    return host


def is_loopback(host: str) -> bool:
    """Return whether a host name or literal address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARS:
        raise InvalidMessage(f"room url: expected at most {MAX_URL_CHARS} characters, got {len(url)}")
    # urlsplit() drops tabs and line ends without a word; the SDKs might not.
    if not all("!" <= char <= "~" for char in url):
        raise InvalidMessage("room url: expected printable ASCII without spaces, got other characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidMessage("room url: expected an absolute address, got one that cannot be read") from error
    if port == 0:
        raise InvalidMessage("room url: expected a port from 1 to 65535, got 0")
    return parts


def _check_token(spec: RoomSpec) -> None:
    if not spec.token and spec.platform == "livekit":
        raise InvalidMessage("room token: expected a LiveKit access token, got none", missing="token")
    if len(spec.token) > MAX_TOKEN_CHARS:
        raise InvalidMessage(
            f"room token: expected at most {MAX_TOKEN_CHARS} characters, got {len(spec.token)}"
        )
    if not all("!" <= char <= "~" for char in spec.token):
        raise InvalidMessage("room token: expected printable ASCII without spaces, got other characters")
