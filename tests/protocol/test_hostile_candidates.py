"""What a client can make the server send to somebody who never asked for it: ICE's checks, and no more.

The victim is a UDP socket that never answers. STUN's timer is shortened, so that all of a check's
retransmissions (RFC 8489, section 6.2.1) fit into the time until the peer gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psutil
import pytest
from aioice import stun
from aiortc import RTCConfiguration, RTCPeerConnection

from serve_app.clock import MonotonicClock
from serve_app.config import IceConfig
from serve_app.errors import InvalidCandidate, InvalidDescription
from serve_app.rtc.candidate import MAX_CANDIDATES
from serve_app.rtc.peer import Peer, PeerState
from tests.unit.rtc.callers import FPS, Gray

pytestmark = pytest.mark.protocol

RETRANSMISSION_S = 0.01
TRIES = 1 + stun.RETRY_MAX
CHECKED_S = RETRANSMISSION_S * 2**TRIES
"""From a check's first packet to its end."""

ICE = IceConfig(loopback=True, connect_timeout_s=2 * CHECKED_S + 0.5)
BINDING_REQUEST, COOKIE = 0x0001, 0x2112A442
MAX_CHECK_BYTES = 160
"""A binding request with the attributes of RFC 8445, section 7.1, and user names of usual length."""


class Victim(asyncio.DatagramProtocol):
    """Takes everything and answers nothing."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, tuple[str, int]]] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.datagrams.append((data, addr))

    def per_source(self) -> Counter[tuple[str, int]]:
        return Counter(addr for _, addr in self.datagrams)

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for data, _ in self.datagrams)


@pytest.fixture(autouse=True)
def quick_stun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "RETRY_RTO", RETRANSMISSION_S)


@contextlib.asynccontextmanager
async def victim() -> AsyncIterator[tuple[Victim, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Victim, local_addr=("127.0.0.1", 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


@pytest.fixture
async def offer() -> str:
    """An offer without candidates."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    lines = [line for line in pc.localDescription.sdp.splitlines() if "candidate" not in line]
    await pc.close()
    return "\r\n".join(lines) + "\r\n"


def new_peer(states: list[PeerState]) -> Peer:
    clock = MonotonicClock()
    return Peer(Gray(), clock, clock.now_s(), FPS, ICE, states.append)


async def given_up(states: list[PeerState]) -> None:
    deadline_s = time.monotonic() + 20
    while states[-1].name == "connecting":
        assert time.monotonic() < deadline_s, "expected the peer to give up"
        await asyncio.sleep(0.02)


async def more_than(number: int, found: Victim) -> None:
    """Return when the victim has got more than a number of datagrams."""
    deadline_s = time.monotonic() + 5
    while len(found.datagrams) <= number:
        assert time.monotonic() < deadline_s, "expected the peer to check the address"
        await asyncio.sleep(0.001)


def line(port: int, number: int = 1, host: str = "127.0.0.1", kind: str = "host") -> str:
    return f"candidate:{number} 1 udp {2130706431 - number} {host} {port} typ {kind}"


