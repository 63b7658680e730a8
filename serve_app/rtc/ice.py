"""How a peer finds its way: candidates as IceConfig says, and a diagnosis when none of them works.

Nothing outside is contacted unless the configuration names it; aiortc's default STUN server is never used.
An answer holds all candidates and so waits for STUN and TURN; a server that once did not answer is asked on
the side from then on, and waited for again when it has answered.
"""

# ruff: noqa: SLF001 - aioice and aiortc offer no public way to bind, announce or diagnose

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import random
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, StunProtocol, relayed_candidate, server_reflexive_candidate
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcicetransport import connection_kwargs

from serve_app.config import IceConfig

logger = logging.getLogger("serve_app.rtc")

LOOPBACK = "127.0.0.1"

PeerFailure = Literal[
    "no_local_address",
    "no_remote_address",
    "no_reply",
    "dtls",
    "consent_lost",
    "no_sdp_answer",
    "data_channel",
]
"""Why a peer failed: this server has no address to offer; the client named none that can be used; no check
came back; the handshake did not finish; a connected client stopped answering; it did not answer the offer;
it did not read its events."""

MAX_WAITING_DATAGRAMS = 1024
"""Datagrams kept until somebody takes them; a connected peer takes each at once."""


Query = Coroutine[Any, Any, tuple[Candidate, StunProtocol | None]]
Way = tuple[str, int, str]
"""A server's host and port, and the own address it is asked from; TURN is asked from any."""

_silent: set[Way] = set()
"""Ways on which this process last waited in vain. Which these are is no peer's business but all peers'."""


def rtc_configuration(config: IceConfig) -> RTCConfiguration:
    """Return aiortc's configuration: the configured STUN and TURN servers, or none at all."""
    servers = []
    for server in config.servers:
        username, credential = server.credentials()
        servers.append(RTCIceServer(urls=server.urls, username=username, credential=credential))
    return RTCConfiguration(iceServers=servers)


async def try_ice_servers(config: IceConfig) -> None:
    """Ask every configured STUN and TURN server once, so that no client waits for one that is dead.

    Args:
        config: names the servers; takes `gather_timeout_s` when one of them does not answer.
    """
    if not config.servers:
        return
    connection = Connection(ice_controlling=False, **connection_kwargs(rtc_configuration(config).iceServers))
    ConfiguredConnection.adopt(connection, config)
    try:
        await connection.gather_candidates()
    finally:
        await connection.close()


def apply_ice_config(pc: RTCPeerConnection, config: IceConfig) -> None:
    """Make every transport of `pc` gather as `config` says; to be called before gathering starts."""
    for connection in _connections(pc):
        ConfiguredConnection.adopt(connection, config)


