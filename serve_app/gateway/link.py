"""A running session as a door sees it. Doors know this and nothing of Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from serve_app.nouns import Int16
from serve_app.session.events import SessionEvent
from serve_app.session.facts import SessionFacts, Viewing
from serve_app.session.request import SessionRequest

__all__ = ["OpenUtterance", "SessionFacts", "SessionLink", "SessionOpener", "Viewing"]


@dataclass(frozen=True, slots=True)
class OpenUtterance:
    """An utterance that another socket began and has not ended; the next `feed` continues it."""

    client_index: int


class SessionLink(Protocol):
    """One session, wherever it is hosted.

    Attributes:
        session_id: opaque; names the session in every message. "sess_" and a part without "_".
        resume_token: secret that lets another socket take the session over.
        resumed: whether this link took over a running session.
        open_utterance: what a previous socket began and did not end, or None.
    """

    session_id: str
    resume_token: str
    resumed: bool
    open_utterance: OpenUtterance | None

    async def answer(self, offer_sdp: str) -> str:
        """Return the SDP answer to a client's offer; a second offer replaces the peer.

        A session with a conversation also hears the offer's audio line and takes its data channel, and needs
        no video line.

        Raises:
            InvalidDescription: the offer cannot be parsed or offers no video line.
        """
        ...

    async def offer(self) -> str:
        """Return an SDP offer of sound and picture, all candidates inside; the peer before is replaced."""
        ...

    async def accept(self, answer_sdp: str) -> None:
        """Take the client's answer to the last `offer`.

        Raises:
            InvalidDescription: it cannot be parsed, does not fit the offer, or nothing was offered.
        """
        ...

    async def view(self, offer_sdp: str) -> Viewing:
        """Answer the offer of one more viewer, who sees and hears and does nothing else.

        Raises:
            InvalidDescription: the offer cannot be parsed or offers no video line.
            AdmissionRefused: the session has as many viewers as it may have.
        """
        ...

    async def add_viewer_candidate(self, viewer_id: str, candidate: dict[str, object] | None) -> None:
        """Give a viewer's remote ICE candidate.

        Raises:
            SessionNotFound: no such viewer.
            InvalidCandidate: it cannot be parsed.
        """
        ...

    async def end_view(self, viewer_id: str) -> bool:
        """End a viewer's connection; return whether there was one."""
        ...

    async def add_candidate(self, candidate: dict[str, object] | None) -> None:
        """Give a remote ICE candidate (W3C RTCIceCandidateInit); early ones are kept. None ends them.

        Raises:
            InvalidCandidate: it cannot be parsed.
        """
        ...

    def begin(self, client_index: int) -> None:
        """Open an utterance; it queues behind the ones before it. An open one is ended first."""
        ...

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech ([S] int16 mono at `hz`) to the open utterance. `hz` stays the same within one.

        Raises:
            SpeechOverrun: the session holds too much unplayed speech; nothing of `samples` was taken.
        """
        ...

    def end(self) -> None:
        """End the open utterance; does nothing when none is open."""
        ...

    async def interrupt(self) -> None:
        """Drop everything that is queued or playing, and return when the host fell silent."""
        ...

    def converse(self, event: dict[str, object]) -> None:
        """Give the conversation a client event of its dialect, in order; answers come among `events`.

        Raises:
            SpeechOverrun: events come faster than the session's host takes them; this one was not taken.
        """
        ...

    async def facts(self) -> SessionFacts:
        """Return what can be told of the session."""
        ...

    def events(self) -> AsyncIterator[SessionEvent]:
        """Yield the session's events from now on (after a resume: from the last one delivered)."""
        ...

    async def detach(self) -> None:
        """The socket is gone: keep the session for its grace time."""
        ...

    async def close(self) -> None:
        """End the session now."""
        ...


class SessionOpener(Protocol):
    """Admits new sessions and finds running ones."""

    async def open(self, request: SessionRequest) -> SessionLink:
        """Admit a session.

        Raises:
            AdmissionRefused: no room; carries when to retry.
            ConcurrencyExceeded: the key's sessions are all running.
            QuotaExceeded: the key's minutes are used up.
            AvatarInvalid: no such avatar.
            ModelNotLoaded: no such model.
            AgentFailed: the conversation's agent cannot work.
            RoomFailed: the room cannot be joined.
        """
        ...

    async def resume(self, session_id: str, resume_token: str) -> SessionLink:
        """Take over a running session.

        Raises:
            SessionNotFound: it ended, never was, or the token does not match.
        """
        ...

    async def attach(self, session_id: str, *, take_over: bool) -> SessionLink:
        """Find a running session for a caller whose right to it the door has checked.

        Args:
            session_id: which session.
            take_over: whether this link speaks and keeps the session alive from now on, in place of the one
                before; otherwise it listens beside it, may converse, and does not speak.

        Raises:
            SessionNotFound: it ended or never was.
        """
        ...

    async def facts(self, session_id: str) -> SessionFacts:
        """Return what can be told of a session that runs, or ended a short while ago.

        Raises:
            SessionNotFound: it never was, or ended long ago.
        """
        ...
