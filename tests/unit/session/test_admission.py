from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, SessionConfig
from serve_app.session.admission import RESERVED_S, Admission, Place
from serve_app.session.encode_load import LOOK_BACK_S, EncodeLoad
from serve_app.session.opened import HeldSession, HostStatus
from serve_app.session.usage import KeyLimits, UsageLedger
from tests.clocks import SetClock
from tests.unit.session.clocks import NOON, Now

pytestmark = pytest.mark.unit

CONFIG = AppConfig(session=SessionConfig(hosts=2, max_sessions_per_host=2, retry_after_s=7))
HOSTS = ["h000001", "h000002"]


class House:
    """An Admission with two hosts of two places each, in a time that a test sets."""

    def __init__(self) -> None:
        self.clock, self.now = SetClock(), Now()
        self.ledger = UsageLedger(self.now)
        self.admission = Admission(self.clock, self.ledger)
        self._count = 0
        for tag in HOSTS:
            self.admission.add_host(tag)

    def admit(self, key: KeyLimits | None = None) -> Place:
        return self.admission.admit(CONFIG, HOSTS, key)

    def open(self, key: KeyLimits | None = None) -> tuple[str, str]:
        """Admit and open a session; return its host's tag and its id."""
        place = self.admit(key)
        assert place.tag is not None, place.detail
        self._count += 1
        session_id = f"session-{self._count}"
        assert self.admission.admitted(place.reservation, session_id, self.now())
        return place.tag, session_id

    def wait(self, seconds: float) -> None:
        self.clock.s += seconds
        self.now.at += seconds

    def report(self, tag: str, *sessions: HeldSession) -> None:
        self.admission.reported(tag, self.admission.held_by(tag), HostStatus(sessions, 2))


@pytest.fixture
def house() -> House:
    return House()


# Room


def test_sessions_go_where_most_room_is(house: House) -> None:
    places = [house.open()[0] for _ in range(4)]
    assert places[0] != places[1]
    assert sorted(places) == sorted(HOSTS * 2)


def test_a_full_server_says_so_and_when_to_come_again(house: House) -> None:
    for _ in range(4):
        house.open()
    place = house.admit()
    assert (place.tag, place.refusal, place.retry_after_s) == (None, "full", 7)
    assert place.detail == "no room: 4 sessions run, this server holds 4"


def test_a_place_is_taken_while_its_session_opens(house: House) -> None:
    places = [house.admit() for _ in range(4)]
    assert house.admit().refusal == "full"
    assert not house.admission.admitted(places[0].reservation, None, NOON)
    assert house.admit().tag == places[0].tag


def test_a_gateway_that_never_says_what_came_of_its_place_does_not_keep_it(house: House) -> None:
    places = [house.admit() for _ in range(4)]
    house.wait(RESERVED_S)
    assert house.admit().tag is not None
    assert not house.admission.admitted(places[0].reservation, "late", NOON)


def test_a_reservation_counts_once(house: House) -> None:
    place = house.admit()
    assert house.admission.admitted(place.reservation, "one", NOON)
    assert not house.admission.admitted(place.reservation, "two", NOON)
    assert not house.admission.admitted("unknown", "three", NOON)
    assert [*house.admission.held_by(place.tag or "")] == ["one"]


def test_room_of_a_released_session_is_free_at_once(house: House) -> None:
    sessions = [house.open() for _ in range(4)]
    house.admission.released(sessions[2][1])
    house.admission.released("unknown")
    assert house.admit().tag == sessions[2][0]


def test_a_host_is_empty_without_sessions_and_reservations(house: House) -> None:
    assert house.admission.is_empty(HOSTS[0])
    place = house.admit()
    assert place.tag is not None
    assert not house.admission.is_empty(place.tag)
    house.admission.admitted(place.reservation, "one", NOON)
    assert not house.admission.is_empty(place.tag)
    house.admission.released("one")
    assert house.admission.is_empty(place.tag)


def test_only_hosts_that_take_sessions_are_given(house: House) -> None:
    assert house.admission.admit(CONFIG, HOSTS[1:], None).tag == HOSTS[1]
    assert house.admission.admit(CONFIG, [], None).refusal == "full"


# Reports


