"""A picture from a URL that a stranger named: over https, from public addresses alone, within limits.

The name is resolved once, all its addresses are checked, and the connection goes to the checked address: what
the name means a moment later (DNS rebinding) does not matter. Redirects go through the same.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import SplitResult, urljoin, urlsplit

from serve_app.avatars.photo import MAX_PHOTO_BYTES, PhotoRefused

MAX_URL_CHARS = 2048
MAX_REDIRECTS = 3
TIMEOUT_S = 10.0
"""For everything: connecting, redirects, the whole body."""

PORT = 443
TYPES = (
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "application/octet-stream",
    "binary/octet-stream",
)

Resolve = Callable[[str], Iterable[str]]
"""Returns the addresses of a host name."""

Connect = Callable[[str, int, float], socket.socket]
"""Opens a TCP connection to an address."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CARRIER = ipaddress.ip_network("100.64.0.0/10")


class _Pinned(http.client.HTTPSConnection):
    """Speaks TLS for a host's name with an address that was checked.

    Args:
        host: whose certificate is expected.
        opened: connected to the checked address.
        context: checks the certificate.
    """

    def __init__(self, host: str, opened: socket.socket, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(host, PORT, timeout=timeout_s, context=context)
        self._opened = opened
        self._tls = context

    def connect(self) -> None:
        """Begin TLS."""
        # The handshake comes after `_opened` is set, so that `shut` reaches a server that stalls it.
        opened = self._tls.wrap_socket(self._opened, server_hostname=self.host, do_handshake_on_connect=False)
        self._opened = self.sock = opened
        opened.do_handshake()

    def shut(self) -> None:
        """End whatever is being waited for; may be called from another thread."""
        try:
            self._opened.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It was closed at this very moment.
            return

    def let_go(self) -> None:
        """Close what is open."""
        self.close()
        self._opened.close()


class Fetcher:
    """Fetches pictures.

    Args:
        resolve: looks names up.
        connect: opens connections.
        context: checks certificates; None for the system's authorities.
        timeout_s: for one picture, redirects and all.
    """

    def __init__(
        self,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        context: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._resolve = resolve or _addresses
        self._connect = connect or _connected
        self._context = context or ssl.create_default_context()
        self._timeout_s = timeout_s

    def fetch(self, url: str) -> bytes:
        """Return the file behind a URL.

        Raises:
            PhotoRefused: the URL may not be fetched (reason bad_url), or it cannot (fetch_failed), or the
                file is too large.
        """
        deadline_s = time.monotonic() + self._timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            found = self._fetch_once(url, deadline_s)
            if isinstance(found, bytes):
                return found
            url = found
        raise _failed(f"expected at most {MAX_REDIRECTS} redirects, found more")

    def _fetch_once(self, url: str, deadline_s: float) -> bytes | str:
        """Return the file, or where it is said to be."""
        parts = check_url(url)
        host = parts.hostname
        assert host is not None, "checked"
        address = self._public_address(host)
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise self._late()
        try:
            opened = self._connect(address, PORT, left_s)
        except OSError as error:
            raise _failed(f"expected a server behind the URL, found {type(error).__name__}") from error
        # A server that sends a byte now and then would outlast any time limit of a single read.
        connection = _Pinned(host, opened, self._context, left_s)
        timer = threading.Timer(left_s, connection.shut)
        timer.start()
        try:
            found = _answer_of(connection, parts, url)
        except (OSError, http.client.HTTPException, PhotoRefused) as error:
            if time.monotonic() >= deadline_s or isinstance(error, TimeoutError):
                raise self._late() from error
            if isinstance(error, PhotoRefused):
                raise
            raise _failed(f"expected a picture behind the URL, found {type(error).__name__}") from error
        finally:
            timer.cancel()
            connection.let_go()
        # A head that is shut in the middle looks like one that ends there.
        if time.monotonic() >= deadline_s:
            raise self._late()
        return found

    def _public_address(self, host: str) -> str:
        try:
            addresses = list(self._resolve(host))
        except (OSError, UnicodeError) as error:
            raise _failed("expected a host that can be found, found none of that name") from error
        if not addresses:
            raise _failed("expected a host that can be found, found none of that name")
        if not all(map(is_public, addresses)):
            raise _bad_url("expected a host with public addresses, found one within a private network")
        return addresses[0]

    def _late(self) -> PhotoRefused:
        return _failed(f"expected the picture within {self._timeout_s:g} s, found it unfinished")


def check_url(url: str) -> SplitResult:
    """Return the parts of a URL that may be fetched.

    Raises:
        PhotoRefused: reason bad_url; the text says what is wrong and does not repeat the URL.
    """
    if len(url) > MAX_URL_CHARS:
        raise _bad_url(f"expected a URL of at most {MAX_URL_CHARS} characters, found {len(url)}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _bad_url("expected a URL of printable ASCII, found other characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad_url("expected a URL, found text that is none") from None
    if parts.scheme != "https":
        raise _bad_url(f"expected an https URL, found {(parts.scheme or 'none')[:16]!r}")
    if parts.username is not None or parts.password is not None:
        raise _bad_url("expected a URL without a user and a password, found one with")
    if port not in (None, PORT):
        raise _bad_url(f"expected port {PORT}, found {port}")
    if not parts.hostname:
        raise _bad_url("expected a URL with a host, found none")
    return parts


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public Internet (IANA special-purpose registries)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if within is None and ip in _NAT64:
            within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if within is not None:
            ip = within
    elif ip in _CARRIER:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _answer_of(connection: _Pinned, parts: SplitResult, url: str) -> bytes | str:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "accept": "image/*",
        "accept-encoding": "identity",
        "user-agent": "serve-app",
        "connection": "close",
    }
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    if answer.status in (301, 302, 303, 307, 308):
        target = answer.getheader("location")
        if not target:
            raise _failed("expected a redirect with a location, found none")
        return urljoin(url, target)
    if answer.status != 200:
        raise _failed(f"expected the answer 200 of the URL's server, found {answer.status}")
    kind = (answer.getheader("content-type") or "none").partition(";")[0].strip().lower()
    if kind not in TYPES:
        raise _failed(f"expected a picture behind the URL, found {kind[:64]!r}")
    if answer.getheader("content-encoding", "identity") != "identity":
        raise _failed("expected a picture as it is, found it encoded")
    announced = answer.getheader("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_PHOTO_BYTES:
        raise _too_large()
    content = bytearray()
    while chunk := answer.read1(65_536):
        content += chunk
        if len(content) > MAX_PHOTO_BYTES:
            raise _too_large()
    # A connection that is shut in the middle looks like one that ends.
    if announced.isdecimal() and len(content) != int(announced):
        raise _failed(f"expected {announced} bytes behind the URL, found {len(content)}")
    return bytes(content)


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _connected(address: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((address, port), timeout_s)


def _bad_url(detail: str) -> PhotoRefused:
    return PhotoRefused(
        "bad_url", f"image_url: {detail}", "Give the https URL of a picture on a public server."
    )


def _failed(detail: str) -> PhotoRefused:
    return PhotoRefused("fetch_failed", f"image_url: {detail}", "Send the file itself.")


def _too_large() -> PhotoRefused:
    limit = MAX_PHOTO_BYTES // 1_000_000
    return PhotoRefused(
        "too_large",
        f"image_url: expected at most {limit} MB, found more",
        "Give the URL of a smaller picture.",
    )
