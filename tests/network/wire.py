"""The network between namespaces: what `tc netem` does, in user space and the same at every run.

The kernel's netem is a module that many machines lack, and its losses are drawn anew each time. Here each
namespace has a TUN device whose packets pass through this process: dropped, delayed, held to a rate and
handed on, by a generator of random numbers for each direction that starts from a seed.
"""

from __future__ import annotations

import fcntl
import heapq
import ipaddress
import itertools
import os
import random
import select
import struct
import threading
import time
from dataclasses import dataclass

from tests.network.namespaces import TUN, Namespace, call

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000

MAX_PACKET = 65_536
IPV4 = 4
SOURCE, DESTINATION = slice(12, 16), slice(16, 20)
"""Where an IPv4 header has its addresses (RFC 791)."""

REORDER_S = 0.03
"""How much later a packet comes that others overtake: about one frame."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What becomes of packets in one direction.

    Attributes:
        loss: share that is dropped, 0 to 1; 1 is a blackout.
        delay_s: how long every packet takes.
        jitter_s: each takes up to so much longer, and overtakes others where that makes it earlier.
        reordered: share that comes REORDER_S late.
        rate_bps: bits a second that pass; None for all.
        queue_s: how long packets wait for the rate before more of them are dropped.
    """

    loss: float = 0.0
    delay_s: float = 0.01
    jitter_s: float = 0.0
    reordered: float = 0.0
    rate_bps: float | None = None
    queue_s: float = 0.3


class Direction:
    """One direction of a link: decides for each packet when it arrives, if at all.

    Args:
        seed: of the decisions; two directions with one seed and the same packets decide alike.
    """

    def __init__(self, seed: int) -> None:
        self.conditions = Conditions()
        self.passed = 0
        self.dropped = 0
        self._random = random.Random(seed)
        self._busy_until_s = 0.0

    def arrival_s(self, size: int, now_s: float) -> float | None:
        """Return when a packet of `size` bytes that is sent now arrives; None when it is lost."""
        conditions = self.conditions
        # Each packet draws all numbers, so that a decision does not depend on the settings of others.
        lost, late, overtaken = (self._random.random() for _ in range(3))
        leaves_s = now_s
        if conditions.rate_bps is not None:
            leaves_s = max(now_s, self._busy_until_s)
            if leaves_s - now_s > conditions.queue_s:
                self.dropped += 1
                return None
            leaves_s += 8 * size / conditions.rate_bps
            self._busy_until_s = leaves_s
        if lost < conditions.loss:
            self.dropped += 1
            return None
        self.passed += 1
        extra_s = REORDER_S if overtaken < conditions.reordered else 0.0
        return leaves_s + conditions.delay_s + late * conditions.jitter_s + extra_s


class Port:
    """A namespace's plug: a TUN device, and the direction towards it."""

    def __init__(self, descriptor: int, networks: list[ipaddress.IPv4Network], seed: int) -> None:
        self.descriptor = descriptor
        self.networks = networks
        self.towards = Direction(seed)


class Wire:
    """An IPv4 router between namespaces, with conditions for each direction; runs in a thread.

    Args:
        seed: of all directions.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ports: list[Port] = []
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self._wake, self._waker = os.pipe()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="wire")
        self._thread.start()

    def plug(self, namespace: Namespace, device: str, address: str, networks: list[str]) -> Port:
        """Give a namespace a device on this wire, as its default route.

        Args:
            namespace: gets the device.
            device: name of the device there.
            address: of the device, CIDR.
            networks: whose packets go to this port.
        """
        descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        outside = f"aw{os.getpid() % 1_000_000}x{len(self._ports)}"
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", outside.encode(), IFF_TUN | IFF_NO_PI))
        call("ip", "link", "set", outside, "netns", namespace.name, "name", device)
        namespace.address(device, address)
        namespace.run("ip", "route", "add", "default", "dev", device)
        ranges = [ipaddress.IPv4Network(network) for network in networks]
        port = Port(descriptor, ranges, self._seed + len(self._ports))
        self._ports.append(port)
        os.write(self._waker, b".")
        return port

    def close(self) -> None:
        """Stop, and take all devices away."""
        self._closing = True
        os.write(self._waker, b".")
        self._thread.join()
        for descriptor in (self._wake, self._waker, *(port.descriptor for port in self._ports)):
            os.close(descriptor)

    def _run(self) -> None:
        while not self._closing:
            due_s = self._on_the_way[0][0] if self._on_the_way else None
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            descriptors = [port.descriptor for port in self._ports]
            ready, _, _ = select.select([self._wake, *descriptors], [], [], wait_s)
            for descriptor in ready:
                if descriptor == self._wake:
                    os.read(self._wake, 1024)
                else:
                    self._take(descriptor)
            self._deliver()

    def _take(self, descriptor: int) -> None:
        while True:
            try:
                packet = os.read(descriptor, MAX_PACKET)
            except OSError:  # nothing more, or the device is down
                return
            if packet[0] >> 4 != IPV4:
                continue
            port = self._port_of(ipaddress.IPv4Address(packet[DESTINATION]))
            if port is None or port.descriptor == descriptor:
                continue  # nobody has this address, or who had it sends the packet back
            arrival_s = port.towards.arrival_s(len(packet), time.monotonic())
            if arrival_s is not None:
                item = (arrival_s, next(self._order), port.descriptor, packet)
                heapq.heappush(self._on_the_way, item)

    def _port_of(self, address: ipaddress.IPv4Address) -> Port | None:
        for port in self._ports:
            if any(address in network for network in port.networks):
                return port
        return None

    def _deliver(self) -> None:
        now_s = time.monotonic()
        while self._on_the_way and self._on_the_way[0][0] <= now_s:
            _, _, descriptor, packet = heapq.heappop(self._on_the_way)
            try:
                os.write(descriptor, packet)
            except OSError:  # the device is down: nobody is there to hear it
                continue
