"""A link that carries less than a call wants, between a peer of ours and a client like a browser."""

from __future__ import annotations

import time

import pytest

from tests.network.internet import Internet
from tests.network.report import Report
from tests.network.watching import connect, watch

pytestmark = pytest.mark.network

NARROW_BPS = 300_000


def test_the_bitrate_is_the_one_that_the_receiver_names(internet: Internet, report: Report) -> None:
    connect(internet)
    reached = []
    for named_bps in (800_000, 250_000, 800_000):
        internet.client.ask("name_bitrate", bps=named_bps)
        time.sleep(1.0)
        reached.append((named_bps, watch(internet, 2.0).bitrate_bps))
    report.add(
        "REMB names another bitrate",
        ", ".join(f"{named / 1000:.0f} → {bps / 1000:.0f} kbit/s" for named, bps in reached),
        "within 30 % after 1 s",
    )
    for named_bps, bps in reached:
        assert bps == pytest.approx(named_bps, rel=0.3)


def test_a_link_that_becomes_narrow_is_not_overfilled(internet: Internet, report: Report) -> None:
    connect(internet)
    before = watch(internet, 1.5)
    internet.limit(NARROW_BPS)
    narrowed_s = time.monotonic()
    time.sleep(3.0)
    narrow = watch(internet, 3.0)
    estimates = [bps for at_s, bps in internet.client.ask("seen")["estimates"] if at_s > narrowed_s]
    report.add(
        "300 kbit/s in the middle of a call",
        f"{before.bitrate_bps / 1000:.0f} kbit/s before, {narrow.bitrate_bps / 1000:.0f} in it "
        f"(estimate {min(estimates) / 1000:.0f}) with {narrow.pictures_hz:.1f} pictures a second and "
        f"{narrow.sound_share:.1%} of sound",
        "≤ 300 kbit/s, 15 pictures a second, sound ≥ 90 %",
    )
    assert before.bitrate_bps > 1.5 * NARROW_BPS
    assert min(estimates) < NARROW_BPS
    assert narrow.bitrate_bps <= NARROW_BPS
    assert narrow.pictures_hz >= 15
    assert narrow.sound_share >= 0.9


def test_a_call_begins_on_a_narrow_link(internet: Internet, report: Report) -> None:
    internet.limit(NARROW_BPS)
    took_s = connect(internet)
    time.sleep(2.0)
    watched = watch(internet, 3.0)
    report.add(
        "300 kbit/s from the start",
        f"picture after {took_s * 1000:.0f} ms, then {watched.pictures_hz:.1f} pictures a second, "
        f"{watched.sound_share:.1%} of sound, {watched.bitrate_bps / 1000:.0f} kbit/s",
        "picture ≤ 3 s, 15 pictures a second, sound ≥ 90 %",
    )
    assert took_s <= 3.0
    assert watched.pictures_hz >= 15
    assert watched.sound_share >= 0.9
