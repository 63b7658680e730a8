"""Networks that only a TURN server leads through, with coturn over UDP, TCP and TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.network.internet import TURN, Internet
from tests.network.report import Report
from tests.network.rules import CLOSED, NAT, only_turn
from tests.network.turn_server import PASSWORD, PORT, TLS_PORT, USER, Certificate, turn_server, url
from tests.network.watching import candidates, connect, watch

pytestmark = pytest.mark.network

TRANSPORTS = ("udp", "tcp", "tls")


@pytest.fixture(scope="module")
def relay(
    network: Internet, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A TURN server that both sides may reach."""
    with turn_server(network.turn, certificate, tmp_path_factory.mktemp("turn")):
        yield


def door(transport: str) -> str:
    """Return a firewall's rules that leave the TURN server's port of this transport open."""
    return only_turn("udp" if transport == "udp" else "tcp", TLS_PORT if transport == "tls" else PORT)


def server_of(transport: str) -> dict[str, Any]:
    return {"urls": [url(transport)], "username": USER, "credential": PASSWORD}


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_behind_a_firewall_is_relayed(internet: Internet, report: Report, transport: str) -> None:
    internet.home(door(transport))
    took_s = connect(internet, servers=[server_of(transport)])
    watched = watch(internet, 1.5)
    report.add(
        f"client reaches nothing but TURN over {transport.upper()}",
        f"picture after {took_s * 1000:.0f} ms, then {watched.picture_share:.1%} of pictures",
        "≤ 3 s",
    )
    assert took_s <= 3.0
    assert watched.picture_share >= 0.9


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_behind_a_firewall_relays_clients_that_know_no_relay(
    internet: Internet, report: Report, transport: str
) -> None:
    internet.site(door(transport))
    answer = internet.call({"servers": [server_of(transport)]})
    assert [address for address, _, kind in candidates(answer["sdp"]) if kind == "relay"] == [TURN] * 2
    took_s = connect(internet, {"servers": [server_of(transport)]})
    watched = watch(internet, 1.5)
    report.add(
        f"server reaches nothing but TURN over {transport.upper()}",
        f"picture after {took_s * 1000:.0f} ms (answer {answer['took_s'] * 1000:.0f} ms), "
        f"then {watched.picture_share:.1%} of pictures",
        "≤ 3 s",
    )
    assert took_s <= 3.0
    assert watched.picture_share >= 0.9


@pytest.mark.usefixtures("relay")
def test_both_sides_behind_firewalls_meet_at_the_relay(internet: Internet, report: Report) -> None:
    internet.home(door("tls"))
    internet.site(door("udp"))
    took_s = connect(internet, {"servers": [server_of("udp")]}, servers=[server_of("tls")])
    watched = watch(internet, 1.5)
    report.add(
        "client reaches TURN over TLS alone, server over UDP alone",
        f"picture after {took_s * 1000:.0f} ms, then {watched.picture_share:.1%} of pictures",
        "≤ 3 s",
    )
    assert took_s <= 3.0
    assert watched.picture_share >= 0.9


@pytest.mark.usefixtures("relay")
def test_a_client_behind_nat_that_knows_its_address_is_relayed_by_the_server(
    internet: Internet, report: Report
) -> None:
    internet.home(NAT)
    internet.site(door("udp"))
    stun = {"urls": [f"stun:{TURN}:{PORT}"]}
    took_s = connect(internet, {"servers": [server_of("udp")]}, servers=[stun])
    report.add(
        "server reaches nothing but TURN, client behind symmetric NAT knows a STUN server",
        f"picture after {took_s * 1000:.0f} ms",
        "≤ 3 s",
    )
    assert took_s <= 3.0


@pytest.mark.usefixtures("relay")
def test_a_client_behind_nat_that_knows_no_server_is_told_what_it_lacks(internet: Internet) -> None:
    # A relay lets in the addresses it was told of (RFC 8656, section 9); this client's nobody knows.
    internet.home(NAT)
    internet.site(door("udp"))
    internet.call({"servers": [server_of("udp")], "connect_timeout_s": 2.0})
    failed = internet.server.ask("await_end")
    assert failed["name"] == "failed"
    assert "client behind NAT" in failed["detail"]
    assert any(pair.startswith(f"relay {TURN}:") for pair in failed["pairs"])


@pytest.mark.usefixtures("relay")
def test_a_relay_that_is_out_of_reach_is_named_in_the_diagnosis(internet: Internet, report: Report) -> None:
    internet.site(CLOSED)
    ice = {"servers": [server_of("udp")], "gather_timeout_s": 0.5, "connect_timeout_s": 1.0}
    internet.call(ice)
    failed = internet.server.ask("await_end")
    assert failed["name"] == "failed"
    assert "TURN server" in failed["detail"]
    internet.site(door("udp"))
    # The server notices by the next call that its relay is back, and offers it in the one after that.
    internet.call(ice)
    time.sleep(1.5)
    took_s = connect(internet, ice)
    report.add("TURN server back", f"picture after {took_s * 1000:.0f} ms, in the second call", "≤ 3 s")
    assert took_s <= 3.0
