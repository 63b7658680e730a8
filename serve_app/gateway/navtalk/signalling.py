"""Who offers, who answers: WebRTC signalling of the NavTalk door. Sans-I/O but for the session's own calls.

The server offers first and has at most one offer outstanding. Where the documents leave it open:

- Glare, a client's offer while ours is outstanding, is decided for ours: NavTalk's pages build a new
  connection on every server offer, which makes their own of the one before pointless. Theirs waits; our
  answer drops it; without one, GLARE_PATIENCE_S later, it is answered after all.
- A client's offer that restarts ICE is met with an offer from a new peer: aiortc cannot restart ICE.
- Any other offer of a client is answered by a new peer.
- A failed peer, and an offer that nobody answers, are followed by an offer from a new one, MAX_REOFFERS
  times without a connection in between.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from serve_app.clock import Clock
from serve_app.errors import IceFailed, InvalidMessage
from serve_app.gateway.navtalk.messages import Answer, Candidate, Offer, Signal, signalled
from serve_app.session.events import PeerChanged

GLARE_PATIENCE_S = 3.0
MAX_REOFFERS = 3

_IDENTITY = re.compile(r"^a=(fingerprint|ice-ufrag):[ \t]*(\S+(?:[ \t]+\S+)?)[ \t]*\r?$", re.MULTILINE)


class Negotiator(Protocol):
    """The part of a SessionLink that negotiates."""

    async def offer(self) -> str:
        """Return an SDP offer of a new peer."""
        ...

    async def accept(self, answer_sdp: str) -> None:
        """Take the answer to the last offer."""
        ...

    async def answer(self, offer_sdp: str) -> str:
        """Return the answer of a new peer."""
        ...

    async def add_candidate(self, candidate: dict[str, object] | None) -> None:
        """Give a remote candidate; early ones are kept."""
        ...


@dataclass(frozen=True, slots=True)
class _Failed:
    detail: str


@dataclass(frozen=True, slots=True)
class _Identity:
    """What tells a client's connections, and the generations of their ICE, apart (RFC 8842, RFC 8839)."""

    fingerprints: frozenset[str]
    ufrags: frozenset[str]

    @classmethod
    def of(cls, sdp: str) -> _Identity:
        found = _IDENTITY.findall(sdp)
        return cls(
            frozenset(value.lower() for name, value in found if name == "fingerprint"),
            frozenset(value for name, value in found if name == "ice-ufrag"),
        )

    def is_restart_of(self, before: _Identity) -> bool:
        """Whether this is the same connection with new ICE credentials."""
        return (
            bool(self.fingerprints)
            and self.fingerprints == before.fingerprints
            and self.ufrags != before.ufrags
        )


_Step: TypeAlias = Signal | _Failed | None


class Signalling:
    """Negotiates the peers of one session, one step at a time.

    Args:
        link: the session.
        clock: the time.
        max_waiting: signals that may wait for the one before them.
        answer_s: how long an offer waits for its answer before its peer fails.
    """

    def __init__(self, link: Negotiator, clock: Clock, max_waiting: int, answer_s: float) -> None:
        self._link = link
        self._clock = clock
        self._max_waiting = max_waiting
        self._waiting: asyncio.Queue[_Step] = asyncio.Queue()
        self._answer_s = answer_s
        self._is_offered = False
        self._offered_s = 0.0
        self._held: Offer | None = None
        self._held_until_s = 0.0
        self._client: _Identity | None = None
        self._reoffers = 0

    async def offer(self) -> dict[str, Any]:
        """Return an offer event; all candidates are inside."""
        self._held = None
        sdp = await self._link.offer()
        self._is_offered, self._offered_s = True, self._clock.now_s()
        return signalled("offer", sdp)

    def take(self, signal: Signal) -> None:
        """Queue a client's signal.

        Raises:
            InvalidMessage: too many wait.
        """
        if self._waiting.qsize() >= self._max_waiting:
            raise InvalidMessage(f"expected at most {self._max_waiting} waiting signals, found more")
        self._waiting.put_nowait(signal)

    def peer_changed(self, event: PeerChanged) -> None:
        """Take a change of the peer's state; a failed one is followed by a new offer."""
        if event.state == "connected":
            self._reoffers = 0
        elif event.state == "failed":
            self._waiting.put_nowait(_Failed(event.detail))

    async def step(self) -> list[dict[str, Any]]:
        """Wait for the next signal, act on it, and return what to tell the client.

        Raises:
            InvalidMessage: an answer to nothing.
            InvalidDescription: a description that cannot be used.
            InvalidCandidate: a candidate that cannot be parsed.
            IceFailed: the peer has failed too often.
        """
        match await self._next():
            case Answer(sdp):
                return await self._accept(sdp)
            case Offer() as offer:
                return await self._offered(offer)
            case Candidate(init):
                await self._link.add_candidate(init)
                return []
            case _Failed(detail):
                return await self._failed(detail)
        return await self._answer_held()

    async def _next(self) -> _Step:
        """Return the next signal; None when the patience with a held offer is over."""
        if self._held is None:
            return await self._waiting.get()
        signal = asyncio.ensure_future(self._waiting.get())
        patience = asyncio.ensure_future(self._clock.sleep_until(self._held_until_s))
        try:
            await asyncio.wait({signal, patience}, return_when=asyncio.FIRST_COMPLETED)
            return signal.result() if signal.done() else None
        finally:
            signal.cancel()
            patience.cancel()

    async def _accept(self, sdp: str) -> list[dict[str, Any]]:
        if not self._is_offered:
            raise InvalidMessage("expected an answer to an offer, found one while nothing is offered")
        await self._link.accept(sdp)
        self._is_offered = False
        self._held = None
        self._client = _Identity.of(sdp)
        return []

    async def _offered(self, offer: Offer) -> list[dict[str, Any]]:
        if self._is_offered:
            if self._held is None:
                self._held_until_s = self._clock.now_s() + GLARE_PATIENCE_S
            self._held = offer
            return []
        if self._client is not None and _Identity.of(offer.sdp).is_restart_of(self._client):
            return [await self._again("the client restarts ICE without ever connecting")]
        return await self._answer(offer)

    async def _answer_held(self) -> list[dict[str, Any]]:
        held, self._held = self._held, None
        return [] if held is None else await self._answer(held)

    async def _answer(self, offer: Offer) -> list[dict[str, Any]]:
        answer = await self._link.answer(offer.sdp)
        self._is_offered = False
        self._client = _Identity.of(offer.sdp)
        return [signalled("answer", answer)]

    async def _failed(self, detail: str) -> list[dict[str, Any]]:
        # Both sides see the same failure: the peer before may fail while a new one waits for its answer.
        is_of_before = self._is_offered and self._clock.now_s() < self._offered_s + self._answer_s * 0.9
        return [] if is_of_before else [await self._again(detail)]

    async def _again(self, detail: str) -> dict[str, Any]:
        if self._reoffers >= MAX_REOFFERS:
            raise IceFailed(
                f"{detail or 'no candidate pair worked'}; given up after {MAX_REOFFERS} offers more"
            )
        self._reoffers += 1
        self._client = None
        return await self.offer()
