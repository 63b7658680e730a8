"""A real TURN server in a namespace, over UDP, TCP and TLS, and the certificate it shows."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.network.internet import TURN
from tests.network.namespaces import Namespace

PORT, TLS_PORT = 3478, 5349
USER, PASSWORD = "user", "a password"
START_S = 10.0


class Certificate:
    """A self-made certificate for TURN, and its key, as files.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.key_path = folder / "turn.pem", folder / "turn.key"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "turn")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(TURN))]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @property
    def trusted(self) -> dict[str, str]:
        """The variable that makes OpenSSL trust it."""
        return {"SSL_CERT_FILE": str(self.path)}


@contextmanager
def turn_server(namespace: Namespace, certificate: Certificate, folder: Path) -> Iterator[None]:
    """Run coturn at TURN while the block runs."""
    binary = shutil.which("turnserver")
    if binary is None:
        pytest.skip("coturn is not installed")
    log = folder / "turn.log"
    command = namespace.command(
        binary, "-n", "--lt-cred-mech", f"--user={USER}:{PASSWORD}", "--realm=avatar.test",
        f"--listening-ip={TURN}", f"--relay-ip={TURN}",
        f"--listening-port={PORT}", f"--tls-listening-port={TLS_PORT}",
        f"--cert={certificate.path}", f"--pkey={certificate.key_path}",
        "--min-port=41000", "--max-port=41099", "--no-dtls", "--no-cli", "--no-rfc5780", "--relay-threads=1",
        f"--userdb={folder / 'turn.db'}", f"--pidfile={folder / 'turn.pid'}",
        "--log-file=stdout", "--simple-log",
    )  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        _await_start(namespace, process, log)
        yield
    finally:
        process.kill()
        process.wait()


def url(transport: str) -> str:
    """Return the address of the server over "udp", "tcp" or "tls"."""
    return f"turns:{TURN}:{TLS_PORT}" if transport == "tls" else f"turn:{TURN}:{PORT}?transport={transport}"


def _await_start(namespace: Namespace, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while f":{TLS_PORT:04X} " not in namespace.run("cat", "/proc/net/tcp"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.05)
