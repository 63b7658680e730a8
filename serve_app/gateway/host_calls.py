"""One gateway's way to one session host: calls outlast connections that break, as long as the host lives.

Ray fails a call whose connection broke and does not say whether it was done. Here it makes the call again:
what does no harm when it is done twice as it is, the rest under a name by which the host knows it.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from ray.actor import ActorHandle

from serve_app.animator.client import again
from serve_app.metrics import call_metrics
from serve_app.nouns import Credit, Sound, Window


class HostCalls:
    """The calls of all sessions of one gateway to one host.

    Args:
        actor: the host.
    """

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor
        self._caller = secrets.token_hex(8)
        self._numbers = itertools.count()
        call_metrics()  # exported with 0 from now on

    async def ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - what the method returns
        """Make a call that only reads, or that leaves the same when it is made twice.

        Raises:
            AvatarError: what the host raised.
            HostLost: the host is gone.
        """
        return await again(lambda: getattr(self._actor, method).remote(*arguments))

    async def do(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - what the method returns
        """Make a call that takes effect once.

        Raises:
            AvatarError: what the host raised.
            HostLost: the host is gone.
        """
        name = secrets.token_hex(8)
        once = self._actor.once.options(name=f"SessionHost.{method}")
        return await again(lambda: once.remote(name, method, *arguments))

    def deliver(
        self, sounds: Sequence[Sound], windows: Sequence[Window], clips: Sequence[Any]
    ) -> Awaitable[list[Credit]]:
        """Deliver; the call is on its way when this returns."""
        number = next(self._numbers)
        return again(lambda: self._actor.deliver_in_turn.remote(self._caller, number, sounds, windows, clips))

    async def renew(self, session_ids: Sequence[str]) -> list[Credit]:
        """Keep sessions alive."""
        return cast("list[Credit]", await self.ask("renew", session_ids))
