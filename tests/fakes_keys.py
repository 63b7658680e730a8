"""A stand-in for the registry's ephemeral keys."""

from __future__ import annotations

from serve_app.errors import Unauthorized
from serve_app.gateway.ephemeral import EphemeralKey, Grant

BEGIN_S = 1_700_000_000


class FakeEphemeralKeys:
    """EphemeralKeys that stand still in time until a test moves it.

    Attributes:
        grants: what was minted, by key.
        lifetimes: in seconds, in order of minting.
        used: keys that were redeemed.
        now_s: POSIX time.
        fail: what the next `mint` raises, once.
    """

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}
        self.lifetimes: list[float] = []
        self.used: set[str] = set()
        self.now_s = float(BEGIN_S)
        self.fail: Exception | None = None
        self._ends: dict[str, float] = {}

    async def mint(self, grant: Grant, lifetime_s: float) -> EphemeralKey:
        error, self.fail = self.fail, None
        if error is not None:
            raise error
        value = f"ek_{len(self.grants):032d}"
        self.grants[value] = grant
        self.lifetimes.append(lifetime_s)
        self._ends[value] = self.now_s + lifetime_s
        return EphemeralKey(value, int(self._ends[value]))

    async def check(self, value: str) -> Grant:
        if value not in self.grants or self._ends[value] <= self.now_s:
            raise Unauthorized("expected an ephemeral key that has not expired, found another")
        return self.grants[value]

    async def redeem(self, value: str) -> Grant:
        grant = await self.check(value)
        if value in self.used:
            raise Unauthorized("expected an ephemeral key that was not used, found one that was")
        self.used.add(value)
        return grant

    async def restore(self, value: str) -> None:
        self.used.discard(value)
