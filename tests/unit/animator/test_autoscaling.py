from __future__ import annotations

from types import SimpleNamespace

import pytest

from serve_app.animator.autoscaling import SessionsPolicy, replicas_for

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("sessions", "expected"), [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3), (80, 10)]
)
def test_replicas_follow_the_sessions(sessions: float, expected: int) -> None:
    assert replicas_for(sessions, 8) == expected


def test_every_replica_sees_nearly_every_session_so_the_largest_count_decides() -> None:
    context = SimpleNamespace(aggregated_metrics={"sessions": {"a": 20.0, "b": 19.0}})
    assert SessionsPolicy(8)(context) == (3, {})


def test_no_measurement_keeps_one_replica() -> None:
    empty: list[object] = [None, {}, {"sessions": {}}]
    for metrics in empty:
        assert SessionsPolicy(8)(SimpleNamespace(aggregated_metrics=metrics)) == (1, {})


def test_measured_capacity_counts_where_none_is_configured() -> None:
    metrics = {"sessions": {"a": 41.0}, "capacity": {"a": 24.0, "b": 20.0, "c": 0.0}}
    assert SessionsPolicy(None)(SimpleNamespace(aggregated_metrics=metrics)) == (3, {})


def test_before_the_first_measurement_the_replicas_stay() -> None:
    for metrics in ({}, {"sessions": {"a": 41.0}}, {"sessions": {"a": 41.0}, "capacity": {"a": 0.0}}):
        context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2)
        assert SessionsPolicy(None)(context) == (2, {})
