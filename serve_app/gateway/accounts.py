"""Ephemeral keys and the use of API keys on Ray: one truth for all gateways, in the session registry."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from ray.actor import ActorHandle

from serve_app.animator.client import from_host
from serve_app.errors import AdmissionRefused, HostLost
from serve_app.gateway.ephemeral import EphemeralKey, Grant
from serve_app.session.grants import digest_of, new_key
from serve_app.session.usage import UsageReport

T = TypeVar("T")

GRANT_BYTES = 512
"""About what a grant takes besides its session settings."""


class RayAccounts:
    """Implements EphemeralKeys. Keys are made here and travel hashed.

    A registry that was replaced knows no keys; they live for minutes, and clients mint new ones.

    Args:
        registry: returns the handle of the session registry, which may be another after a restart.
        retry_after_s: told to clients while the registry restarts.
    """

    def __init__(self, registry: Callable[[], ActorHandle[Any]], retry_after_s: float) -> None:
        self._registry = registry
        self._retry_after_s = retry_after_s

    async def mint(self, grant: Grant, lifetime_s: float) -> EphemeralKey:
        """Return a new key.

        Raises:
            AdmissionRefused: too many keys wait, or the registry restarts.
        """
        value = new_key()
        size_bytes = GRANT_BYTES + len(json.dumps(grant.session))
        expires_at = math.floor(time.time() + lifetime_s)
        await self._ask(
            self._registry().mint_grant.remote(digest_of(value), grant, lifetime_s, grant.key_id, size_bytes)
        )
        return EphemeralKey(value, expires_at)

    async def check(self, value: str) -> Grant:
        """Return what a key stands for, without using it up.

        Raises:
            Unauthorized: it is unknown or has expired.
            AdmissionRefused: the registry restarts.
        """
        return cast("Grant", await self._ask(self._registry().check_grant.remote(digest_of(value))))

    async def redeem(self, value: str) -> Grant:
        """Use a key up for signalling; return what it stands for.

        Raises:
            Unauthorized: it is unknown, has expired, or was used.
            AdmissionRefused: the registry restarts.
        """
        return cast("Grant", await self._ask(self._registry().redeem_grant.remote(digest_of(value))))

    async def restore(self, value: str) -> None:
        """Make a redeemed key usable again: its call was not answered.

        Raises:
            AdmissionRefused: the registry restarts.
        """
        await self._ask(self._registry().restore_grant.remote(digest_of(value)))

    async def usage(self, key_id: str | None) -> UsageReport:
        """Return what an API key has used; None: the sessions of an open server.

        Raises:
            Unauthorized: the key is no longer configured.
            AdmissionRefused: the registry restarts.
        """
        return cast("UsageReport", await self._ask(self._registry().usage.remote(key_id)))

    async def _ask(self, call: Awaitable[T]) -> T:
        try:
            return await from_host(call)
        except HostLost as error:
            raise AdmissionRefused("the session registry restarts", self._retry_after_s) from error
