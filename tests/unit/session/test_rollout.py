from __future__ import annotations

import pytest

from serve_app.config import AppConfig
from serve_app.session.rollout import Rollout

pytestmark = pytest.mark.unit

A, B = AppConfig(fps=30), AppConfig(fps=25)


def test_the_configuration_of_a_gateway_that_starts_counts() -> None:
    rollout = Rollout(A)
    first = rollout.take(A, None, 1000)
    assert rollout.take(A, None, 2000) == first
    assert rollout.take(B, None, 3000) > first
    assert rollout.config is B


def test_a_gateway_that_drains_changes_nothing_any_more() -> None:
    rollout = Rollout(A)
    old = rollout.take(A, None, 1000)
    new = rollout.take(B, None, 1000)
    assert rollout.take(A, old, 1001) == old
    assert rollout.config is B
    assert rollout.take(B, new, 1002) == new


def test_a_configuration_may_come_back() -> None:
    rollout = Rollout(A)
    rollout.take(A, None, 1000)
    rollout.take(B, None, 1000)
    rollout.take(A, None, 1000)
    assert rollout.config is A


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_registry_that_restarts_learns_the_newest_from_those_that_run(newest_first: bool) -> None:
    before = Rollout(A)
    told = [(A, before.take(A, None, 1000)), (B, before.take(B, None, 1000))]
    after = Rollout(A)  # Ray starts it with the arguments of its first start
    for config, number in reversed(told) if newest_first else told:
        assert after.take(config, number, 2000) == number
    assert after.config is B


def test_what_a_restarted_registry_numbers_is_newer_than_all_before() -> None:
    before = Rollout(A)
    old = before.take(A, None, 1000)
    after = Rollout(A)
    assert after.take(B, None, 2000) > old
    after.take(A, old, 2001)
    assert after.config is B
