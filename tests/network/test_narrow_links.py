"""A link that carries less than a call wants, between a peer of ours and a client like a browser."""

from __future__ import annotations

import time

import pytest

from tests.network.internet import CLEAR, Internet
from tests.network.report import Report
from tests.network.watching import connect, watch

pytestmark = pytest.mark.network

NARROW_BPS = 300_000


def test_the_bitrate_follows_the_receivers_estimate(internet: Internet, report: Report) -> None:
    connect(internet)
    before = watch(internet, 2.0)
    internet.limit(NARROW_BPS)
    narrowed_s = time.monotonic()
    time.sleep(4.0)
    narrow = watch(internet, 4.0)
    estimates = [bps for at_s, bps in internet.client.ask("seen")["estimates"] if at_s > narrowed_s]
    target_bps = internet.server.ask("figures")["target_bitrate_bps"]
    internet.impair(CLEAR)
    time.sleep(6.0)
    after = watch(internet, 2.0)
    report.add(
        "300 kbit/s in the middle of a call",
        f"{before.bitrate_bps / 1000:.0f} kbit/s before, {narrow.bitrate_bps / 1000:.0f} in it "
        f"(estimate {min(estimates) / 1000:.0f}), {after.bitrate_bps / 1000:.0f} after; in it "
        f"{narrow.picture_share:.1%} of pictures and {narrow.sound_share:.1%} of sound",
        "≤ 300 kbit/s, pictures ≥ 70 %, sound ≥ 90 %",
    )
    assert before.bitrate_bps > 1.5 * NARROW_BPS
    assert min(estimates) < NARROW_BPS
    assert target_bps < 1.2 * NARROW_BPS
    assert narrow.bitrate_bps <= NARROW_BPS
    assert narrow.picture_share >= 0.7
    assert narrow.sound_share >= 0.9
    assert after.bitrate_bps > narrow.bitrate_bps
    assert after.picture_share >= 0.9


def test_a_call_begins_on_a_narrow_link(internet: Internet, report: Report) -> None:
    internet.limit(NARROW_BPS)
    took_s = connect(internet)
    time.sleep(3.0)
    watched = watch(internet, 3.0)
    report.add(
        "300 kbit/s from the start",
        f"picture after {took_s * 1000:.0f} ms, then {watched.picture_share:.1%} of pictures, "
        f"{watched.sound_share:.1%} of sound, {watched.bitrate_bps / 1000:.0f} kbit/s",
        "picture ≤ 3 s, pictures ≥ 70 %, sound ≥ 90 %",
    )
    assert took_s <= 3.0
    assert watched.picture_share >= 0.7
    assert watched.sound_share >= 0.9
