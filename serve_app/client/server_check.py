"""A running server, seen from where a client is: each step of a session, and what to do when one fails.

Contacts the server that was asked about and the ICE servers that it names, and nothing else.
"""

from __future__ import annotations

import asyncio
import statistics
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from aiortc import RTCPeerConnection
from pydantic import SecretStr

from serve_app.client.a2v import A2vClient, DoorError
from serve_app.client.finding import Finding
from serve_app.client.received import Received, Receiver
from serve_app.config import IceServer
from serve_app.errors import AvatarError

WATCH_S = 2.5
"""How long pictures are counted; sender reports of aiortc come about every second."""

SOUND_S = 5.0
SLOW_FIRST_PICTURE_S = 1.0
FEWEST_PICTURES = 0.9
"""Share of the promised pictures below which something is in the way."""

MOST_SKEW_S = 0.1
"""Sound and picture further apart on their way make a player wait for one of them."""

HTTP_OF = {"ws": "http", "wss": "https", "http": "http", "https": "https"}

OPEN_UDP = (
    "open the server's UDP ports (ice.udp_port_range) to this machine, set ice.public_address behind NAT, "
    "or configure TURN"
)


async def check_server(
    url: str, token: str | None, check_ice: Callable[[Iterable[IceServer]], Any], watch_s: float = WATCH_S
) -> list[Finding]:
    """Open a real session and look at each step: readiness, socket, key, ICE, picture, sound, synchrony.

    Args:
        url: the server's Audio-to-Video door, ws:// or wss://.
        token: its API key.
        check_ice: asks ICE servers, as `doctor.check_ice_servers` does.
        watch_s: how long pictures are counted.
    """
    findings = [await asyncio.to_thread(check_ready, url)]
    pictures: list[Received] = []
    sounds: list[Received] = []
    receiver = Receiver(on_video=pictures.append, on_sound=sounds.append)
    client = A2vClient(url, token=token, media=receiver)
    try:
        async with client:
            findings += [_welcome(client), *await _ice(client, check_ice), _first_picture(client)]
            findings.append(_path(client.peer))
            findings += await _media(client, receiver, pictures, sounds, watch_s)
    except (AvatarError, ValueError) as error:  # aiortc's for an answer that it cannot read
        if client.moments.established_s is None:
            return [*findings, _refused(error)]
        found = [] if client.moments.media_s is not None else await _ice(client, check_ice)
        return [*findings, _welcome(client), *found, Finding("server: WebRTC", "fail", str(error), OPEN_UDP)]
    return findings


