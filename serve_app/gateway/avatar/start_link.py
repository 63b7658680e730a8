"""Rooms of start links, on the configured LiveKit server: a token for the guest, and one for the avatar.

Source: LiveKit's access tokens (docs.livekit.io, "Tokens & grants"): HS256 JWTs with a `video` grant.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import jwt

from serve_app.config import RoomsConfig
from serve_app.errors import RoomFailed
from serve_app.rooms.base import RoomSpec

AGENT_IDENTITY = "agenthuman-avatar-agent"
"""The avatar's identity in a link's room, as document 001's REST names it."""

TOKEN_S = 6 * 3600


class LinkRooms:
    """Makes rooms.

    Args:
        config: names the LiveKit server and the key that makes rooms there.
    """

    def __init__(self, config: RoomsConfig) -> None:
        self._config = config

    def new_room(self) -> tuple[RoomSpec, str]:
        """Return a room of its own for one guest: where the avatar goes, and the guest's token.

        Raises:
            RoomFailed: no LiveKit server is configured.
        """
        config = self._config
        if config.livekit_url is None or config.livekit_api_secret is None or not config.livekit_api_key:
            raise RoomFailed(
                "expected LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET for start links, found not all"
            )
        name = f"link-{secrets.token_hex(12)}"
        guest = self._token(name, f"guest-{secrets.token_hex(4)}", kind="standard")
        avatar = self._token(name, AGENT_IDENTITY, kind="agent")
        return RoomSpec("livekit", config.livekit_url, avatar, hears="guests"), guest

    def _token(self, room: str, identity: str, *, kind: str) -> str:
        assert self._config.livekit_api_secret is not None, "new_room() has looked"
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._config.livekit_api_key,
            "sub": identity,
            "nbf": now,
            "exp": now + TOKEN_S,
            "kind": kind,
            "video": {"roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True},
        }
        return jwt.encode(claims, self._config.livekit_api_secret.get_secret_value(), algorithm="HS256")
