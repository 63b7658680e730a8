"""Keys that open one call and end soon, kept by their hashes alone.

Whoever mints a key makes it with `new_key` and hands on its digest: the key itself reaches nobody but its
client.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.clock import Clock
from serve_app.errors import AdmissionRefused, Unauthorized

T = TypeVar("T")

PREFIX = "ek_"
"""Of OpenAI's ephemeral keys; clients tell them from API keys by it."""

MAX_GRANTS = 10_000
MAX_GRANTS_OF_OWNER = 2_000
MAX_BYTES = 64 * 1_048_576


def new_key() -> str:
    """Return a key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> bytes:
    """Return what a key is kept under: its SHA-256; a key of random bits needs no salt."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True)
class _Held(Generic[T]):
    grant: T
    owner: str | None
    size_bytes: int
    end_s: float
    is_used: bool = False


class GrantStore(Generic[T]):
    """Grants by the digests of their keys, until they expire.

    Args:
        clock: the time.
        max_grants: all together.
        max_of_owner: of one API key, so that one client does not take the room of all.
        max_bytes: of all grants together.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_grants: int = MAX_GRANTS,
        max_of_owner: int = MAX_GRANTS_OF_OWNER,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._max_grants = max_grants
        self._max_of_owner = max_of_owner
        self._max_bytes = max_bytes
        self._held: dict[bytes, _Held[T]] = {}
        self._ends: list[tuple[float, bytes]] = []
        self._of_owner: dict[str, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        self._sweep()
        return len(self._held)

    def mint(self, digest: bytes, grant: T, *, lifetime_s: float, owner: str | None, size_bytes: int) -> None:
        """Keep a grant for `lifetime_s`; the same digest again changes nothing.

        Args:
            digest: of its key.
            grant: what the key stands for.
            lifetime_s: until it expires.
            owner: the API key it was minted with; None on an open server.
            size_bytes: about how much memory the grant takes.

        Raises:
            AdmissionRefused: too many wait.
        """
        self._sweep()
        if digest in self._held:
            return
        now_s = self._clock.now_s()
        of_owner = 0 if owner is None else self._of_owner.get(owner, 0)
        if (
            len(self._held) >= self._max_grants
            or of_owner >= self._max_of_owner
            or self._bytes + size_bytes > self._max_bytes
        ):
            wait_s = max(1.0, self._ends[0][0] - now_s) if self._ends else 1.0
            raise AdmissionRefused("too many ephemeral keys have not expired yet", wait_s)
        self._held[digest] = _Held(grant, owner, size_bytes, now_s + lifetime_s)
        heapq.heappush(self._ends, (now_s + lifetime_s, digest))
        self._bytes += size_bytes
        if owner is not None:
            self._of_owner[owner] = of_owner + 1

    def check(self, digest: bytes) -> T:
        """Return what a key stands for, used or not.

        Raises:
            Unauthorized: it is unknown or has expired.
        """
        return self._find(digest).grant

    def redeem(self, digest: bytes) -> T:
        """Use a key up; return what it stands for.

        Raises:
            Unauthorized: it is unknown, has expired or was used.
        """
        held = self._find(digest)
        if held.is_used:
            raise Unauthorized("expected an ephemeral key that is unused, found one that opened a call")
        held.is_used = True
        return held.grant

    def restore(self, digest: bytes) -> None:
        """Make a used key usable again; does nothing when it has expired."""
        held = self._held.get(digest)
        if held is not None:
            held.is_used = False

    def _find(self, digest: bytes) -> _Held[T]:
        self._sweep()
        held = self._held.get(digest)
        if held is None:
            raise Unauthorized("expected an ephemeral key, found one that is unknown or has expired")
        return held

    def _sweep(self) -> None:
        now_s = self._clock.now_s()
        while self._ends and self._ends[0][0] <= now_s:
            _, digest = heapq.heappop(self._ends)
            held = self._held.pop(digest)
            self._bytes -= held.size_bytes
            if held.owner is not None:
                self._of_owner[held.owner] -= 1
                if not self._of_owner[held.owner]:
                    del self._of_owner[held.owner]
