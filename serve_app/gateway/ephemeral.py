"""Short-lived keys that open one call, as doors see them: the `ek_…` of OpenAI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.conversation.spec import Dialect


@dataclass(frozen=True, slots=True)
class Grant:
    """What an ephemeral key stands for.

    Attributes:
        key_id: the API key it was minted with; None on an open server.
        dialect: of the call it opens.
        model: the only model it opens.
        session: session settings in the shape of the dialect, checked.
    """

    key_id: str | None
    dialect: Dialect
    model: str
    session: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EphemeralKey:
    """A minted key: "ek_…", and its end in POSIX seconds."""

    value: str
    expires_at: int


class EphemeralKeys(Protocol):
    """Mints keys and knows which were used; one truth for all gateways."""

    async def mint(self, grant: Grant, lifetime_s: float) -> EphemeralKey:
        """Return a new key.

        Raises:
            AdmissionRefused: too many unused keys wait.
        """
        ...

    async def check(self, value: str) -> Grant:
        """Return what a key stands for, without using it up.

        Raises:
            Unauthorized: it is unknown or has expired.
        """
        ...

    async def redeem(self, value: str) -> Grant:
        """Use a key up for signalling; return what it stands for.

        Raises:
            Unauthorized: it is unknown, has expired, or was used.
        """
        ...

    async def restore(self, value: str) -> None:
        """Make a redeemed key usable again: its call was not answered."""
        ...
