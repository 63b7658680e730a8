"""What a host reports of its sessions: growth once, also of sessions that end between two reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, cast, get_args

import pytest

from serve_app.media.playout import Counters
from serve_app.metrics import EventCounter, HostMetrics
from serve_app.rtc.ice import PeerFailure
from serve_app.session.telemetry import TIMELINE, Telemetry
from tests.clocks import SetClock

pytestmark = pytest.mark.unit


class Recorded:
    """A metric that keeps what it was given, by tag value."""

    def __init__(self) -> None:
        self.by_tag: Counter[str] = Counter()
        self.now = 0.0

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        self.by_tag[next(iter((tags or {"": ""}).values()))] += int(value)

    def set(self, value: float) -> None:
        self.now = value


class Stats:
    """A peer, a playout or a viewers' list with what Telemetry asks of it."""

    def __init__(self, **figures: Any) -> None:
        vars(self).update(figures)

    def stats(self) -> dict[str, Any]:
        return vars(self)

    def __len__(self) -> int:
        return int(getattr(self, "number", 0))


class FakeSession:
    def __init__(self, *peers: Stats, viewers: int = 0) -> None:
        self.playout = Stats(counters=Counters(), is_speaking=True)
        self.viewers = Stats(number=viewers, peer_failures=Counter())
        self.peer_failures: Counter[str] = Counter()
        self.interrupts = 0
        self.connected = list(peers)

    def peers(self) -> list[Stats]:
        return self.connected


def peer(sent_bytes: int, target_bps: int | None = None, lost: float = 0.0) -> Stats:
    return Stats(
        state="connected",
        video_bytes=sent_bytes,
        audio_bytes=1,
        target_bitrate_bps=target_bps,
        fraction_lost=lost,
    )


class Bench:
    def __init__(self) -> None:
        self.clock = SetClock()
        self.metrics: defaultdict[str, Recorded] = defaultdict(Recorded)
        self.telemetry = Telemetry(cast("HostMetrics", self), self.clock)

    def __getattr__(self, name: str) -> Recorded:
        return self.metrics[name]

    def report(self, *sessions: FakeSession) -> None:
        self.clock.s += 1.0
        self.telemetry.report(cast("Any", sessions))


def test_a_counter_grows_by_what_is_new_and_by_nothing_twice() -> None:
    bench, one, two = Bench(), FakeSession(), FakeSession()
    one.playout.counters.late_frames = 3  # type: ignore[attr-defined]
    two.playout.counters.late_frames = 4  # type: ignore[attr-defined]
    bench.report(one, two)
    bench.report(one, two)
    one.interrupts = 1
    bench.report(one, two)
    assert bench.late_frames.by_tag[""] == 7
    assert bench.interrupts.by_tag[""] == 1


def test_failed_peers_are_counted_by_cause_viewers_included() -> None:
    bench, session = Bench(), FakeSession()
    session.peer_failures["no_reply"] = 1
    session.viewers.peer_failures["no_reply"] = 1  # type: ignore[attr-defined]
    session.viewers.peer_failures["dtls"] = 1  # type: ignore[attr-defined]
    bench.report(session)
    bench.report(session)
    assert bench.ice_failures.by_tag == {"no_reply": 2, "dtls": 1}


def test_what_a_session_did_after_the_last_report_is_counted_when_it_ends() -> None:
    bench, session = Bench(), FakeSession(peer(1000))
    bench.report(session)
    session.interrupts = 2
    session.connected[0].video_bytes = 1500  # type: ignore[attr-defined]
    bench.telemetry.ends(cast("Any", session))
    bench.report()
    assert bench.interrupts.by_tag[""] == 2
    assert bench.sent_bytes.by_tag["video"] == 1500
    assert bench.sessions.now == 0


def test_bitrate_is_what_all_peers_sent_since_the_last_report() -> None:
    bench = Bench()
    session = FakeSession(peer(1000), peer(500))
    bench.report(session)
    session.connected[0].video_bytes = 2000  # type: ignore[attr-defined]
    bench.report(session)
    assert bench.bitrate_bps.now == 8000
    session.connected = [peer(250)]
    bench.report(session)
    assert bench.bitrate_bps.now == 8 * 251


def test_targets_and_losses_are_means_over_connected_peers() -> None:
    bench = Bench()
    gone = peer(0, 9_000_000, 1.0)
    gone.state = "failed"  # type: ignore[attr-defined]
    bench.report(FakeSession(peer(0, 400_000, 0.1), gone), FakeSession(peer(0, None, 0.3), viewers=2))
    assert bench.target_bitrate_bps.now == 400_000
    assert bench.lost_ratio.now == pytest.approx(0.2)
    assert (bench.sessions.now, bench.speaking.now, bench.viewers.now) == (2, 2, 2)


def test_every_counter_of_the_timeline_is_a_metric_and_is_in_the_playout() -> None:
    metrics = HostMetrics("h", get_args(PeerFailure))
    assert all(isinstance(getattr(metrics, name), EventCounter) for name in TIMELINE)
    assert set(TIMELINE) <= set(Counters.__slots__)
