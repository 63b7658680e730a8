"""A client whose address changes in the middle of a call."""

from __future__ import annotations

import time

import pytest

from tests.network.internet import CLIENT_LATER, HOME_PUBLIC_LATER, Internet
from tests.network.report import Report
from tests.network.rules import NAT
from tests.network.viewing import CONSENT_S
from tests.network.watching import connect, until_right, watch

pytestmark = pytest.mark.network


def test_a_client_with_another_address_offers_again(internet: Internet, report: Report) -> None:
    connect(internet)
    internet.move_client(CLIENT_LATER)
    moved_s = time.monotonic()
    internet.call()
    took_s = until_right(internet, moved_s)
    watched = watch(internet, 1.0)
    report.add(
        "client's address replaced, new offer",
        f"picture back after {took_s * 1000:.0f} ms, then {watched.picture_share:.1%} of pictures",
        "≤ 1 s",
    )
    assert took_s <= 1.0
    assert watched.picture_share >= 0.9


def test_a_nat_that_takes_another_address_is_followed(internet: Internet, report: Report) -> None:
    internet.home(NAT)
    connect(internet)
    internet.move_home(HOME_PUBLIC_LATER)
    moved_s = time.monotonic()
    took_s = until_right(internet, moved_s)
    watched = watch(internet, 1.0)
    bound_s = CONSENT_S * 1.2 + 1.0
    report.add(
        "public address of the client's NAT replaced, no new offer",
        f"picture back after {took_s * 1000:.0f} ms, then {watched.picture_share:.1%} of pictures",
        f"≤ {bound_s:g} s: the client checks its path every {CONSENT_S:g} s",
    )
    assert took_s <= bound_s
    assert watched.picture_share >= 0.9
