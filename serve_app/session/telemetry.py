"""What sessions count, turned into what their host reports once a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from serve_app.clock import Clock
from serve_app.metrics import HostMetrics
from serve_app.rtc.peer import Peer
from serve_app.session.session import Session

TIMELINE = ("late_frames", "repeated_frames", "bare_frames", "speaking_frames", "underruns")
"""Of a playout's counters, those that are metrics of the same name."""

SENT = ("audio", "video")


@dataclass(slots=True)
class _Counted:
    """What of a session is in the metrics already."""

    timeline: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


class Telemetry:
    """Adds what has grown since the last look to counters, and sets gauges to what is now.

    Args:
        metrics: the host's.
        clock: the session clock.
    """

    def __init__(self, metrics: HostMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._counted: WeakKeyDictionary[Session, _Counted] = WeakKeyDictionary()
        self._sent: WeakKeyDictionary[Peer, Counter[str]] = WeakKeyDictionary()
        self._unreported_bytes = 0
        self._looked_s = clock.now_s()

    def report(self, sessions: Collection[Session]) -> None:
        """Report all sessions of the host."""
        connected: list[dict[str, Any]] = []
        for session in sessions:
            self._add_counts(session)
            connected += [stats for stats in self._add_sent(session) if stats["state"] == "connected"]
        targets_bps = [stats["target_bitrate_bps"] for stats in connected]
        self._metrics.sessions.set(len(sessions))
        self._metrics.speaking.set(sum(session.playout.is_speaking for session in sessions))
        self._metrics.viewers.set(sum(len(session.viewers) for session in sessions))
        self._metrics.target_bitrate_bps.set(_mean([bps for bps in targets_bps if bps is not None]))
        self._metrics.lost_ratio.set(_mean([stats["fraction_lost"] for stats in connected]))
        elapsed_s = self._clock.now_s() - self._looked_s
        if elapsed_s > 0:
            self._metrics.bitrate_bps.set(8 * self._unreported_bytes / elapsed_s)
            self._looked_s += elapsed_s
            self._unreported_bytes = 0

    def ends(self, session: Session) -> None:
        """Count what a session has done since the last report, before it closes."""
        self._add_counts(session)
        self._add_sent(session)

    def _add_counts(self, session: Session) -> None:
        counters = session.playout.counters
        now = _Counted(
            Counter(
                {name: getattr(counters, name) for name in TIMELINE} | {"interrupts": session.interrupts}
            ),
            session.peer_failures + session.viewers.peer_failures,
        )
        before = self._counted.get(session, _Counted())
        for name, grown in (now.timeline - before.timeline).items():
            getattr(self._metrics, name).inc(grown)
        for cause, grown in (now.failures - before.failures).items():
            self._metrics.ice_failures.inc(grown, {"cause": cause})
        self._counted[session] = now

    def _add_sent(self, session: Session) -> list[dict[str, Any]]:
        """Count what a session's peers have sent; return their statistics."""
        figures: list[dict[str, Any]] = []
        for peer in session.peers():
            stats: dict[str, Any] = peer.stats()
            now = Counter({kind: stats.get(f"{kind}_bytes", 0) for kind in SENT})
            for kind, grown in (now - self._sent.get(peer, Counter())).items():
                self._metrics.sent_bytes.inc(grown, {"kind": kind})
                self._unreported_bytes += grown
            self._sent[peer] = now
            figures.append(stats)
        return figures


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
