"""The whole application on one page: `serve run` calls `build` with the `args` of a config file.

Serve reads the builder's annotation at run time, so this module does not postpone annotations.
"""

from typing import Any

from ray import serve
from ray.serve import Application

from serve_app.animator.autoscaling import SessionsPolicy
from serve_app.animator.client import deployment_name
from serve_app.animator.replica import Animator
from serve_app.config import AnimatorConfig, AppConfig, AuthConfig, with_environment
from serve_app.gateway.app import Gateway


def build(config: AppConfig) -> Application:
    """Return the application: one Animator for each model, and the Gateway in front."""
    config = with_environment(config)
    animators = {model: _animator(model, mine, config) for model, mine in config.animators.items()}
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        num_replicas=config.gateway.num_replicas,
        max_ongoing_requests=config.gateway.max_ongoing_requests,
        max_surge_percent=100,
        ray_actor_options={"num_cpus": config.gateway.num_cpus},
        graceful_shutdown_timeout_s=config.gateway.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        # A dead ingress is replaced once a health check has missed it; its clients wait for that.
        health_check_period_s=0.5,
        health_check_timeout_s=5,
    )
    return gateway.bind(config, animators)


def _animator(model: str, mine: AnimatorConfig, config: AppConfig) -> Application:
    deployment = serve.deployment(
        Animator,
        name=deployment_name(model),
        max_ongoing_requests=4 * mine.max_batch_calls,
        ray_actor_options=mine.ray_actor_options,
        user_config={"max_batch_calls": mine.max_batch_calls},
        # Sessions have a second and a half of clips when a replica dies; another takes as long to start.
        health_check_period_s=0.5,
        health_check_timeout_s=5,
        max_surge_percent=mine.max_surge_percent,
        # Windows take a fraction of a second; a replica that hangs must not keep its device for longer.
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.5,
        **scale_of(mine),
    )
    # Keys and secrets stay with those who open doors.
    return deployment.bind(model, config.model_copy(update={"auth": AuthConfig()}))


def scale_of(mine: AnimatorConfig) -> dict[str, Any]:
    """Return the options of a deployment that say how many replicas it has.

    An autoscaled one without a policy of its own follows the sessions that are speaking.
    """
    if mine.autoscaling is None:
        return {"num_replicas": mine.num_replicas}
    by_sessions = {
        "policy_function": f"{SessionsPolicy.__module__}:{SessionsPolicy.__qualname__}",
        "policy_kwargs": {"sessions_per_replica": mine.sessions_per_replica},
    }
    return {"autoscaling_config": {"policy": by_sessions, **mine.autoscaling}}
