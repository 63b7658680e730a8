from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import SessionConfig
from serve_app.session.pool import PoolSize, hosts_for
from tests.clocks import SetClock

pytestmark = pytest.mark.unit

LIMITS = SessionConfig(hosts=1, max_hosts=4, max_sessions_per_host=8, spare_places=2, shrink_after_s=60)


@pytest.mark.parametrize(
    ("sessions", "hosts"), [(0, 1), (6, 1), (7, 2), (14, 2), (15, 3), (22, 3), (23, 4), (100, 4)]
)
def test_there_are_always_spare_places_while_more_hosts_may_start(sessions: int, hosts: int) -> None:
    assert hosts_for(sessions, LIMITS) == hosts


@given(st.integers(0, 1000))
def test_a_pool_without_bounds_of_its_own_stays_as_it_is(sessions: int) -> None:
    assert hosts_for(sessions, SessionConfig(hosts=3)) == 3


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_more_sessions_never_need_fewer_hosts(one: int, other: int) -> None:
    assert hosts_for(min(one, other), LIMITS) <= hosts_for(max(one, other), LIMITS)


def test_it_grows_at_once_and_shrinks_when_fewer_did_for_a_while() -> None:
    clock = SetClock()
    pool = PoolSize(clock)
    assert pool.wanted(20, LIMITS) == 3
    assert pool.wanted(0, LIMITS) == 3
    clock.s += 59
    assert pool.wanted(0, LIMITS) == 3
    clock.s += 1
    assert pool.wanted(0, LIMITS) == 1


def test_a_short_rush_keeps_the_hosts_it_needed() -> None:
    clock = SetClock()
    pool = PoolSize(clock)
    pool.wanted(30, LIMITS)
    pool.wanted(0, LIMITS)
    clock.s += 30
    assert pool.wanted(10, LIMITS) == 4
    clock.s += 30
    assert pool.wanted(0, LIMITS) == 2


def test_new_bounds_hold_at_once() -> None:
    pool = PoolSize(SetClock())
    assert pool.wanted(100, LIMITS) == 4
    assert pool.wanted(100, SessionConfig(hosts=2)) == 2
    assert pool.wanted(0, SessionConfig(hosts=5)) == 5


def test_a_host_is_added_when_the_encoders_of_the_others_are_busy() -> None:
    pool = PoolSize(SetClock())
    assert pool.wanted(2, LIMITS) == 1
    assert pool.wanted(2, LIMITS, is_short=True) == 2
    assert pool.wanted(2, LIMITS) == 2
    for _ in range(5):
        pool.wanted(2, LIMITS, is_short=True)
    assert pool.wanted(2, LIMITS) == 4
    assert PoolSize(SetClock()).wanted(2, SessionConfig(hosts=1), is_short=True) == 1
