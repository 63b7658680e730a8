import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from aioice.candidate import Candidate
from aioice.stun import Class, Message, parse_message
from aiortc import RTCPeerConnection
from pydantic import SecretStr

from serve_app.config import IceConfig, IceServer
from serve_app.rtc.ice import apply_ice_config, describe_failure, rtc_configuration, try_ice_servers

pytestmark = pytest.mark.protocol


async def gather(config: IceConfig) -> tuple[list[Candidate], list[Any], float]:
    """Gather as configured; return the candidates, the sockets' own addresses and the seconds it took."""
    pc = RTCPeerConnection(rtc_configuration(config))
    pc.addTransceiver("video", direction="recvonly")
    apply_ice_config(pc, config)
    start_s = time.monotonic()
    await pc.setLocalDescription(await pc.createOffer())
    took_s = time.monotonic() - start_s
    connection = pc.getTransceivers()[0].receiver.transport.transport._connection
    candidates = connection.local_candidates
    bound = [protocol.transport.get_extra_info("sockname") for protocol in connection._protocols]
    await pc.close()
    return candidates, bound, took_s


@pytest.fixture
def dead_server() -> Iterator[str]:
    """Host and port of a UDP socket that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


async def test_without_configuration_there_are_host_candidates_only() -> None:
    candidates, bound, took_s = await gather(IceConfig())
    assert {candidate.type for candidate in candidates} == {"host"}
    assert [(c.host, c.port) for c in candidates] == [address[:2] for address in bound]
    assert "127.0.0.1" not in {candidate.host for candidate in candidates}
    assert took_s < 0.5


async def test_no_server_is_asked_unless_one_is_configured() -> None:
    assert rtc_configuration(IceConfig()).iceServers == []


async def test_configured_servers_are_passed_on_with_their_secret() -> None:
    server = IceServer(urls=["turn:turn.example:3478"], username="user", credential=SecretStr("secret"))
    passed = rtc_configuration(IceConfig(servers=[server])).iceServers[0]
    assert (passed.urls, passed.username, passed.credential) == (server.urls, "user", "secret")


async def test_ports_are_taken_from_the_range() -> None:
    for _ in range(5):
        candidates, _, _ = await gather(IceConfig(udp_port_range=(40_100, 40_119)))
        assert candidates
        assert all(40_100 <= candidate.port <= 40_119 for candidate in candidates)


async def test_a_port_in_use_is_passed_over() -> None:
    host = (await gather(IceConfig()))[0][0].host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((host, 40_120))
        for _ in range(4):
            candidates, _, _ = await gather(IceConfig(udp_port_range=(40_120, 40_121)))
            assert [c.port for c in candidates if c.host == host] == [40_121]


async def test_a_range_without_a_free_port_offers_nothing() -> None:
    config = IceConfig(udp_port_range=(40_130, 40_130), loopback=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 40_130))
        candidates, _, _ = await gather(config)
    assert "127.0.0.1" not in {candidate.host for candidate in candidates}


async def test_the_public_address_is_announced_in_place_of_the_own_one() -> None:
    candidates, bound, _ = await gather(IceConfig(public_address="203.0.113.7"))
    ipv4 = [candidate for candidate in candidates if ":" not in candidate.host]
    assert [candidate.host for candidate in ipv4] == ["203.0.113.7"]
    own = {address[1]: address[0] for address in bound}
    assert own[ipv4[0].port] != "203.0.113.7"


async def test_loopback_is_offered_when_asked_for() -> None:
    candidates, _, _ = await gather(IceConfig(loopback=True, public_address="203.0.113.7"))
    assert {"127.0.0.1", "203.0.113.7"} <= {candidate.host for candidate in candidates}


@pytest.mark.parametrize("scheme", ["stun", "turn"])
async def test_a_dead_server_costs_no_more_than_the_gathering_time(dead_server: str, scheme: str) -> None:
    server = IceServer(urls=[f"{scheme}:{dead_server}"], username="user", credential=SecretStr("secret"))
    candidates, _, took_s = await gather(IceConfig(servers=[server], gather_timeout_s=0.2, loopback=True))
    assert {candidate.type for candidate in candidates} == {"host"}
    assert 0.15 < took_s < 1.0


async def test_a_dead_server_is_waited_for_once(dead_server: str) -> None:
    config = IceConfig(servers=[IceServer(urls=[f"stun:{dead_server}"])], gather_timeout_s=0.3)
    took_s = [(await gather(config))[2] for _ in range(3)]
    assert 0.25 < took_s[0] < 1.0
    assert max(took_s[1:]) < 0.15


async def test_servers_can_be_tried_before_anybody_waits(dead_server: str) -> None:
    config = IceConfig(servers=[IceServer(urls=[f"stun:{dead_server}"])], gather_timeout_s=0.3)
    await try_ice_servers(config)
    assert (await gather(config))[2] < 0.15


async def test_trying_no_servers_does_nothing() -> None:
    await try_ice_servers(IceConfig())


class StunServer(asyncio.DatagramProtocol):
    """Answers with the address it sees, once it is awake."""

    def __init__(self) -> None:
        self.is_awake = False
        self.asked = asyncio.Event()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.set()
        if self.is_awake and self.transport is not None:
            request = parse_message(data)
            response = Message(request.message_method, Class.RESPONSE, request.transaction_id)
            response.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.9", addr[1])
            self.transport.sendto(bytes(response), addr)


async def test_a_server_that_is_back_is_waited_for_again() -> None:
    server, loop = StunServer(), asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("0.0.0.0", 0))
    url = f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    config = IceConfig(servers=[IceServer(urls=[url])], gather_timeout_s=0.3)
    assert {candidate.type for candidate in (await gather(config))[0]} == {"host"}
    server.is_awake = True
    pc = RTCPeerConnection(rtc_configuration(config))
    pc.addTransceiver("video", direction="recvonly")
    apply_ice_config(pc, config)
    server.asked.clear()
    await pc.setLocalDescription(await pc.createOffer())
    await asyncio.wait_for(server.asked.wait(), 5)
    await asyncio.sleep(0.1)
    await pc.close()
    candidates, _, took_s = await gather(config)
    assert ("203.0.113.9", "srflx") in {(candidate.host, candidate.type) for candidate in candidates}
    assert took_s < 0.25
    transport.close()


async def test_without_any_address_the_server_is_named_as_the_cause() -> None:
    pc = RTCPeerConnection(rtc_configuration(IceConfig()))
    pc.addTransceiver("video")
    found = describe_failure(pc)
    assert found.cause == "no_local_address"
    assert "udp_port_range" in found.detail
    assert found.pairs == ()
    await pc.close()


async def test_gathering_keeps_the_event_loop_free(dead_server: str) -> None:
    server = IceServer(urls=[f"stun:{dead_server}"])
    gaps: list[float] = []

    async def tick() -> None:
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now_s = time.monotonic()
            gaps.append(now_s - last_s)
            last_s = now_s

    ticking = asyncio.ensure_future(tick())
    await gather(IceConfig(servers=[server], gather_timeout_s=0.3))
    ticking.cancel()
    assert max(gaps) < 0.1