def check_ready(url: str) -> Finding:
    """Ask the server whether a session could be opened now.

    Args:
        url: any address of the server.
    """
    check = "server: ready"
    parts = urlsplit(url)
    scheme = HTTP_OF.get(parts.scheme)
    if scheme is None or parts.hostname is None:
        remedy = "write it as ws://host:8765/webrtc or wss://host/webrtc"
        return Finding(check, "fail", f"{url!r} is no address of a server", remedy)
    host = parts.netloc.rpartition("@")[2]
    ready = urlunsplit((scheme, host, "/readyz", "", ""))
    try:
        with urllib.request.urlopen(ready, timeout=5) as answer:
            return Finding(check, "ok", f"/readyz says {answer.status}")
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 503:
                remedy = (
                    "wait until a host is warm and the model is loaded; `serve status` says what is missing"
                )
                return Finding(check, "warn", "/readyz says 503: it starts, or has lost its hosts", remedy)
            return Finding(
                check, "ok", f"nothing at /readyz ({error.code}); the path may lead to doors alone"
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if "certificate" in str(reason).lower():
            remedy = "give the proxy in front a certificate for this name, whole chain included"
            return Finding(check, "fail", f"TLS: {reason}", remedy)
        remedy = "start it (`make run`), check name and port, and the firewall in between"
        return Finding(check, "fail", f"nothing answers at {scheme}://{host}: {reason}", remedy)


def _refused(error: Exception) -> Finding:
    """Say what to do about a socket that was not welcomed."""
    text = str(error)
    code = error.door_code if isinstance(error, DoorError) else ""
    if code == "SRV_5003" or "4401" in text or code in {"HTTP 401", "HTTP 403"}:
        remedy = "give --token (or AVATAR_TOKEN) an API key of this server; `avatar key NAME` makes one"
        return Finding("server: key", "fail", text, remedy)
    if code == "SRV_5001" or "1013" in text:
        remedy = "try again when it says; the operator can raise session.hosts (alert AvatarRefusesSessions)"
        return Finding("server: room", "fail", text, remedy)
    if "4404" in text:
        remedy = "ask for an avatar of GET /v1/avatars and for a model that the server runs"
        return Finding("server: avatar", "fail", text, remedy)
    if code.startswith("HTTP "):
        remedy = "let the proxy in front pass WebSocket upgrades, and check the path"
        return Finding("server: WebSocket", "fail", text, remedy)
    remedy = "start it with `make run`, check the address and the proxies in between"
    return Finding("server: WebSocket", "fail", text, remedy)


def _welcome(client: A2vClient) -> Finding:
    moments = client.moments
    opened_ms = ((moments.established_s or 0) - (moments.opening_s or 0)) * 1000
    return Finding("server: WebSocket", "ok", f"welcomed after {opened_ms:.0f} ms")


async def _ice(client: A2vClient, check_ice: Callable[[Iterable[IceServer]], Any]) -> list[Finding]:
    """Ask the ICE servers that the door gave, with its credentials, from here."""
    servers = [
        IceServer(
            urls=[given["urls"]] if isinstance(given["urls"], str) else given["urls"],
            username=given.get("username"),
            credential=SecretStr(given["credential"]) if given.get("credential") else None,
        )
        for given in client.ice_servers
    ]
    if not servers:
        return [Finding("server: ICE servers", "ok", "it names none; its own addresses must be reached")]
    return [
        Finding(f"server: {finding.check}", finding.level, finding.found, finding.remedy)
        for finding in await check_ice(servers)
    ]


def _first_picture(client: A2vClient) -> Finding:
    moments = client.moments
    picture_s = (moments.media_s or 0) - (moments.opening_s or 0)
    found = f"first picture after {picture_s * 1000:.0f} ms"
    if picture_s > SLOW_FIRST_PICTURE_S:
        remedy = "connect once more: if it stays slow, look for dead ICE servers and a busy host"
        return Finding("server: WebRTC", "warn", found, remedy)
    return Finding("server: WebRTC", "ok", found)


def _path(peer: RTCPeerConnection) -> Finding:
    """Say which way media takes: straight, through a NAT, or relayed."""
    transport = peer.getTransceivers()[0].receiver.transport.transport
    # aioice tells nobody which pair was nominated.
    pair = transport.iceGatherer._connection._nominated.get(1)  # noqa: SLF001
    if pair is None:
        return Finding("server: path", "ok", "media comes; ICE does not tell which way")
    local, remote = pair.local_candidate, pair.remote_candidate
    found = f"{local.type} {local.host} - {remote.type} {remote.host}:{remote.port}"
    if "relay" in {local.type, remote.type}:
        remedy = f"nothing, if a relay is meant; for the straight way {OPEN_UDP}"
        return Finding("server: path", "warn", f"relayed by TURN: {found}", remedy)
    return Finding("server: path", "ok", found)


async def _media(
    client: A2vClient,
    receiver: Receiver,
    pictures: list[Received],
    sounds: list[Received],
    watch_s: float,
) -> list[Finding]:
    """Count what comes for a while, and compare the ways of sound and picture."""
    pictures.clear()
    await asyncio.sleep(watch_s)
    findings = [_rate(client, receiver, len(pictures) / watch_s)]
    waited_s = watch_s
    while not sounds and waited_s < SOUND_S:
        await asyncio.sleep(0.1)
        waited_s += 0.1
    if not sounds:
        return [*findings, Finding("server: sound", "fail", f"no sound in {SOUND_S:g} s", "see its log")]
    findings.append(Finding("server: sound", "ok", "Opus packets come in"))
    skew_s = _skew_s(receiver, pictures, sounds)
    if skew_s is None:
        return findings
    found = f"sound comes {abs(skew_s) * 1000:.0f} ms {'after' if skew_s > 0 else 'before'} its picture"
    if abs(skew_s) > MOST_SKEW_S:
        remedy = "players wait for the later one: look for loss on the way and for a busy host"
        return [*findings, Finding("server: synchrony", "warn", found, remedy)]
    return [*findings, Finding("server: synchrony", "ok", found)]


def _rate(client: A2vClient, receiver: Receiver, fps: float) -> Finding:
    promised = float(client.video.get("fps") or 0)
    lost = 0 if receiver.video is None else receiver.video.assembler.lost
    found = f"{fps:.1f} pictures a second" + (f" of {promised:g}" if promised else "")
    found += f", {lost} packets lost" if lost else ""
    if fps >= FEWEST_PICTURES * promised:
        return Finding("server: pictures", "ok", found)
    remedy = (
        "the network loses packets: try a cable, or another relay"
        if lost
        else "the host is busy (alerts AvatarHostLate, AvatarEncodersBusy), or this machine is"
    )
    return Finding("server: pictures", "warn", found, remedy)


def _skew_s(receiver: Receiver, pictures: list[Received], sounds: list[Received]) -> float | None:
    """Return how much longer sound is on its way than pictures; None before the sender's reports."""
    if receiver.video is None or receiver.sound is None:
        return None
    ways_s: list[float] = []
    for lane, frames in ((receiver.sound, sounds), (receiver.video, pictures)):
        sent = [(frame.arrived_s, lane.clock.sent_s(frame.timestamp)) for frame in frames]
        # The sender's clock is another one than this machine's; both ways are off by the same.
        on_way_s = [arrived_s - sent_s for arrived_s, sent_s in sent if sent_s is not None]
        if not on_way_s:
            return None
        ways_s.append(statistics.median(on_way_s))
    return ways_s[0] - ways_s[1]
