from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from serve_app.config import AppConfig, AuthConfig
from serve_app.errors import AdmissionRefused, AvatarError, Unauthorized
from serve_app.gateway.accounts import RayAccounts
from serve_app.gateway.ephemeral import Grant
from serve_app.session.registry import SessionRegistry
from tests.never_shown import NeverShown

pytestmark = pytest.mark.unit

CONFIG = AppConfig.model_validate({"auth": {"keys": [{"id": "acme", "sha256": "0" * 64, "minutes": 60}]}})
GRANT = Grant("acme", "ga", "gpt-realtime", {"instructions": "be brief"})


class Method:
    """One method of an actor, called as Ray calls it and failing as it fails there."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, Any]], arguments: list[object]) -> None:
        self._call = call
        self._arguments = arguments

    async def remote(self, *args: object) -> object:
        self._arguments.extend(args)
        try:
            return await self._call(*args)
        except AvatarError as error:
            raise RayTaskError("call", "traceback", error) from None


class Actor:
    """A SessionRegistry as its handle shows it.

    Attributes:
        arguments: all that travelled to it.
    """

    def __init__(self, config: AppConfig = CONFIG) -> None:
        self._registry = SessionRegistry(config, "avatar")
        self.arguments: list[object] = []

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._registry, name), self.arguments)


class DeadActor:
    """The handle of an actor that is gone."""

    def __getattr__(self, name: str) -> DeadActor:
        return self

    async def remote(self, *args: object) -> object:
        raise ActorDiedError


@pytest.fixture
def actor() -> Actor:
    return Actor()


@pytest.fixture
def accounts(actor: Actor) -> RayAccounts:
    return RayAccounts(lambda: actor, 7.5)


async def test_a_minted_key_opens_what_it_was_minted_for_once(accounts: RayAccounts) -> None:
    before = time.time()
    key = await accounts.mint(GRANT, 60)
    assert before + 59 <= key.expires_at <= time.time() + 60
    assert key.value.startswith("ek_")
    assert await accounts.check(key.value) == GRANT
    assert await accounts.redeem(key.value) == GRANT
    with pytest.raises(Unauthorized, match="found one that opened a call"):
        await accounts.redeem(key.value)
    await accounts.restore(key.value)
    assert await accounts.redeem(key.value) == GRANT


@pytest.mark.parametrize("value", ["", "ek_unknown", "\ud800"])
async def test_an_unknown_key_is_refused(accounts: RayAccounts, value: str) -> None:
    for call in (accounts.check, accounts.redeem):
        with pytest.raises(Unauthorized):
            await call(value)


async def test_keys_that_fill_the_store_are_refused(accounts: RayAccounts) -> None:
    big = Grant(None, "ga", "gpt-realtime", {"instructions": "x" * 40_000_000})
    await accounts.mint(big, 60)
    with pytest.raises(AdmissionRefused, match="too many ephemeral keys"):
        await accounts.mint(big, 60)


async def test_keys_stay_in_the_gateway(
    actor: Actor, accounts: RayAccounts, caplog: pytest.LogCaptureFixture
) -> None:
    key = await accounts.mint(GRANT, 60)
    hidden = NeverShown(key.value, key.value[3:])
    with hidden.in_logs(caplog):
        await accounts.redeem(key.value)
        with pytest.raises(Unauthorized) as caught:
            await accounts.redeem(key.value)
        await accounts.restore(key.value)
    hidden.check(caught.value, actor.arguments, vars(accounts))


async def test_usage_is_that_of_the_key(accounts: RayAccounts) -> None:
    report = await accounts.usage("acme")
    assert (report.key_id, report.included_minutes, report.remaining_minutes) == ("acme", 60, 60)
    with pytest.raises(Unauthorized):
        await accounts.usage("gone")


async def test_usage_of_an_open_server_has_no_limits() -> None:
    actor = Actor(AppConfig(auth=AuthConfig()))
    report = await RayAccounts(lambda: actor, 7.5).usage(None)
    assert (report.key_id, report.included_minutes, report.active_sessions) == (None, None, 0)


async def test_while_the_registry_restarts_clients_are_told_when_to_come_again() -> None:
    accounts = RayAccounts(DeadActor, 7.5)
    for call in (
        lambda: accounts.mint(GRANT, 60),
        lambda: accounts.check("ek_1"),
        lambda: accounts.redeem("ek_1"),
        lambda: accounts.restore("ek_1"),
        lambda: accounts.usage("acme"),
    ):
        with pytest.raises(AdmissionRefused, match="the session registry restarts") as caught:
            await call()
        assert caught.value.retry_after_s == 7.5
