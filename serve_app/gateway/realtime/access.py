"""Who may use the Realtime door: API keys, the ephemeral keys minted with them, and pages of browsers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from serve_app.config import AppConfig
from serve_app.errors import Unauthorized
from serve_app.gateway.auth import Keyring, bearer_of, check_origin
from serve_app.gateway.ephemeral import EphemeralKeys, Grant
from serve_app.gateway.realtime.errors import refused

EPHEMERAL_PREFIX = "ek_"
"""The stock JavaScript SDK takes no other keys in a browser (protocols, Decision 4.9)."""

KEY_PROTOCOL = "openai-insecure-api-key."
"""Subprotocol by which browsers, which cannot set headers, hand over a key (protocols, section 4.4)."""


@dataclass(frozen=True, slots=True)
class Access:
    """A caller who may go on.

    Attributes:
        key_id: the API key to count against; None on an open server.
        grant: what the ephemeral key stands for; None for a caller with an API key or none.
        ephemeral: the ephemeral key itself.
    """

    key_id: str | None
    grant: Grant | None = None
    ephemeral: str | None = field(default=None, repr=False)


class Doorkeeper:
    """Checks callers.

    Pages: a key that was checked is a right by itself, and no cookie is ever looked at, so a page of any
    origin may use one. A list of allowed origins narrows that for everybody; and where no key is needed, a
    page of an origin that is not allowed is refused: any page on the web could else use a server on its
    reader's machine.

    Args:
        keys: the ephemeral keys.
        keyring: the API keys.
        config: the whole configuration.
    """

    def __init__(self, keys: EphemeralKeys, keyring: Keyring, config: AppConfig) -> None:
        self._keys = keys
        self._keyring = keyring
        self._config = config

    async def admit(self, connection: HTTPConnection, given: str | None = None) -> Access:
        """Return who calls; an ephemeral key is looked at and not yet used up.

        Args:
            connection: request or socket.
            given: a key that came in a subprotocol.

        Raises:
            Unauthorized: no key that is known.
            RealtimeRefused: status 403: pages of that origin may not enter.
        """
        key = given or bearer_of(connection)
        if key.startswith(EPHEMERAL_PREFIX):
            grant = await self._keys.check(key)
            access = Access(grant.key_id, grant, key)
        else:
            access = Access(self._keyring.authenticate(connection, given).key_id)
        is_proven = access.grant is not None or access.key_id is not None
        if self._config.gateway.allowed_origins or not is_proven:
            self._check_origin(connection)
        return access

    async def admit_owner(self, connection: HTTPConnection, given: str | None = None) -> Access:
        """Return who calls, with an API key: ephemeral ones do not do.

        Raises:
            Unauthorized: no API key that is known.
            RealtimeRefused: status 403: pages of that origin may not enter.
        """
        access = await self.admit(connection, given)
        if access.grant is not None:
            raise Unauthorized("expected an API key, found an ephemeral one, which opens calls only")
        return access

    async def redeem(self, access: Access) -> None:
        """Use up the caller's ephemeral key, if it is one.

        Raises:
            Unauthorized: another request used it, or it has expired.
        """
        if access.ephemeral is not None:
            await self._keys.redeem(access.ephemeral)

    async def restore(self, access: Access) -> None:
        """Make the caller's ephemeral key usable again: its call was not answered."""
        if access.ephemeral is not None:
            await self._keys.restore(access.ephemeral)

    def _check_origin(self, connection: HTTPConnection) -> None:
        try:
            check_origin(connection, self._config.gateway)
        except Unauthorized as error:
            raise refused(403, str(error), "origin_not_allowed") from None


def key_of_subprotocols(offered: Sequence[str]) -> str | None:
    """Return the key among a WebSocket's subprotocols; they are never logged."""
    for name in offered:
        if name.startswith(KEY_PROTOCOL):
            return name.removeprefix(KEY_PROTOCOL)
    return None
