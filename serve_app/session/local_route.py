"""The dispatcher's way from speech that enters in the host to the Animator, and straight back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

from serve_app.animator.client import AnimatorClient
from serve_app.nouns import Credit, Sound, Window, WindowBatch

Deliver = Callable[[Sequence[Sound], Sequence[Window], Sequence[Any]], Awaitable[list[Credit]]]


class LocalRoute:
    """The way to one model's Animator and back into this host.

    Args:
        model: which Animator.
        animator: its client.
        deliver: the host's own delivery.
        credits_of: the host's own count; asking renews no lease, which is the sockets' to renew.
    """

    def __init__(
        self,
        model: str,
        animator: AnimatorClient,
        deliver: Deliver,
        credits_of: Callable[[Sequence[str]], list[Credit]],
    ) -> None:
        self._model = model
        self._animator = animator
        self._deliver = deliver
        self._credits_of = credits_of

    @property
    def key(self) -> Hashable:
        """Equal for routes that may share a call."""
        return self._model

    async def submit(self, batch: WindowBatch) -> Any:  # noqa: ANN401 - a Ray ObjectRef
        """Start animating; return the reference of the clips."""
        return await self._animator.submit(batch)

    def deliver(
        self,
        sounds: Sequence[Sound],
        windows: Sequence[Window],
        clips: Any,  # noqa: ANN401
    ) -> Awaitable[list[Credit]]:
        """Hand over to the host."""
        return self._deliver(sounds, windows, [] if clips is None else [clips])

    async def renew(self, session_ids: Sequence[str]) -> list[Credit]:
        """Return the sessions' credit."""
        return self._credits_of(session_ids)
