"""A small internet: a client at home, a server at its site, a TURN server between them.

    client ──veth── home ══╗          ╔══ site ──veth── server
    192.168.7.2      198.51.100.7  wire   203.0.113.5      10.20.0.2
                                       ╚══ turn 192.0.2.9

Home and site are routers with nftables: open, a NAT, or a firewall that lets one TURN server through. The
wire between them loses and delays as `Conditions` say. Addresses are those of documents (RFC 5737) and of
private networks (RFC 1918); before a NAT is made, private addresses are routed too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.network.namespaces import Namespace
from tests.network.orders import READY, Program
from tests.network.wire import Conditions, Wire

CLIENT, CLIENT_LATER, HOME = "192.168.7.2", "192.168.7.3", "192.168.7.1"
HOME_PUBLIC, HOME_PUBLIC_LATER = "198.51.100.7", "198.51.100.8"
SERVER, SITE = "10.20.0.2", "10.20.0.1"
SITE_PUBLIC = "203.0.113.5"
TURN = "192.0.2.9"
OPEN = ""
CLIENT_LAN, SERVER_LAN = "192.168.50.2", "192.168.50.3"
BLACKOUT = Conditions(loss=1.0)
CLEAR = Conditions()


class Internet:
    """The namespaces, the wire, and the two programs in them.

    Args:
        folder: for logs.
        seed: of the wire.
        variables: of the programs' environment.
    """

    def __init__(self, folder: Path, seed: int, variables: dict[str, str]) -> None:
        with ExitStack() as made:
            self._spaces = {
                role: made.enter_context(Namespace(role))
                for role in ("client", "home", "site", "server", "turn")
            }
            self._wire = Wire(seed)
            made.callback(self._wire.close)
            self._lay_cables()
            self.server = Program(
                self._spaces["server"], "tests.network.serving", folder / "server.log", variables
            )
            made.callback(self.server.close)
            self.client = Program(
                self._spaces["client"], "tests.network.viewing", folder / "client.log", variables
            )
            made.callback(self.client.close)
            for program in (self.server, self.client):
                program.ask(READY)
            self._made = made.pop_all()

    @property
    def turn(self) -> Namespace:
        """Where a TURN server runs, at TURN."""
        return self._spaces["turn"]

    def close(self) -> None:
        """End the programs and remove the namespaces."""
        self._made.close()

    def reset(self) -> None:
        """Make all links clear, all routers open, and all addresses the first ones."""
        self.impair(CLEAR)
        self.home(OPEN)
        self.site(OPEN)
        self.move_client(CLIENT)
        self.move_home(HOME_PUBLIC)

    def impair(self, conditions: Conditions, *, up: Conditions | None = None) -> None:
        """Set what becomes of packets to the client, and of those from it, the same unless told."""
        self._home_port.towards.conditions = conditions
        self._site_port.towards.conditions = conditions if up is None else up

    def limit(self, rate_bps: float) -> None:
        """Hold what goes to the client to a rate; the way back is clear."""
        self.impair(replace(CLEAR, rate_bps=rate_bps), up=CLEAR)

    def home(self, rules: str) -> None:
        """Set the rules (nftables) of the client's router."""
        self._spaces["home"].nft(rules)

    def site(self, rules: str) -> None:
        """Set the rules (nftables) of the server's router."""
        self._spaces["site"].nft(rules)

    def move_client(self, address: str) -> None:
        """Give the client this address in place of the one it has."""
        client = self._spaces["client"]
        client.run("ip", "address", "flush", "dev", "eth0")
        client.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        client.run("ip", "route", "replace", "default", "via", HOME)

    def move_home(self, address: str) -> None:
        """Give the client's router this public address; what it masqueraded is forgotten."""
        home = self._spaces["home"]
        home.run("ip", "address", "flush", "dev", "wan0")
        home.run("ip", "address", "add", f"{address}/24", "dev", "wan0")
        home.run("ip", "route", "replace", "default", "dev", "wan0")

    @contextmanager
    def shared_lan(self) -> Iterator[None]:
        """Lay a cable between client and server, multicast included, while the block runs."""
        client, server = self._spaces["client"], self._spaces["server"]
        client.join(server, "lan1", "lan1")
        try:
            for space, address in ((client, CLIENT_LAN), (server, SERVER_LAN)):
                space.address("lan1", f"{address}/24")
                space.run("ip", "route", "add", "224.0.0.0/4", "dev", "lan1")
            yield
        finally:
            client.run("ip", "link", "delete", "lan1")

    def call(
        self,
        ice: dict[str, Any] | None = None,
        *,
        speaks: bool = True,
        is_blind: bool = False,
        **offer: Any,
    ) -> dict[str, Any]:
        """Connect the client to the server; returns the server's answer and how long it took.

        Args:
            ice: the server's IceConfig.
            speaks: whether the avatar does; else it shows its idle loop.
            is_blind: whether the server's candidates are kept from the client: the server has to find it.
            offer: arguments of the client's `offer`.
        """
        offered = self.client.ask("offer", **{"servers": [], **offer})
        answer: dict[str, Any] = self.server.ask("answer", offer=offered["sdp"], ice=ice or {}, speaks=speaks)
        shown = [line for line in answer["sdp"].splitlines(True) if not is_blind or "candidate" not in line]
        self.client.ask("accept", sdp="".join(shown))
        return answer

    def _lay_cables(self) -> None:
        client, home, site, server, turn = self._spaces.values()
        home.join(client, "lan0", "eth0")
        home.address("lan0", f"{HOME}/24")
        client.address("eth0", f"{CLIENT}/24")
        site.join(server, "lan0", "eth0")
        site.address("lan0", f"{SITE}/24")
        server.address("eth0", f"{SERVER}/24")
        server.run("ip", "route", "add", "default", "via", SITE)
        self._home_port = self._wire.plug(
            home, "wan0", f"{HOME_PUBLIC}/24", ["198.51.100.0/24", "192.168.7.0/24"]
        )
        self._site_port = self._wire.plug(
            site, "wan0", f"{SITE_PUBLIC}/24", ["203.0.113.0/24", "10.20.0.0/24"]
        )
        self._wire.plug(turn, "wan0", f"{TURN}/24", ["192.0.2.0/24"])
        for router in (home, site):
            router.forward()
