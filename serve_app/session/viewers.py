"""Those who only watch a session: each with a peer and a lane of its own."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from serve_app.clock import Clock
from serve_app.config import AppConfig
from serve_app.errors import AdmissionRefused, SessionNotFound
from serve_app.rtc.peer import Peer, PeerState
from serve_app.session.facts import Viewing
from serve_app.session.lane import Lane

logger = logging.getLogger("serve_app.session")


@dataclass(frozen=True, slots=True)
class _Viewer:
    peer: Peer
    lane: Lane


class Viewers:
    """The viewers of one session.

    Args:
        session_id: whose viewers, for the log.
        lane: makes a way out of the session.
        config: the whole configuration.
        clock: the session clock.
        start_s: when packet 0 and frame 0 of the session are due.

    Attributes:
        peer_failures: viewers' peers that failed, by cause.
    """

    def __init__(
        self, session_id: str, lane: Callable[[], Lane], config: AppConfig, clock: Clock, start_s: float
    ) -> None:
        self._session_id = session_id
        self._make_lane = lane
        self._config = config
        self._clock = clock
        self._start_s = start_s
        self.peer_failures: Counter[str] = Counter()
        self._viewers: dict[str, _Viewer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def peers(self) -> Iterator[Peer]:
        """Yield their connections."""
        for viewer in self._viewers.values():
            yield viewer.peer

    async def add(self, offer_sdp: str) -> Viewing:
        """Answer one more viewer's offer.

        Raises:
            InvalidDescription: the offer cannot be used.
            AdmissionRefused: there are as many as there may be.
        """
        limit = self._config.session.max_viewers
        if len(self._viewers) >= limit:
            raise AdmissionRefused(
                f"expected at most {limit} viewers of a session", self._config.session.retry_after_s
            )
        viewer_id = secrets.token_urlsafe(16)
        lane = self._make_lane()

        def on_state(state: PeerState) -> None:
            if state.cause is not None:
                self.peer_failures[state.cause] += 1
            if state.name in {"failed", "closed"}:
                self._drop(viewer_id)

        peer = Peer(lane, self._clock, self._start_s, self._config.fps, self._config.ice, on_state)
        # Counted before the answer is made, so that offers that come together keep the limit.
        self._viewers[viewer_id] = _Viewer(peer, lane)
        try:
            answer = await peer.answer(offer_sdp, rtcp_mux_only=True)
        except BaseException:
            self._drop(viewer_id)
            await peer.close()
            raise
        logger.info("session %s: viewer %d joined", self._session_id, len(self._viewers))
        return Viewing(viewer_id, answer)

    async def add_candidate(self, viewer_id: str, candidate: dict[str, Any] | None) -> None:
        """Give a viewer's remote candidate.

        Raises:
            SessionNotFound: no such viewer.
            InvalidCandidate: it cannot be parsed.
        """
        viewer = self._viewers.get(viewer_id)
        if viewer is None:
            raise SessionNotFound("no such viewer; it has left or never was")
        await viewer.peer.add_candidate(candidate)

    async def remove(self, viewer_id: str) -> bool:
        """End a viewer's connection; return whether there was one."""
        viewer = self._viewers.get(viewer_id)
        if viewer is None:
            return False
        self._drop(viewer_id)
        await viewer.peer.close()
        return True

    async def close(self) -> None:
        """End all connections."""
        for viewer_id in list(self._viewers):
            await self.remove(viewer_id)

    def _drop(self, viewer_id: str) -> None:
        viewer = self._viewers.pop(viewer_id, None)
        if viewer is not None:
            viewer.lane.close()
            self._in_background(viewer.peer.close())

    def _in_background(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
