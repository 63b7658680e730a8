"""How long the sessions of each API key run: seconds for each key and calendar month (UTC)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from serve_app.config import AuthConfig
from serve_app.errors import Unauthorized
from serve_app.session.opened import HeldSession

MINUTE_S = 60.0
SILENT_S = 3600.0
"""A session that an earlier ledger counted, and no host told of for so long, has ended."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What the sessions of an API key may take; None: no limit.

    Attributes:
        key_id: the key's name.
        max_concurrent: sessions at once.
        minutes: of sessions in a calendar month, together.
        max_duration_s: of one session.
    """

    key_id: str
    max_concurrent: int | None = None
    minutes: float | None = None
    max_duration_s: float | None = None

    @classmethod
    def of(cls, auth: AuthConfig, key_id: str | None) -> KeyLimits | None:
        """Return a configured key's limits; None for nobody's sessions, those of an open server.

        Raises:
            Unauthorized: the key is not configured, or no longer.
        """
        if key_id is None:
            return None
        for key in auth.keys:
            if key.id == key_id:
                return cls(key.id, key.max_concurrent, key.minutes, key.max_duration_s)
        raise Unauthorized("expected a configured API key, found one that is no longer")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What an API key has used, and may use.

    Attributes:
        key_id: the key's name; None stands for the sessions of an open server.
        period_start: POSIX time of the month's begin.
        period_end: POSIX time of the next month's.
        used_minutes: of all sessions in this month, running ones included.
        included_minutes: those the key may use in a month, or None.
        remaining_minutes: of them; never below 0.
        active_sessions: running now.
        active_minutes: how long those have run by now, together.
        max_concurrent: sessions at once, or None.
    """

    key_id: str | None
    period_start: float
    period_end: float
    used_minutes: float
    included_minutes: float | None
    remaining_minutes: float | None
    active_sessions: int
    active_minutes: float
    max_concurrent: int | None


@dataclass(frozen=True, slots=True)
class UsageState:
    """What must outlive a registry.

    Attributes:
        totals: seconds by key and month ("2026-11"); "" stands for no key.
        charged_until: POSIX time by running session: up to then it is within the totals.
    """

    totals: dict[tuple[str, str], float] = field(default_factory=dict)
    charged_until: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    key_id: str
    started_at: float
    charged_until: float
    charged_s: float


class UsageLedger:
    """Counts the seconds of running sessions, as they pass.

    A session is charged from its begin, whoever counted before: a ledger that begins anew learns from the
    hosts since when their sessions run.

    Args:
        now: POSIX time: says which month it is.
        steady_s: monotonic time: says how much has passed, so that a step of the wall clock costs nobody
            minutes; None: `now`.
    """

    def __init__(
        self, now: Callable[[], float] = time.time, steady_s: Callable[[], float] | None = None
    ) -> None:
        self._now = now
        self._steady_s = steady_s or now
        self._totals: dict[tuple[str, str], float] = {}
        self._running: dict[str, _Running] = {}
        self._charged_until: dict[str, float] = {}

    def restore(self, state: UsageState) -> None:
        """Add what an earlier ledger left; what both have charged counts once."""
        for (key_id, month), seconds in state.totals.items():
            self._add(key_id, month, seconds)
        for session_id, charged_until in state.charged_until.items():
            running = self._running.get(session_id)
            if running is None:
                self._charged_until[session_id] = charged_until
                continue
            for month, seconds in _months(running.started_at, min(charged_until, running.charged_until)):
                self._add(running.key_id, month, -seconds)

    def start(self, session: HeldSession) -> None:
        """Count a session from its begin on; does nothing when it is counted."""
        if session.session_id in self._running:
            return
        # A host's wall clock may be ahead of this one.
        now = self._now()
        begin = min(session.started_at, now)
        charged_until = max(begin, self._charged_until.pop(session.session_id, begin))
        charged_s = self._steady_s() - (now - charged_until)
        self._running[session.session_id] = _Running(session.key_id or "", begin, charged_until, charged_s)

    def end(self, session_id: str) -> None:
        """Charge a session up to now, and count it no longer; does nothing when it is not counted."""
        running = self._running.pop(session_id, None)
        if running is not None:
            self._charge(running, self._now())

    def charge(self) -> None:
        """Charge every running session up to now."""
        now = self._now()
        for running in self._running.values():
            self._charge(running, now)

    def sessions(self, key_id: str | None) -> list[str]:
        """Return the running sessions of a key."""
        return [name for name, running in self._running.items() if running.key_id == (key_id or "")]

    def key_ids(self) -> set[str]:
        """Return the keys that have running sessions."""
        return {running.key_id for running in self._running.values()} - {""}

    def used_s(self, key_id: str | None) -> float:
        """Return the seconds a key has used in this month, up to now."""
        self.charge()
        return self._totals.get((key_id or "", _month(self._now())), 0.0)

    def remaining_s(self, limits: KeyLimits) -> float | None:
        """Return the seconds a key may still use in this month; None: no limit."""
        if limits.minutes is None:
            return None
        return max(0.0, limits.minutes * MINUTE_S - self.used_s(limits.key_id))

    def report(self, key_id: str | None, limits: KeyLimits | None) -> UsageReport:
        """Return what a key has used."""
        now = self._now()
        begin, end = _bounds(now)
        active = [self._running[name] for name in self.sessions(key_id)]
        remaining_s = None if limits is None else self.remaining_s(limits)
        return UsageReport(
            key_id=key_id,
            period_start=begin,
            period_end=end,
            used_minutes=self.used_s(key_id) / MINUTE_S,
            included_minutes=None if limits is None else limits.minutes,
            remaining_minutes=None if remaining_s is None else remaining_s / MINUTE_S,
            active_sessions=len(active),
            active_minutes=sum(max(0.0, now - running.started_at) for running in active) / MINUTE_S,
            max_concurrent=None if limits is None else limits.max_concurrent,
        )

    def state(self) -> UsageState:
        """Return what must outlive this ledger."""
        running = {name: session.charged_until for name, session in self._running.items()}
        return UsageState(dict(self._totals), {**self._charged_until, **running})

    def forget_past(self) -> None:
        """Drop the totals of past months, and sessions that no host told of; once both are kept elsewhere."""
        now = self._now()
        month = _month(now)
        self._totals = {entry: seconds for entry, seconds in self._totals.items() if entry[1] >= month}
        self._charged_until = {
            name: until for name, until in self._charged_until.items() if now - until < SILENT_S
        }

    def _charge(self, running: _Running, now: float) -> None:
        steady_s = self._steady_s()
        for month, seconds in _months(now - (steady_s - running.charged_s), now):
            self._add(running.key_id, month, seconds)
        running.charged_s = max(running.charged_s, steady_s)
        running.charged_until = max(running.charged_until, now)

    def _add(self, key_id: str, month: str, seconds: float) -> None:
        self._totals[key_id, month] = self._totals.get((key_id, month), 0.0) + seconds


def _month(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")


def _bounds(at: float) -> tuple[float, float]:
    """Return the POSIX times of the begin of a moment's month and of the next."""
    begin = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (begin + timedelta(days=32)).replace(day=1)
    return begin.timestamp(), end.timestamp()


def _months(begin: float, end: float) -> Iterator[tuple[str, float]]:
    """Yield the months that a stretch of time touches, and how many of its seconds lie in each."""
    while begin < end:
        until = min(end, _bounds(begin)[1])
        yield _month(begin), until - begin
        begin = until
