"""Networks that only a TURN server leads through, with coturn over UDP, TCP and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.network.internet import TURN, Internet
from tests.network.report import Report
from tests.network.rules import CLOSED, only_turn
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
def test_a_relay_that_is_out_of_reach_is_named_in_the_diagnosis(internet: Internet) -> None:
    internet.site(CLOSED)
    ice = {"servers": [server_of("udp")], "gather_timeout_s": 0.3, "connect_timeout_s": 1.0}
    internet.call(ice)
    failed = internet.server.ask("await_end")
    assert failed["name"] == "failed"
    assert "TURN server" in failed["detail"]
