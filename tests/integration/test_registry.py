"""The registry as an actor: what it knows of hosts and keys, and what is left of it when it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from serve_app.config import AppConfig
from serve_app.errors import Unauthorized
from serve_app.gateway.accounts import RayAccounts
from serve_app.gateway.ephemeral import Grant
from serve_app.session.opened import HeldSession, HostStatus
from serve_app.session.registry import NAMESPACE, SessionRegistry, host_name
from serve_app.session.usage import KeyLimits

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("bare_ray")]

TAG = "h0a1b2c"
ACME = KeyLimits("acme", max_concurrent=2, minutes=10)
SOON_S = 15.0


class StandInHost:
    """Holds what a test says it holds, and ends what the registry ends."""

    def __init__(self) -> None:
        self._held: dict[str, HeldSession] = {}
        self._closed: list[tuple[str, str]] = []

    async def status(self) -> HostStatus:
        return HostStatus(tuple(self._held.values()), 16)

    async def config(self) -> AppConfig:
        return AppConfig.model_validate({"session": {"hosts": 1}})

    async def hold(self, session: HeldSession) -> None:
        self._held[session.session_id] = session

    async def close_session(self, session_id: str, reason: str) -> None:
        if self._held.pop(session_id, None) is not None:
            self._closed.append((session_id, reason))

    async def closed(self) -> list[tuple[str, str]]:
        return self._closed


@pytest.fixture
def host() -> Iterator[Any]:
    actor = ray.remote(StandInHost).options(
        name=host_name(TAG), namespace=NAMESPACE, lifetime="detached", num_cpus=0
    )
    handle = actor.remote()
    ray.get(handle.status.remote())
    yield handle
    ray.kill(handle)


@pytest.fixture
def config(tmp_path: Path) -> AppConfig:
    key = {"id": "acme", "sha256": "0" * 64, "max_concurrent": 2, "minutes": 10}
    return AppConfig.model_validate(
        {"session": {"hosts": 1}, "auth": {"keys": [key], "usage_file": str(tmp_path / "usage.sqlite")}}
    )


async def started(config: AppConfig) -> Any:
    """Return a registry that knows its hosts."""
    registry = ray.remote(SessionRegistry).options(num_cpus=0, max_concurrency=100).remote(config, "avatar")
    await registry.configure.remote(config)
    return registry


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not await condition():
        assert time.monotonic() < deadline_s, f"expected it within {SOON_S:g} s"
        await asyncio.sleep(0.1)


async def test_a_new_registry_learns_whose_sessions_run(host: Any, config: AppConfig) -> None:
    began = time.time() - 120
    await host.hold.remote(HeldSession("one", "acme", began))
    await host.hold.remote(HeldSession("two", "acme", began))
    first = await started(config)
    assert (await first.admit.remote(ACME)).refusal == "concurrency"
    ray.kill(first)
    second = await started(config)
    assert (await second.admit.remote(ACME)).refusal == "concurrency"
    report = await second.usage.remote("acme")
    assert report.active_sessions == 2
    assert report.used_minutes == pytest.approx(4, abs=1)
    assert (await second.admit.remote(None)).tag == TAG
    ray.kill(second)


async def test_used_minutes_outlive_the_registry_and_the_sessions(host: Any, config: AppConfig) -> None:
    await host.hold.remote(HeldSession("one", "acme", time.time() - 240))
    first = await started(config)
    await host.close_session.remote("one", "client")
    await first.released.remote("one")

    async def is_saved() -> bool:
        probe = await started(config)
        used = (await probe.usage.remote("acme")).used_minutes
        ray.kill(probe)
        return used > 3.9

    await until(is_saved)
    ray.kill(first)
    second = await started(config)
    assert (await second.usage.remote("acme")).used_minutes == pytest.approx(4, abs=0.5)
    place = await second.admit.remote(ACME)
    assert place.max_duration_s == pytest.approx(6 * 60, abs=30)
    ray.kill(second)


async def test_sessions_end_when_their_keys_minutes_do(host: Any, config: AppConfig) -> None:
    await host.hold.remote(HeldSession("one", "acme", time.time() - 5 * 60))
    await host.hold.remote(HeldSession("two", "acme", time.time() - 5 * 60 + 3))
    await host.hold.remote(HeldSession("free", None, time.time() - 3600))
    registry = await started(config)

    async def are_closed() -> bool:
        return sorted(await host.closed.remote()) == [("one", "quota"), ("two", "quota")]

    await until(are_closed)
    assert (await registry.admit.remote(ACME)).refusal == "quota"
    assert (await registry.usage.remote(None)).active_sessions == 1
    ray.kill(registry)


async def test_errors_and_grants_cross_the_actors_boundary(host: Any, config: AppConfig) -> None:
    registry = await started(config)
    accounts = RayAccounts(lambda: registry, 5)
    grant = Grant("acme", "ga", "gpt-realtime", {"type": "realtime"})
    key = await accounts.mint(grant, 60)
    assert await accounts.redeem(key.value) == grant
    with pytest.raises(Unauthorized, match="found one that opened a call"):
        await accounts.redeem(key.value)
    with pytest.raises(Unauthorized):
        await accounts.usage("gone")
    ray.kill(registry)


async def test_new_keys_drain_no_host(host: Any, config: AppConfig) -> None:
    registry = await started(config)
    key = {"id": "other", "sha256": "1" * 64}
    keys = AppConfig.model_validate({"session": {"hosts": 1}, "auth": {"keys": [key]}})
    await registry.configure.remote(keys)
    assert await registry.ready_hosts.remote() == 1
    assert (await registry.admit.remote(KeyLimits("other"))).tag == TAG
    ray.kill(registry)
