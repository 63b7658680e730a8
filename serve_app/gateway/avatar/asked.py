"""What requests for sessions name: avatars and rooms, looked up and checked before a session is opened."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from fnmatch import fnmatch

from serve_app.avatars.store import AvatarStore
from serve_app.config import AppConfig
from serve_app.errors import AvatarInvalid, InvalidMessage, RoomFailed
from serve_app.rooms.address import check_spec
from serve_app.rooms.base import RoomSpec
from serve_app.rooms.livekit_token import read_grant

STOCK_AVATARS = frozenset({"avat_01KMZJ4WE5QCD9G3EK21QW8NJK", "b9be11b8-89fb-4227-8f86-4a881393cbdb"})
"""What the LiveKit plugins of AgentHuman and Beyond Presence name when their user names no avatar."""


class Asked:
    """Looks up what is asked for.

    Args:
        config: knows the avatars, their aliases, and whose rooms may be joined.
    """

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._avatars = AvatarStore(config.avatars.store)

    async def avatar_id(self, asked: str | None) -> str | None:
        """Return the avatar of an id or one of its aliases; None for the configured one.

        Raises:
            AvatarInvalid: no avatar of that name, or a picture in its place.
        """
        if not asked:
            return None
        if asked.startswith(("http://", "https://", "data:")):
            raise AvatarInvalid(
                "avatar: expected the id of an avatar, found a picture, which is not taken here"
            )
        avatar_id = self._config.avatars.aliases.get(asked, asked)
        if avatar_id in STOCK_AVATARS:
            return None
        # Reading it is the Animators' part; here it is asked whether it is there, which may take a network.
        await asyncio.to_thread(self._avatars.path, avatar_id)
        return avatar_id

    def room(self, spec: RoomSpec) -> RoomSpec:
        """Return a room that may be joined; a LiveKit token made for an agent's avatar lets the agent speak.

        Raises:
            RoomFailed: its address or token cannot be used, or its host is not allowed.
        """
        try:
            host = check_spec(spec)
            if spec.platform == "livekit" and read_grant(spec.token, time.time()).publish_on_behalf:
                spec = replace(spec, hears="agent")
        except InvalidMessage as error:
            raise RoomFailed(str(error)) from error
        allowed = self._config.rooms.allowed_hosts
        if allowed and not any(fnmatch(host, pattern.lower()) for pattern in allowed):
            raise RoomFailed("room url: expected a host of rooms.allowed_hosts, found another")
        return spec
