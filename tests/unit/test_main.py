"""How the builder lays out the application."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingConfig

from serve_app.config import AnimatorConfig
from serve_app.main import scale_of

pytestmark = pytest.mark.unit


def test_autoscaled_animators_follow_the_sessions_that_speak() -> None:
    mine = AnimatorConfig(
        num_replicas=None, autoscaling={"min_replicas": 1, "max_replicas": 4}, sessions_per_replica=24
    )
    scaling = AutoscalingConfig.model_validate(scale_of(mine)["autoscaling_config"])
    assert scaling.max_replicas == 4
    policy = scaling.policy.get_policy()(**scaling.policy.policy_kwargs)
    wanted, _ = policy(SimpleNamespace(aggregated_metrics={"sessions": {"one": 49.0, "two": 12.0}}))
    assert wanted == 3


def test_a_policy_of_the_operators_own_counts() -> None:
    own = {"policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"}
    mine = AnimatorConfig(num_replicas=None, autoscaling={"max_replicas": 2, "policy": own})
    assert scale_of(mine)["autoscaling_config"]["policy"] == own


def test_fixed_replicas_are_not_scaled() -> None:
    assert scale_of(AnimatorConfig(num_replicas=3)) == {"num_replicas": 3}
