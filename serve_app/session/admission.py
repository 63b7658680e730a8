"""Who may begin a session, and where: the books of the registry, without its actors."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from serve_app.clock import Clock
from serve_app.config import AppConfig, SessionConfig
from serve_app.errors import Unauthorized
from serve_app.session.encode_load import LOOK_BACK_S, EncodeLoad
from serve_app.session.opened import HeldSession, HostStatus
from serve_app.session.usage import KeyLimits, UsageLedger

RESERVED_S = 60.0
"""A gateway that has not said by then what came of its place is gone."""

LEAST_S = 1.0
"""A key with less time left than this opens no session."""

Refusal = Literal["full", "concurrency", "quota"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to open a session; or, with `tag` None, why there is no place.

    Attributes:
        tag: the host's.
        retry_after_s: when to ask again.
        detail: why there is no place, for a person.
        refusal: "full": no host has room; "concurrency": the key's sessions are all running; "quota": the
            key's minutes are used up.
        reservation: names the place in `admitted`.
        max_duration_s: the longest that the key lets the session run; None: no limit of the key's.
        ends_minutes: whether the key's minutes are used up then.
    """

    tag: str | None
    retry_after_s: float = 0.0
    detail: str = ""
    refusal: Refusal | None = None
    reservation: str = ""
    max_duration_s: float | None = None
    ends_minutes: bool = False


@dataclass(frozen=True, slots=True)
class _Reservation:
    tag: str
    key_id: str | None
    end_s: float


