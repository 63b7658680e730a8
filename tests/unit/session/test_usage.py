from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import ApiKeyConfig, AuthConfig
from serve_app.errors import Unauthorized
from serve_app.session.opened import HeldSession
from serve_app.session.usage import KeyLimits, UsageLedger, UsageState
from tests.unit.session.clocks import NOON, Now

pytestmark = pytest.mark.unit

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def ledger(now: Now) -> UsageLedger:
    return UsageLedger(now)


def test_limits_are_those_of_the_configured_key() -> None:
    key = ApiKeyConfig(id="acme", sha256="0" * 64, max_concurrent=2, minutes=60, max_duration_s=600)
    auth = AuthConfig(keys=[key])
    assert KeyLimits.of(auth, "acme") == KeyLimits("acme", 2, 60, 600)
    assert KeyLimits.of(auth, None) is None
    with pytest.raises(Unauthorized):
        KeyLimits.of(auth, "gone")


def test_sessions_are_charged_from_their_begin_to_their_end(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", "acme", NOON - 30))
    ledger.start(HeldSession("two", "acme", NOON))
    ledger.start(HeldSession("three", "other", NOON))
    now.at += 60
    ledger.end("two")
    now.at += 10
    assert ledger.used_s("acme") == 100 + 60
    assert ledger.used_s("other") == 70
    assert ledger.used_s(None) == 0


def test_a_session_is_counted_once_however_often_it_is_told(now: Now, ledger: UsageLedger) -> None:
    for _ in range(3):
        ledger.start(HeldSession("one", "acme", NOON))
        now.at += 10
        ledger.charge()
    ledger.end("one")
    ledger.end("one")
    assert ledger.used_s("acme") == 30


def test_a_host_whose_clock_is_ahead_costs_nothing(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", "acme", NOON + 100))
    now.at += 10
    assert ledger.used_s("acme") == 10


def test_time_that_goes_back_takes_nothing_back(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", "acme", NOON))
    now.at += 10
    ledger.charge()
    now.at -= 5
    ledger.charge()
    now.at += 15
    assert ledger.used_s("acme") == 20


def test_a_months_end_divides_a_session(now: Now, ledger: UsageLedger) -> None:
    now.at = DECEMBER + 40
    ledger.start(HeldSession("one", "acme", DECEMBER - 20))
    assert ledger.used_s("acme") == 40
    assert ledger.state().totals == {("acme", "2026-11"): 20, ("acme", "2026-12"): 40}
    ledger.forget_past()
    assert ledger.state().totals == {("acme", "2026-12"): 40}


def test_minutes_that_are_left_end_at_zero(now: Now, ledger: UsageLedger) -> None:
    limits = KeyLimits("acme", minutes=1)
    ledger.start(HeldSession("one", "acme", NOON))
    now.at += 45
    assert ledger.remaining_s(limits) == 15
    now.at += 45
    assert ledger.remaining_s(limits) == 0
    assert ledger.remaining_s(KeyLimits("acme")) is None


def test_a_report_names_the_month_and_all_that_runs(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", "acme", NOON - 60))
    ledger.start(HeldSession("two", "acme", NOON - 120))
    ledger.end("two")
    now.at += 30
    report = ledger.report("acme", KeyLimits("acme", max_concurrent=5, minutes=10))
    assert report.period_start == datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert report.period_end == DECEMBER
    assert (report.used_minutes, report.included_minutes, report.remaining_minutes) == (3.5, 10, 6.5)
    assert (report.active_sessions, report.active_minutes, report.max_concurrent) == (1, 1.5, 5)


def test_an_open_server_reports_without_limits(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", None, NOON))
    now.at += 60
    report = ledger.report(None, None)
    assert (report.key_id, report.used_minutes, report.active_sessions) == (None, 1, 1)
    assert (report.included_minutes, report.remaining_minutes, report.max_concurrent) == (None, None, None)


def test_a_new_ledger_goes_on_where_the_last_one_stopped(now: Now, ledger: UsageLedger) -> None:
    ledger.start(HeldSession("one", "acme", NOON))
    now.at += 100
    ledger.charge()
    kept = ledger.state()
    now.at += 20
    heir = UsageLedger(now)
    heir.restore(kept)
    heir.start(HeldSession("one", "acme", NOON))
    assert heir.used_s("acme") == 120


def test_what_was_kept_may_be_learnt_late(now: Now, ledger: UsageLedger) -> None:
    ledger.restore(UsageState({("acme", "2026-11"): 50.0}))
    ledger.start(HeldSession("one", "acme", NOON))
    now.at += 100
    ledger.charge()
    kept = ledger.state()
    now.at += 20
    heir = UsageLedger(now)
    heir.start(HeldSession("one", "acme", NOON))
    heir.charge()
    heir.restore(kept)
    assert heir.used_s("acme") == 50 + 120


def test_sessions_that_no_host_tells_of_are_forgotten(now: Now, ledger: UsageLedger) -> None:
    ledger.restore(UsageState({}, {"one": NOON}))
    ledger.forget_past()
    assert ledger.state().charged_until == {"one": NOON}
    now.at += 3600
    ledger.forget_past()
    assert ledger.state().charged_until == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "end", "charge", "restart"]),
            st.integers(0, 3),
            st.integers(0, 40 * 86_400),
        ),
        max_size=30,
    )
)
def test_totals_are_what_the_sessions_ran(steps: list[tuple[str, int, int]]) -> None:
    now = Now()
    ledger = UsageLedger(now)
    began: dict[str, float] = {}
    expected = 0.0
    for what, number, wait_s in steps:
        name = f"{number}-{now.at}" if what == "start" else next(iter(began), "")
        if what == "start":
            began[name] = now.at
            ledger.start(HeldSession(name, "acme", now.at))
        elif what == "end" and name:
            expected += now.at - began.pop(name)
            ledger.end(name)
        elif what == "charge":
            ledger.charge()
        elif what == "restart":
            # Whether the last state was written or is a little old makes no difference to what runs.
            kept = ledger.state()
            ledger = UsageLedger(now)
            ledger.restore(kept)
            for running, began_at in began.items():
                ledger.start(HeldSession(running, "acme", began_at))
        now.at += wait_s
    expected += sum(now.at - began_at for began_at in began.values())
    ledger.charge()
    assert sum(ledger.state().totals.values()) == pytest.approx(expected)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 40 * 86_400.0])
def test_a_step_of_the_wall_clock_costs_nobody_minutes(step_s: float) -> None:
    wall, steady = Now(), Now(5000.0)
    ledger = UsageLedger(wall, steady)
    ledger.start(HeldSession("one", "acme", NOON))
    for clock in (wall, steady):
        clock.at += 10
    ledger.charge()
    wall.at += step_s
    for clock in (wall, steady):
        clock.at += 10
    ledger.end("one")
    assert sum(ledger.state().totals.values()) == pytest.approx(20)
