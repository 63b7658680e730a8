"""Pictures are fetched over https from public addresses, within limits; everything else is refused."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.avatars.fetch import Fetcher, check_url, is_public
from serve_app.avatars.photo import MAX_PHOTO_BYTES, PhotoRefused

pytestmark = pytest.mark.unit

HOST = "pictures.example"
PUBLIC = "93.184.215.14"

Answer = Callable[[ssl.SSLSocket, str], None]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for HOST, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


class Web:
    """A TLS server that stands where the public Internet would be.

    Attributes:
        asked: addresses that connections were opened to.
        paths: request targets that arrived.
    """

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.answer: Answer = lambda connection, target: None
        self.addresses: dict[str, list[str]] = {HOST: [PUBLIC]}
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.trust = ssl.create_default_context(cafile=str(certificate[0]))

    def fetcher(self, timeout_s: float = 5.0) -> Fetcher:
        return Fetcher(self._resolve, self._connect, self.trust, timeout_s)

    def _resolve(self, host: str) -> list[str]:
        if host not in self.addresses:
            raise OSError("no such host")
        return self.addresses[host]

    def _connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        assert port == 443
        self.asked.append(address)
        return socket.create_connection(self._listener.getsockname(), timeout_s)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(5)
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    head = b""
                    while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
                        head += part
                    target = head.split(b" ")[1].decode() if b" " in head else ""
                    self.paths.append(target)
                    self.answer(connection, target)
            except OSError:
                # Clients go away in the middle; that is what some tests are about.
                continue
            finally:
                plain.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def web(certificate: tuple[Path, Path]) -> Iterator[Web]:
    web = Web(certificate)
    yield web
    web.close()


def picture(body: bytes = b"picture", kind: str = "image/png", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"content-type": kind, "content-length": str(len(body)), **named}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    def answer(connection: ssl.SSLSocket, target: str) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body)

    return answer


def redirect(*targets: str) -> Answer:
    left = list(targets)

    def answer(connection: ssl.SSLSocket, target: str) -> None:
        if left:
            connection.sendall(f"HTTP/1.1 302 Found\r\nlocation: {left.pop(0)}\r\n\r\n".encode())
        else:
            picture()(connection, target)

    return answer


def refusal(fetcher: Fetcher, url: str = f"https://{HOST}/face.png") -> PhotoRefused:
    with pytest.raises(PhotoRefused) as caught:
        fetcher.fetch(url)
    return caught.value


def test_a_picture_is_fetched_from_the_checked_address(web: Web) -> None:
    web.answer = picture(b"x" * 100_000)
    assert web.fetcher().fetch(f"https://{HOST}/a/face.png?size=2") == b"x" * 100_000
    assert web.asked == [PUBLIC]
    assert web.paths == ["/a/face.png?size=2"]


def test_a_name_that_changes_its_address_is_asked_once(web: Web) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    web.answer = picture()
    fetcher = Fetcher(lambda host: next(answers), web._connect, web.trust)
    fetcher.fetch(f"https://{HOST}/")
    assert web.asked == [PUBLIC]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.1.1", "172.20.0.1", "169.254.169.254", "0.0.0.0", "100.64.1.1",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "no address",
    ],
)  # fmt: skip
def test_addresses_within_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_a_host_with_any_private_address_is_never_connected_to(web: Web) -> None:
    web.addresses[HOST] = [PUBLIC, "10.0.0.5"]
    refused = refusal(web.fetcher())
    assert refused.reason == "bad_url"
    assert "private network" in str(refused)
    assert web.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f000001", "2130706433"]
)
def test_loopback_by_any_spelling_is_refused(host: str) -> None:
    refused = refusal(Fetcher(timeout_s=2.0), f"https://{host}/latest/meta-data")
    assert refused.reason in ("bad_url", "fetch_failed")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://pictures.example/a.png", "'http'"),
        ("file:///etc/passwd", "'file'"),
        ("ftp://pictures.example/a.png", "'ftp'"),
        ("//pictures.example/a.png", "'none'"),
        ("https:///a.png", "none"),
        ("https://user:secret@pictures.example/", "found one with"),
        ("https://pictures.example:8443/", "8443"),
        ("https://pictures.example:99999/", "text that is none"),
        ("https://pictures.example/a b", "other characters"),
        ("https://pictures.example/a\r\nx: y", "other characters"),
        ("https://pictürés.example/", "other characters"),
        ("https://pictures.example/" + "a" * 2048, "2073"),
    ],
)
def test_other_urls_are_refused_before_anything_is_looked_up(web: Web, url: str, found: str) -> None:
    refused = refusal(web.fetcher(), url)
    assert refused.reason == "bad_url"
    assert found in str(refused)
    assert "secret" not in str(refused)
    assert web.asked == []


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text(max_size=60).map("https://".__add__)))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        parts = check_url(text)
    except PhotoRefused as refused:
        reason = refused.reason
    else:
        reason = "" if parts.scheme == "https" and parts.hostname else "wrong"
    assert reason in ("", "bad_url")


def test_redirects_are_followed_and_checked_again(web: Web) -> None:
    web.answer = redirect("/second.png", f"https://{HOST}/third.png")
    assert web.fetcher().fetch(f"https://{HOST}/first.png") == b"picture"
    assert web.paths == ["/first.png", "/second.png", "/third.png"]


@pytest.mark.parametrize(
    "target", ["http://pictures.example/", "https://inside.example/", "file:///etc/passwd"]
)
def test_redirects_to_forbidden_places_are_refused(web: Web, target: str) -> None:
    web.addresses["inside.example"] = ["127.0.0.1"]
    web.answer = redirect(target)
    assert refusal(web.fetcher()).reason == "bad_url"
    assert web.asked == [PUBLIC]


def test_endless_redirects_end(web: Web) -> None:
    web.answer = redirect(*["/again"] * 20)
    assert "redirects" in str(refusal(web.fetcher()))
    assert len(web.paths) == 4


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/json"])
def test_other_content_is_refused(web: Web, kind: str) -> None:
    web.answer = picture(kind=kind)
    refused = refusal(web.fetcher())
    assert refused.reason == "fetch_failed"
    assert kind in str(refused)


def test_errors_of_the_server_are_told(web: Web) -> None:
    web.answer = lambda connection, target: connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert "found 404" in str(refusal(web.fetcher()))


def test_announced_and_unannounced_length_are_limited(web: Web) -> None:
    web.answer = picture(content_length=str(MAX_PHOTO_BYTES + 1))
    assert refusal(web.fetcher()).reason == "too_large"

    def endless(connection: ssl.SSLSocket, target: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n")
        for _ in range(MAX_PHOTO_BYTES // 100_000 + 10):
            connection.sendall(bytes(100_000))

    web.answer = endless
    assert refusal(web.fetcher()).reason == "too_large"


def test_a_picture_that_is_cut_is_refused(web: Web) -> None:
    web.answer = picture(b"half", content_length="8")
    assert refusal(web.fetcher()).reason == "fetch_failed"


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_server_that_drips_is_left_in_time(web: Web, where: str) -> None:
    def drip(connection: ssl.SSLSocket, target: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n")
        connection.sendall(b"content-length: 100000\r\n\r\n" if where == "body" else b"x-slow: ")
        for _ in range(200):
            connection.sendall(b"a")
            time.sleep(0.02)

    web.answer = drip
    began_s = time.monotonic()
    refused = refusal(web.fetcher(timeout_s=0.4))
    assert "within 0.4 s" in str(refused)
    assert time.monotonic() - began_s < 2.0


def test_a_server_of_another_name_is_not_believed(web: Web) -> None:
    web.addresses["other.example"] = [PUBLIC]
    refused = refusal(web.fetcher(), "https://other.example/a.png")
    assert "SSLCertVerificationError" in str(refused)


def test_an_unknown_host_is_told(web: Web) -> None:
    assert "none of that name" in str(refusal(web.fetcher(), "https://nowhere.example/a.png"))