class ConfiguredConnection(Connection):  # type: ignore[misc, unused-ignore]
    """An ICE agent with a port range, an announced address and a bounded gathering time.

    Made by `adopt`: aiortc constructs its agents itself, so the class of that one object changes.
    """

    _ice_config: IceConfig
    _late: dict[asyncio.Future[tuple[Candidate, StunProtocol | None]], Way]

    @classmethod
    def adopt(cls, connection: Connection, config: IceConfig) -> None:
        """Turn a connection that has not gathered yet into one of this class."""
        connection._ice_config = config
        connection._late = {}
        connection.__class__ = cls

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: float = 5
    ) -> list[Candidate]:
        """Return host candidates, and what STUN and TURN answer within `gather_timeout_s`.

        Servers that did not answer the last time are not waited for.

        Args:
            component: 1, as RTP and RTCP share a port.
            addresses: the host's own addresses.
            timeout: replaced by the configured time.
        """
        config = self._ice_config
        host_protocols = []
        for address in self._addresses(addresses):
            protocol = await self._bind(component, address)
            if protocol is not None:
                host_protocols.append(protocol)
        self._protocols += host_protocols
        candidates = [protocol.local_candidate for protocol in host_protocols]
        queries = {
            asyncio.ensure_future(query): way for way, query in self._queries(component, host_protocols)
        }
        awaited = [query for query, way in queries.items() if way not in _silent]
        try:
            if awaited:
                await asyncio.wait(awaited, timeout=config.gather_timeout_s)
        except asyncio.CancelledError:
            for query in queries:
                query.cancel()
            raise
        for query, way in queries.items():
            if query.done():
                _silent.discard(way)
                candidates += self._answered(query)
            else:
                self._go_on_without(query, way)
        return candidates

    async def close(self) -> None:
        """Close the connection, and ask no server any more."""
        late = list(self._late)
        for query in late:
            query.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await super().close()

    def data_received(self, data: bytes, component: int) -> None:
        """Take a datagram that is not STUN; anybody may send one to this port.

        aiortc trips over an empty one, and nobody takes any before DTLS starts.
        """
        if data and self._queue.qsize() < MAX_WAITING_DATAGRAMS:
            super().data_received(data, component)

    def _addresses(self, addresses: list[str]) -> list[str]:
        public = self._ice_config.public_address
        if public is not None:
            routed = _routed_address(public)
            addresses = [address for address in addresses if address == routed] or addresses
        return [*addresses, LOOPBACK] if self._ice_config.loopback else addresses

    async def _bind(self, component: int, address: str) -> StunProtocol | None:
        loop = asyncio.get_running_loop()
        for port in _ports(self._ice_config.udp_port_range):
            try:
                transport, protocol = await loop.create_datagram_endpoint(
                    lambda: StunProtocol(self), local_addr=(address, port)
                )
            except OSError:
                continue
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE
            )
            host, bound_port = transport.get_extra_info("sockname")[:2]
            announced = self._announced(host)
            protocol.local_candidate = Candidate(
                foundation=candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=announced,
                port=bound_port,
                type="host",
            )
            return protocol
        logger.warning(
            "no UDP port could be bound on %s (range %s)", address, self._ice_config.udp_port_range
        )
        return None

    def _announced(self, host: str) -> str:
        public = self._ice_config.public_address
        if public is None or host == LOOPBACK:
            return host
        same_family = ipaddress.ip_address(host).version == ipaddress.ip_address(public).version
        return public if same_family else host

    def _queries(self, component: int, host_protocols: list[StunProtocol]) -> list[tuple[Way, Query]]:
        queries: list[tuple[Way, Query]] = []
        if self.stun_server:
            for protocol in host_protocols:
                host = protocol.transport.get_extra_info("sockname")[0]
                if ipaddress.ip_address(host).version == 4 and host != LOOPBACK:
                    query = server_reflexive_candidate(protocol, self.stun_server)
                    queries.append(((*self.stun_server, host), query))
        if self.turn_server:
            queries.append(((*self.turn_server, ""), self._relay(component)))
        return queries

    async def _relay(self, component: int) -> tuple[Candidate, StunProtocol]:
        candidate, protocol = await relayed_candidate(
            component=component,
            hide_related_address=False,
            protocol_factory=lambda: StunProtocol(self),
            turn_server=self.turn_server,
            turn_username=self.turn_username,
            turn_password=self.turn_password,
            turn_ssl=await asyncio.to_thread(_tls_context) if self.turn_ssl else False,
            turn_transport=self.turn_transport,
        )
        return candidate, protocol

    def _go_on_without(self, query: asyncio.Future[tuple[Candidate, StunProtocol | None]], way: Way) -> None:
        if way not in _silent:
            _silent.add(way)
            host, port, _ = way
            logger.warning(
                "no answer of the ICE server %s:%d within %.1f s; nobody waits for it until it answers",
                host,
                port,
                self._ice_config.gather_timeout_s,
            )
        self._late[query] = way
        query.add_done_callback(self._came_late)

    def _came_late(self, query: asyncio.Future[tuple[Candidate, StunProtocol | None]]) -> None:
        way = self._late.pop(query)
        if query.cancelled() or query.exception() is not None:
            return
        _silent.discard(way)
        _, relay = query.result()
        if relay is not None:
            # The client was told of no such address; closed with the connection, it is given back.
            self._protocols.append(relay)

    def _answered(self, query: asyncio.Future[tuple[Candidate, StunProtocol | None]]) -> list[Candidate]:
        error = query.exception()
        if error is not None:
            logger.warning("a STUN or TURN server could not be used: %s", type(error).__name__)
            return []
        candidate, relay = query.result()
        if relay is not None:
            self._protocols.append(relay)
        return [candidate]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a connection did not come about.

    Attributes:
        cause: for counting.
        detail: one sentence for a person, with what to do.
        pairs: the candidate pairs that were tried, with their states.
    """

    cause: PeerFailure
    detail: str
    pairs: tuple[str, ...]


def describe_failure(pc: RTCPeerConnection) -> Diagnosis:
    """Say why a connection did not come about."""
    connections = _connections(pc)
    local = [candidate for connection in connections for candidate in connection.local_candidates]
    remote = [candidate for connection in connections for candidate in connection.remote_candidates]
    checks = [pair for connection in connections for pair in connection._check_list]
    has_turn = any(connection.turn_server for connection in connections)
    pairs = tuple(_describe_pair(pair) for pair in checks)
    if any(pair.nominated for pair in checks):
        return Diagnosis(
            "dtls",
            "The network path works but the DTLS handshake did not finish: "
            "a firewall or proxy that inspects UDP is likely in between; allow DTLS or use TURN over TLS.",
            pairs,
        )
    if not local:
        return Diagnosis(
            "no_local_address",
            "The server found no network address it could offer: "
            "check that UDP ports are free in ice.udp_port_range and that the host has a network.",
            pairs,
        )
    if not remote and not checks:
        return Diagnosis(
            "no_remote_address",
            "The client offered no address the server could resolve, and no packet of it arrived: "
            "open the page over HTTPS or from localhost, open the server's UDP ports in the firewall, "
            "or configure a TURN server.",
            pairs,
        )
    advice = (
        "check that the TURN server is reachable from both sides, and give it to the client's peer "
        "connection too: this server's own relay does not let in a client behind NAT that knows neither STUN "
        "nor TURN"
        if has_turn
        else "open the server's UDP ports (ice.udp_port_range), set ice.public_address if the server is "
        "behind NAT, or configure a TURN server"
    )
    return Diagnosis(
        "no_reply",
        f"No UDP packet came back on any of {len(pairs)} address pairs: a firewall is in the way; {advice}.",
        pairs,
    )


def _connections(pc: RTCPeerConnection) -> list[Connection]:
    transports = [transceiver.receiver.transport for transceiver in pc.getTransceivers()]
    if pc.sctp is not None:
        transports.append(pc.sctp.transport)
    connections: list[Connection] = []
    for transport in transports:
        connection = transport.transport.iceGatherer._connection
        if connection not in connections:
            connections.append(connection)
    return connections


def _describe_pair(pair: CandidatePair) -> str:
    local, remote = pair.local_candidate, pair.remote_candidate
    return (
        f"{local.type} {local.host}:{local.port} - {remote.type} {remote.host}:{remote.port} "
        f"{pair.state.name.lower()}"
    )


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return what TURN over TLS trusts; reading it takes 20 to 40 ms, too long for an event loop."""
    return ssl.create_default_context()


def _ports(udp_port_range: tuple[int, int] | None) -> list[int]:
    """Return the ports to try, in the order to try them: at random, so that sessions do not queue for one."""
    if udp_port_range is None:
        return [0]
    first, last = udp_port_range
    start = random.randint(first, last)
    return [*range(start, last + 1), *range(first, start)]


def _routed_address(public_address: str) -> str | None:
    """Return the host's own address from which `public_address` would be reached; sends nothing."""
    version = ipaddress.ip_address(public_address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((public_address, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