def trickled(text: str) -> dict[str, object]:
    return {"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0}


def is_check(data: bytes) -> bool:
    """Return whether a datagram is a STUN binding request (RFC 8489, section 5)."""
    kind, length, cookie = struct.unpack_from("!HHI", data)
    return kind == BINDING_REQUEST and cookie == COOKIE and length == len(data) - 20


Ask = Callable[[Peer, str, int], Awaitable[None]]


async def in_the_offer(peer: Peer, offer: str, port: int) -> None:
    await peer.answer(offer + f"a={line(port)}\r\n")


async def many_times_in_the_offer(peer: Peer, offer: str, port: int) -> None:
    await peer.answer(offer + "".join(f"a={line(port, n)}\r\n" for n in range(MAX_CANDIDATES)))


async def trickled_under_many_names(peer: Peer, offer: str, port: int) -> None:
    await peer.answer(offer + f"a={line(port)}\r\n")
    for number in range(MAX_CANDIDATES):
        kind = ("host", "srflx raddr 192.0.2.1 rport 9", "prflx", "relay")[number % 4]
        await peer.add_candidate(trickled(line(port, number, kind=kind)))


async def trickled_before_and_after(peer: Peer, offer: str, port: int) -> None:
    for number in range(MAX_CANDIDATES // 2):
        await peer.add_candidate(trickled(line(port, number)))
    await peer.answer(offer)
    for number in range(MAX_CANDIDATES // 2):
        await peer.add_candidate(trickled(line(port, number)))


async def spelled_in_other_ways(peer: Peer, offer: str, port: int) -> None:
    await peer.answer(offer)
    for host in (
        "127.0.0.1",
        "127.1",
        "127.000.000.001",
        "2130706433",
        "0x7f000001",
        "::ffff:127.0.0.1",
        "localhost",
    ):
        with contextlib.suppress(InvalidCandidate):
            await peer.add_candidate(trickled(line(port, host=host)))


@pytest.mark.parametrize(
    "ask",
    [
        in_the_offer,
        many_times_in_the_offer,
        trickled_under_many_names,
        trickled_before_and_after,
        spelled_in_other_ways,
    ],
    ids=lambda ask: ask.__name__.replace("_", " "),
)
async def test_an_address_that_does_not_answer_gets_one_check(ask: Ask, offer: str) -> None:
    states: list[PeerState] = []
    peer = new_peer(states)
    async with victim() as (found, port):
        await ask(peer, offer, port)
        await given_up(states)
        await peer.close()
        counted = len(found.datagrams)
        await asyncio.sleep(2 * CHECKED_S / TRIES + 0.2)
        assert counted, "expected the checks to arrive: otherwise this test counts nothing"
        assert len(found.datagrams) == counted, "expected nothing after the peer gave up"
    # One check for each of our own addresses, however often and in whatever words the client named theirs.
    assert max(found.per_source().values()) <= TRIES, found.per_source()
    assert all(is_check(data) for data, _ in found.datagrams)
    assert max(len(data) for data, _ in found.datagrams) <= MAX_CHECK_BYTES
    assert states[-1].name == "failed"


async def test_many_addresses_get_one_check_each(offer: str) -> None:
    states: list[PeerState] = []
    peer = new_peer(states)
    async with contextlib.AsyncExitStack() as stack:
        victims = [await stack.enter_async_context(victim()) for _ in range(MAX_CANDIDATES)]
        await peer.answer(offer + "".join(f"a={line(port)}\r\n" for _, port in victims))
        for _ in range(MAX_CANDIDATES):
            await peer.add_candidate(trickled(line(victims[0][1])))
        with pytest.raises(InvalidCandidate, match=str(MAX_CANDIDATES)):
            await peer.add_candidate(trickled(line(victims[0][1])))
        await given_up(states)
        await peer.close()
    counts = [max(found.per_source().values(), default=0) for found, _ in victims]
    assert max(counts) <= TRIES
    assert sum(map(bool, counts)) > MAX_CANDIDATES / 2


async def test_repeated_offers_send_no_more_than_they_cost(offer: str) -> None:
    """Each offer begins anew; what leaves for the victim stays below what came from the client."""
    sent_bytes = 0
    async with victim() as (found, port):
        for _ in range(20):
            states: list[PeerState] = []
            peer = new_peer(states)
            text = offer + f"a={line(port)}\r\n"
            sent_bytes += len(text)
            before = len(found.datagrams)
            await peer.answer(text)
            await more_than(before, found)
            await peer.close()
        counted = len(found.datagrams)
        await asyncio.sleep(CHECKED_S)
        assert len(found.datagrams) == counted, "expected closed peers to be silent"
    assert 0 < found.num_bytes < sent_bytes


@contextlib.contextmanager
def same_sockets() -> Iterator[None]:
    """Expect as many open descriptors after the block as before it."""
    process = psutil.Process()
    before = process.num_fds()
    yield
    assert process.num_fds() <= before


async def test_damaged_offers_leave_nothing_open(offer: str) -> None:
    lines = offer.splitlines()
    shuffle = random.Random(7)
    answered = refused = 0
    with same_sockets():
        for _ in range(60):
            text = list(lines)
            for _ in range(shuffle.randrange(1, 4)):
                place = shuffle.randrange(1, len(text))
                match shuffle.randrange(3):
                    case 0:
                        del text[place]
                    case 1:
                        text.insert(place, shuffle.choice(lines))
                    case _:
                        text[place] = text[place][: shuffle.randrange(len(text[place]) + 1)]
            peer = new_peer([])
            try:
                await peer.answer("\r\n".join(text) + "\r\n")
                answered += 1
            except InvalidDescription:
                refused += 1
            await peer.close()
    assert answered > 5
    assert refused > 5
