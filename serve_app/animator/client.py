"""The way to an Animator from any process, and the only place where Ray's errors are translated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import ray
from ray import serve
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.animator.capacity import Capacity
from serve_app.animator.lending import lend
from serve_app.errors import AvatarError, HostLost, HostUnreachable, ModelError, ReplicaLost
from serve_app.metrics import call_metrics, window_metrics
from serve_app.models.base import ModelSpec
from serve_app.nouns import BaseLoop, ClipBatch, WindowBatch

T = TypeVar("T")

logger = logging.getLogger("serve_app.animator")


def deployment_name(model: str) -> str:
    """Return the name of the deployment that runs `model`."""
    return f"Animator-{model}"


async def from_replica(call: Awaitable[T]) -> T:
    """Await a call to a replica.

    Raises:
        AvatarError: what the replica itself raised.
        ModelError: the replica raised something else.
        ReplicaLost: the replica or Serve could not be reached; the call may be made again.
    """
    try:
        return await call
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AvatarError):
            raise cause from None
        raise ModelError(f"the replica failed: {type(cause).__name__}") from error
    except (RayError, RayServeException, TimeoutError) as error:
        raise ReplicaLost(f"{type(error).__name__} while calling an Animator") from error


async def from_host(call: Awaitable[T]) -> T:
    """Await a call to a session host.

    Raises:
        AvatarError: what the host itself raised.
        HostUnreachable: its connection broke, and nobody knows whether the call was done.
        HostLost: the host is gone.
    """
    try:
        return await call
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AvatarError):
            raise cause from None
        raise
    except ActorUnavailableError as error:
        raise HostUnreachable("the connection to a session host broke") from error
    except RayError as error:
        raise HostLost(f"{type(error).__name__} while calling a session host") from error


def again(make: Callable[[], Awaitable[T]]) -> Awaitable[T]:
    """Call a session host, and call it again when the connection breaks, as long as the host lives.

    Ray tells after a second that a connection broke, and at once that the host is dead. With its own retries
    (`max_task_retries`) a death, too, would be told after a second.

    Args:
        make: makes the call; its first one is on its way when this returns.

    Raises:
        AvatarError: what the host itself raised.
        HostLost: the host is gone.
    """
    return _answered(make(), make)


async def _answered(call: Awaitable[T], make: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await from_host(call)
        except HostUnreachable as error:
            logger.warning("%s; the call is made again", error)
            call_metrics().again()
            call = make()


class AnimatorClient:
    """Calls one model's Animator.

    Args:
        handle: Serve's handle of the deployment.
        timeout_s: a replica that has not answered by then counts as lost.
    """

    def __init__(self, handle: DeploymentHandle[Any], timeout_s: float = 2.0) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    @classmethod
    def of_app(cls, model: str, app_name: str) -> AnimatorClient:
        """Return a client from any process of the cluster that runs the application."""
        return cls(serve.get_deployment_handle(deployment_name(model), app_name))

    async def spec(self) -> ModelSpec:
        """Return what callers must know to cut windows."""
        return cast("ModelSpec", await from_replica(self._handle.spec.remote()))

    async def base_loop(self, avatar_id: str) -> BaseLoop:
        """Return an avatar's idle motion, read-only and shared with other processes of the node.

        Raises:
            AvatarInvalid: no such avatar.
        """
        return cast("BaseLoop", await from_replica(self._handle.base_loop.remote(avatar_id)))

    async def capacity(self) -> Capacity:
        """Return what one replica can do."""
        return cast("Capacity", await from_replica(self._handle.capacity.remote()))

    async def admit(self) -> None:
        """Return when one more session may begin.

        Raises:
            AdmissionRefused: the device makes all it can, or its memory did not suffice lately.
            ReplicaLost: no replica answered in time; one may be starting.
        """
        await from_replica(asyncio.wait_for(self._handle.admit.remote(), self._timeout_s))

    async def submit(self, batch: WindowBatch) -> ray.ObjectRef[ClipBatch]:
        """Start animating; return a reference that can be sent on before the clips exist.

        Raises:
            ReplicaLost: no replica took the call.
        """
        asked_s = time.monotonic()
        response = self._handle.animate.remote(batch)
        clips = await from_replica(asyncio.wait_for(response._to_object_ref(), self._timeout_s))  # noqa: SLF001
        window_metrics().stage("submit", time.monotonic() - asked_s)
        lend(clips)
        return cast("ray.ObjectRef[ClipBatch]", clips)

    async def pull(self, clips: ray.ObjectRef[ClipBatch]) -> ClipBatch:
        """Fetch the clips behind a reference.

        Raises:
            ReplicaLost: they were lost with their replica, or did not come in time.
        """
        return await from_replica(asyncio.wait_for(asyncio.shield(_ready(clips)), self._timeout_s))

    async def animate(self, batch: WindowBatch) -> ClipBatch:
        """Animate and wait for the clips.

        Raises:
            ReplicaLost: the replica died or hangs.
        """
        return await self.pull(await self.submit(batch))


async def _ready(clips: ray.ObjectRef[ClipBatch]) -> ClipBatch:
    return await cast("Awaitable[ClipBatch]", clips)