def test_a_report_ends_what_is_gone_and_adds_what_was_not_known(house: House) -> None:
    tag, session_id = house.open(KeyLimits("acme"))
    house.wait(30)
    house.report(tag, HeldSession("other", "acme", NOON + 10))
    assert [*house.admission.held_by(tag)] == ["other"]
    assert house.ledger.used_s("acme") == 30 + 20
    assert house.ledger.sessions("acme") == ["other"]
    assert session_id != "other"


def test_a_session_that_opened_after_the_host_was_asked_stays(house: House) -> None:
    before = house.admission.held_by(HOSTS[0])
    (tag, session_id) = house.open(KeyLimits("acme"))
    house.admission.reported(tag, before, HostStatus((), 2))
    assert [*house.admission.held_by(tag)] == [session_id]
    assert house.ledger.sessions("acme") == [session_id]


def test_a_session_that_was_released_after_the_host_was_asked_stays_away(house: House) -> None:
    tag, session_id = house.open(KeyLimits("acme"))
    before = house.admission.held_by(tag)
    house.admission.released(session_id)
    house.admission.reported(tag, before, HostStatus((HeldSession(session_id, "acme", NOON),), 2))
    assert house.admission.is_empty(tag)
    assert house.ledger.sessions("acme") == []


def test_a_report_may_come_before_the_gateways_word(house: House) -> None:
    place = house.admit(KeyLimits("acme"))
    assert place.tag is not None
    house.report(place.tag, HeldSession("one", "acme", NOON - 5))
    assert house.admission.admitted(place.reservation, "one", NOON)
    house.wait(10)
    assert house.ledger.used_s("acme") == 15


def test_the_sessions_of_a_lost_host_end(house: House) -> None:
    tag, _ = house.open(KeyLimits("acme"))
    place = house.admit(KeyLimits("acme"))
    house.wait(10)
    house.admission.remove_host(tag)
    house.wait(10)
    assert house.ledger.used_s("acme") == 10
    house.admission.reported(tag, {}, HostStatus((HeldSession("one", "acme", NOON),), 2))
    assert house.ledger.sessions("acme") == []
    if place.tag == tag:
        assert not house.admission.admitted(place.reservation, "two", NOON)


# Keys


def test_a_key_has_so_many_sessions_at_once(house: House) -> None:
    key = KeyLimits("acme", max_concurrent=2)
    _, first = house.open(key)
    waiting = house.admit(key)
    place = house.admit(key)
    assert (place.tag, place.refusal, place.retry_after_s) == (None, "concurrency", 7)
    assert place.detail == "expected at most 2 sessions of this API key, 2 run"
    assert house.admit(KeyLimits("other", max_concurrent=1)).tag is not None
    house.admission.admitted(waiting.reservation, None, NOON)
    house.open(key)
    assert house.admit(key).refusal == "concurrency"
    house.admission.released(first)
    assert house.admit(key).tag is not None


def test_sessions_of_a_key_are_counted_on_all_hosts_by_their_reports(house: House) -> None:
    key = KeyLimits("acme", max_concurrent=2)
    for number, tag in enumerate(HOSTS):
        house.report(tag, HeldSession(f"{number}", "acme", NOON))
    assert house.admit(key).refusal == "concurrency"


def test_a_key_without_minutes_opens_nothing(house: House) -> None:
    key = KeyLimits("acme", minutes=2)
    _, session_id = house.open(key)
    house.wait(119.5)
    house.admission.released(session_id)
    place = house.admit(key)
    assert (place.tag, place.refusal) == (None, "quota")
    assert place.detail == "the 2 minutes of this API key are used up for this month"


def test_used_up_minutes_are_told_before_running_sessions(house: House) -> None:
    # Another session may end soon, the month may not.
    key = KeyLimits("acme", max_concurrent=1, minutes=2)
    house.open(key)
    assert house.admit(key).refusal == "concurrency"
    house.wait(120)
    assert house.admit(key).refusal == "quota"


