"""Stand-ins for what is behind an interface: they record what they are asked and tell what tests say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from serve_app.errors import SessionNotFound
from serve_app.gateway.link import OpenUtterance, SessionFacts, Viewing
from serve_app.nouns import Int16
from serve_app.session.events import SessionClosed, SessionEvent
from serve_app.session.request import SessionRequest

OFFER = "v=0\r\no=- 2 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=sendonly\r\n"
ANSWER = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


@dataclass(frozen=True)
class Call:
    """One call of a fake; `args` are as given, sound as [S] int16."""

    name: str
    args: tuple[object, ...] = ()


@dataclass
class FakeUtterance:
    """What was spoken under one number: the pieces of sound, their rate, and whether it ended."""

    client_index: int
    hz: int = 0
    pieces: list[Int16] = field(default_factory=list)
    ended: bool = False

    @property
    def num_samples(self) -> int:
        return sum(len(piece) for piece in self.pieces)


class FakeSessionLink:
    """A SessionLink that records calls, in order, and yields the events a test emits, from any thread.

    Args:
        session_id: as in the interface.
        resume_token: as in the interface.
        resumed: as in the interface.
        open_utterance: as in the interface.

    Attributes:
        calls: everything asked of the session but speech and events.
        utterances: everything spoken.
        conversed: client events given to the conversation.
        viewers: ids of the viewers that watch.
        metadata: what `facts` tells.
        key_id: what `facts` tells.
        fail: what the next call of a name raises, once.
        hold: a call of a name waits until its event is set.
        detached: set when the socket let go.
        closed: set when the client ended the session.
    """

    def __init__(
        self,
        session_id: str = "session-1",
        resume_token: str = "token-1",
        *,
        resumed: bool = False,
        open_utterance: OpenUtterance | None = None,
    ) -> None:
        self.session_id = session_id
        self.resume_token = resume_token
        self.resumed = resumed
        self.open_utterance = open_utterance
        self.calls: list[Call] = []
        self.utterances: list[FakeUtterance] = []
        self.conversed: list[dict[str, object]] = []
        self.viewers: set[str] = set()
        self.metadata: dict[str, object] = {}
        self.key_id: str | None = None
        self.fail: dict[str, Exception] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.detached = threading.Event()
        self.closed = threading.Event()
        self._open: FakeUtterance | None = None
        if open_utterance is not None:
            self.begin(open_utterance.client_index)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: asyncio.Queue[SessionEvent | Exception | None] = asyncio.Queue()

    def names(self) -> list[str]:
        """Return the names of the calls so far."""
        return [call.name for call in self.calls]

    def emit(self, *events: SessionEvent | Exception | None) -> None:
        """Let `events()` yield, or raise, these; None ends it."""
        for event in events:
            if self._loop is None:
                self._events.put_nowait(event)
            else:
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def answer(self, offer_sdp: str) -> str:
        await self._called("answer", offer_sdp)
        return ANSWER

    async def add_candidate(self, candidate: dict[str, object] | None) -> None:
        await self._called("add_candidate", candidate)

    async def offer(self) -> str:
        await self._called("offer")
        return OFFER

    async def accept(self, answer_sdp: str) -> None:
        await self._called("accept", answer_sdp)

    async def view(self, offer_sdp: str) -> Viewing:
        await self._called("view", offer_sdp)
        viewer_id = f"viewer-{self.names().count('view')}"
        self.viewers.add(viewer_id)
        return Viewing(viewer_id, ANSWER)

    async def add_viewer_candidate(self, viewer_id: str, candidate: dict[str, object] | None) -> None:
        await self._called("add_viewer_candidate", viewer_id, candidate)
        if viewer_id not in self.viewers:
            raise SessionNotFound("no such viewer")

    async def end_view(self, viewer_id: str) -> bool:
        await self._called("end_view", viewer_id)
        known = viewer_id in self.viewers
        self.viewers.discard(viewer_id)
        return known

    def converse(self, event: dict[str, object]) -> None:
        self._raise("converse")
        self.conversed.append(event)

    async def facts(self) -> SessionFacts:
        await self._called("facts")
        return SessionFacts(
            session_id=self.session_id,
            avatar_id="default",
            model="portrait",
            key_id=self.key_id,
            speech_from="client",
            metadata=self.metadata,
            started_at=1_700_000_000.0,
            expires_at=1_700_014_400.0,
            ended_at=1_700_000_060.0 if self.closed.is_set() else None,
        )

    def begin(self, client_index: int) -> None:
        self.end()
        self._open = FakeUtterance(client_index)
        self.utterances.append(self._open)

    def feed(self, samples: Int16, hz: int) -> None:
        self._raise("feed")
        assert self._open is not None, "feed without begin"
        assert self._open.hz in (0, hz), "the rate changed within an utterance"
        self._open.hz = hz
        self._open.pieces.append(samples)

    def end(self) -> None:
        if self._open is not None:
            self._open.ended = True
        self._open = None

    async def interrupt(self) -> None:
        self._open = None
        await self._called("interrupt")

    async def events(self) -> AsyncIterator[SessionEvent]:
        self._loop = asyncio.get_running_loop()
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, SessionClosed):
                return

    async def detach(self) -> None:
        self.calls.append(Call("detach"))
        self.detached.set()
        self._raise("detach")

    async def close(self) -> None:
        await self._called("close")
        self.closed.set()

    async def _called(self, name: str, *args: object) -> None:
        self.calls.append(Call(name, args))
        if name in self.hold:
            await self.hold[name].wait()
        self._raise(name)

    def _raise(self, name: str) -> None:
        error = self.fail.pop(name, None)
        if error is not None:
            raise error


class FakeSessionOpener:
    """A SessionOpener that hands out prepared links.

    Args:
        *links: given to `open`, in order; the last one again and again.

    Attributes:
        resumable: links by session id, for `resume` and `attach`.
        calls: what was asked.
        fail: what `open` raises.
    """

    def __init__(self, *links: FakeSessionLink) -> None:
        self._links = list(links) or [FakeSessionLink()]
        self.resumable: dict[str, FakeSessionLink] = {}
        self.calls: list[Call] = []
        self.fail: Exception | None = None

    @property
    def link(self) -> FakeSessionLink:
        """The link that the next `open` gives."""
        return self._links[0]

    async def open(self, request: SessionRequest) -> FakeSessionLink:
        self.calls.append(Call("open", (request,)))
        if self.fail is not None:
            raise self.fail
        return self._links.pop(0) if len(self._links) > 1 else self._links[0]

    async def resume(self, session_id: str, resume_token: str) -> FakeSessionLink:
        self.calls.append(Call("resume", (session_id, resume_token)))
        link = self.resumable.get(session_id)
        if link is None or link.resume_token != resume_token:
            raise SessionNotFound("no such session; it has ended or never was")
        return link

    async def attach(self, session_id: str, *, take_over: bool) -> FakeSessionLink:
        self.calls.append(Call("attach", (session_id, take_over)))
        if session_id not in self.resumable:
            raise SessionNotFound("no such session; it has ended or never was")
        return self.resumable[session_id]

    async def facts(self, session_id: str) -> SessionFacts:
        self.calls.append(Call("facts", (session_id,)))
        if session_id not in self.resumable:
            raise SessionNotFound("no such session; it has ended or never was")
        return await self.resumable[session_id].facts()