class Admission:
    """Counts the sessions of hosts and keys, and the minutes of keys.

    Args:
        clock: the time.
        ledger: the minutes.
    """

    def __init__(self, clock: Clock, ledger: UsageLedger) -> None:
        self._clock = clock
        self._ledger = ledger
        self._sessions: dict[str, dict[str, HeldSession]] = {}
        self._reservations: dict[str, _Reservation] = {}
        self._encoding: dict[str, EncodeLoad] = {}
        self._begun_s: dict[str, float] = {}

    def admit(self, config: AppConfig, tags: Iterable[str], key: KeyLimits | None) -> Place:
        """Reserve room on the least loaded host; `admitted` must follow, whatever came of it.

        Args:
            config: limits of the hosts.
            tags: hosts that take sessions.
            key: whose session; None: nobody's.
        """
        self._expire()
        retry_after_s = config.session.retry_after_s
        max_duration_s = remaining_s = None
        if key is not None:
            remaining_s = self._ledger.remaining_s(key)
            if remaining_s is not None and remaining_s < LEAST_S:
                detail = f"the {key.minutes:g} minutes of this API key are used up for this month"
                return Place(None, retry_after_s, detail, "quota")
            running = len(self._ledger.sessions(key.key_id)) + self._reserved_of(key.key_id)
            if key.max_concurrent is not None and running >= key.max_concurrent:
                detail = f"expected at most {key.max_concurrent} sessions of this API key, {running} run"
                return Place(None, retry_after_s, detail, "concurrency")
            limits_s = [limit for limit in (key.max_duration_s, remaining_s) if limit is not None]
            max_duration_s = min(limits_s, default=None)
        tag = self._roomiest(tags, config.session)
        if tag is None:
            running = sum(len(sessions) for sessions in self._sessions.values())
            room = config.session.max_sessions_per_host * config.session.most_hosts
            detail = f"no room: {running} sessions run, this server holds {room}"
            if running < room:
                detail = f"no room: {running} sessions keep the encoders busy"
            return Place(None, retry_after_s, detail, "full")
        reservation = secrets.token_hex(8)
        key_id = None if key is None else key.key_id
        self._reservations[reservation] = _Reservation(tag, key_id, self._clock.now_s() + RESERVED_S)
        ends_minutes = remaining_s is not None and max_duration_s == remaining_s
        return Place(tag, reservation=reservation, max_duration_s=max_duration_s, ends_minutes=ends_minutes)

    def admitted(self, reservation: str, session: str | None, started_at: float) -> bool:
        """Turn a reservation into a session that began at a POSIX time, or give it back with None.

        Returns:
            Whether a session was added; one whose reservation is gone is learnt of from its host.
        """
        place = self._reservations.pop(reservation, None)
        if place is None or session is None or place.tag not in self._sessions:
            return False
        self._begin(place.tag, HeldSession(session, place.key_id, started_at))
        return True

    def released(self, session_id: str) -> None:
        """Forget a session that was closed, without waiting for its host's next report."""
        for sessions in self._sessions.values():
            if sessions.pop(session_id, None) is not None:
                self._ledger.end(session_id)

    def add_host(self, tag: str) -> None:
        """Know of a host; one that is known stays as it is."""
        self._sessions.setdefault(tag, {})

    def remove_host(self, tag: str) -> None:
        """Forget a host and its sessions."""
        self._encoding.pop(tag, None)
        for session_id in self._sessions.pop(tag, {}):
            self._ledger.end(session_id)

    def held_by(self, tag: str) -> Mapping[str, HeldSession]:
        """Return a host's sessions by id: a picture of now."""
        return dict(self._sessions.get(tag, {}))

    def held(self) -> int:
        """Return how many sessions run or are about to begin, on all hosts."""
        self._expire()
        return sum(len(sessions) for sessions in self._sessions.values()) + len(self._reservations)

    def emptiest(self, tags: Iterable[str]) -> list[str]:
        """Return hosts in the order in which they can be spared: those with the fewest sessions first."""
        return sorted(tags, key=lambda tag: (len(self._sessions.get(tag, ())) + self._reserved_on(tag), tag))

    def is_empty(self, tag: str) -> bool:
        """Whether a host has neither sessions nor reservations."""
        self._expire()
        return not self._sessions.get(tag) and not self._reserved_on(tag)

    def reported(self, tag: str, before: Mapping[str, HeldSession], status: HostStatus) -> None:
        """Take a host's report.

        Args:
            tag: the host's.
            before: what it held, as was known here when it was asked: whatever came or went since then, the
                report does not know.
            status: its answer.
        """
        now = self._sessions.get(tag)
        if now is None:
            return
        self._encoding[tag] = status.encoding
        told = {session.session_id: session for session in status.sessions}
        for session_id in before:
            if session_id not in told and now.pop(session_id, None) is not None:
                self._ledger.end(session_id)
        for session_id, session in told.items():
            if session_id not in before and session_id not in now:
                self._begin(tag, session)

    def overdrawn(self, config: AppConfig) -> list[tuple[str, str]]:
        """Return the running sessions of keys whose minutes are used up: host tags and session ids."""
        spent: set[str] = set()
        for key_id in self._ledger.key_ids():
            try:
                limits = KeyLimits.of(config.auth, key_id)
            except Unauthorized:
                # A key that was taken out of the configuration: its sessions run to their ends.
                continue
            if limits is not None and self._ledger.remaining_s(limits) == 0:
                spent.add(key_id)
        return [
            (tag, session.session_id)
            for tag, sessions in self._sessions.items()
            for session in sessions.values()
            if session.key_id in spent
        ]

    def _begin(self, tag: str, session: HeldSession) -> None:
        now_s = self._clock.now_s()
        self._begun_s = {name: at for name, at in self._begun_s.items() if at > now_s - LOOK_BACK_S}
        self._begun_s[session.session_id] = now_s
        self._sessions[tag][session.session_id] = session
        self._ledger.start(session)

    def _roomiest(self, tags: Iterable[str], limits: SessionConfig) -> str | None:
        loads = [(len(self._sessions.get(tag, ())) + self._reserved_on(tag), tag) for tag in tags]
        fitting = [
            (load, tag)
            for load, tag in loads
            if load < limits.max_sessions_per_host and self._has_time(tag, limits)
        ]
        return min(fitting, default=(0, None))[1]

    def _has_time(self, tag: str, limits: SessionConfig) -> bool:
        """Return whether a host can encode one more, with those that begin and are not in its figures yet."""
        load = self._encoding.get(tag, EncodeLoad())
        horizon_s = self._clock.now_s() - LOOK_BACK_S
        young = sum(self._begun_s.get(name, horizon_s) > horizon_s for name in self._sessions.get(tag, ()))
        coming = 1 + young + self._reserved_on(tag)
        return load.share + coming * load.session_share <= limits.max_encode_share

    def _reserved_on(self, tag: str) -> int:
        return Counter(place.tag for place in self._reservations.values())[tag]

    def _reserved_of(self, key_id: str) -> int:
        return Counter(place.key_id for place in self._reservations.values())[key_id]

    def _expire(self) -> None:
        now_s = self._clock.now_s()
        gone = [name for name, place in self._reservations.items() if place.end_s <= now_s]
        for name in gone:
            del self._reservations[name]