@pytest.mark.parametrize(
    ("limits", "used_s", "expected_s"),
    [
        (KeyLimits("acme"), 30, None),
        (KeyLimits("acme", max_duration_s=50), 30, 50),
        (KeyLimits("acme", minutes=1), 30, 30),
        (KeyLimits("acme", minutes=1, max_duration_s=20), 30, 20),
        (KeyLimits("acme", minutes=1, max_duration_s=50), 30, 30),
    ],
)
def test_a_session_runs_no_longer_than_its_key_lets_it(
    house: House, limits: KeyLimits, used_s: float, expected_s: float | None
) -> None:
    _, session_id = house.open(limits)
    house.wait(used_s)
    house.admission.released(session_id)
    place = house.admit(limits)
    assert place.max_duration_s == expected_s
    assert place.ends_minutes == (limits.minutes is not None and expected_s == 30)


def test_sessions_that_used_up_their_keys_minutes_together_are_found() -> None:
    house = House()
    key = ApiKeyConfig(id="acme", sha256="0" * 64, minutes=2)
    config = CONFIG.model_copy(update={"auth": AuthConfig(keys=[key])})
    spenders = {house.open(KeyLimits("acme", minutes=2)) for _ in range(2)}
    house.open(KeyLimits("removed", minutes=1))
    house.open(None)
    house.wait(59)
    assert house.admission.overdrawn(config) == []
    house.wait(1)
    assert set(house.admission.overdrawn(config)) == spenders


class Books(RuleBasedStateMachine):
    """Whatever order things come in, no host and no key has more than it may."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.key = KeyLimits("acme", max_concurrent=3)
        self.places: list[tuple[Place, str | None]] = []
        self.hosts: dict[str, dict[str, HeldSession]] = {tag: {} for tag in HOSTS}
        self.count = 0

    @rule(has_key=st.booleans())
    def admit(self, has_key: bool) -> None:
        place = self.house.admit(self.key if has_key else None)
        if place.tag is not None:
            self.places.append((place, "acme" if has_key else None))

    @rule(opens=st.booleans())
    def settle(self, opens: bool) -> None:
        if not self.places:
            return
        place, key_id = self.places.pop(0)
        session_id = None
        if opens and place.tag is not None:
            self.count += 1
            session_id = f"session-{self.count}"
            self.hosts[place.tag][session_id] = HeldSession(session_id, key_id, self.house.now())
        self.house.admission.admitted(place.reservation, session_id, self.house.now())

    @rule(tag=st.sampled_from(HOSTS), is_told=st.booleans())
    def close(self, tag: str, is_told: bool) -> None:
        if self.hosts[tag]:
            session_id, _ = self.hosts[tag].popitem()
            if is_told:
                self.house.admission.released(session_id)

    @rule(tag=st.sampled_from(HOSTS))
    def report(self, tag: str) -> None:
        self.house.report(tag, *self.hosts[tag].values())
        assert self.house.admission.held_by(tag).keys() == self.hosts[tag].keys()

    @rule()
    def wait(self) -> None:
        self.house.wait(1)

    @invariant()
    def nobody_has_too_much(self) -> None:
        for tag in HOSTS:
            assert len(self.house.admission.held_by(tag)) <= 2
        assert len(self.house.ledger.sessions("acme")) <= 3
        held = {name for tag in HOSTS for name in self.house.admission.held_by(tag)}
        counted = {*self.house.ledger.sessions("acme"), *self.house.ledger.sessions(None)}
        assert held == counted


TestBooks = Books.TestCase


# Encoding


def busy(house: House, tag: str, share: float, session_share: float) -> None:
    status = HostStatus(tuple(house.admission.held_by(tag).values()), 2, EncodeLoad(share, session_share))
    house.admission.reported(tag, house.admission.held_by(tag), status)


def test_a_host_without_time_for_another_picture_takes_no_session(house: House) -> None:
    busy(house, HOSTS[0], 0.85, 0.06)
    assert [house.open()[0] for _ in range(2)] == [HOSTS[1]] * 2
    place = house.admit()
    assert (place.refusal, place.detail) == ("full", "no room: 2 sessions keep the encoders busy")
    busy(house, HOSTS[0], 0.8, 0.06)
    assert house.admit().tag == HOSTS[0]


def test_sessions_that_begin_count_before_they_encode() -> None:
    house = House()
    for tag in HOSTS:
        busy(house, tag, 0.5, 0.3)
    assert {house.open()[0], house.admit().tag} == set(HOSTS)
    assert house.admit().refusal == "full"
    house.wait(LOOK_BACK_S + 1)
    assert house.admit().tag is not None
