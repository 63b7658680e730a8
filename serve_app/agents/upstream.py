"""The agent that speaks through an OpenAI-compatible Realtime server (GA).

The upstream is a model, not a conversation partner of its own: this server hears the turns, keeps the items
and knows what was played. So the upstream runs without turn detection and makes a response when it is asked
to, and before each one its conversation is brought up to ours. When its connection is lost, the next turn
makes a new one and tells it the conversation again, as text.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from serve_app.agents.base import AGENT_HZ, Heard, Output, Request, ToolCall, TranscriptDelta
from serve_app.agents.mirror import Mirror
from serve_app.agents.turn_stream import TurnStream
from serve_app.agents.upstream_link import UpstreamLink, connect
from serve_app.agents.upstream_response import Made, UpstreamResponse
from serve_app.agents.upstream_settings import UpstreamSettings, response_create
from serve_app.config import AgentsConfig
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16

Event = dict[str, Any]

TRANSCRIPT_TIMEOUT_S = 10.0
CANCEL_TIMEOUT_S = 5.0
MAX_TRANSCRIPTS = 200

_BENIGN = frozenset({"response_cancel_not_active", "input_audio_buffer_commit_empty"})

_log = logging.getLogger(__name__)


class RealtimeAgent:
    """One conversation's upstream.

    Args:
        config: names the upstream and the longest turn and response.
        environ: holds its key and address, see `upstream_link.connect`; os.environ when None.
    """

    def __init__(self, config: AgentsConfig, environ: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environ = environ
        self._link: UpstreamLink | None = None
        self._gone: UpstreamLink | None = None
        self._ready: asyncio.Future[None] | None = None
        self._readable: Callable[[object], str] = str
        self._is_closed = False
        self._asking = asyncio.Lock()
        self._event_ids = (f"event_{number}" for number in itertools.count(1))
        self._stream = TurnStream(config.max_turn_s)
        self._mirror = Mirror()
        self._settings = UpstreamSettings()
        self._responses: list[UpstreamResponse] = []
        self._commits: dict[str, str] = {}
        self._transcripts: dict[str, asyncio.Future[str | None]] = {}

    async def open(self) -> None:
        """Connect.

        Raises:
            AgentFailed: no client, no key, no upstream, or it refuses; says which.
        """
        await self._connected()

    def hear(self, samples: Int16) -> None:
        """Send the user's sound on while it comes, as far as the connection keeps up."""
        if self._link is not None:
            for event in self._stream.hear(samples):
                if not self._link.offer(event):
                    self._stream.lose()

    def forget_heard(self) -> None:
        """Take the sound since the last turn back."""
        for event in self._stream.forget():
            self._send(event)

    async def transcribe(self, heard: Heard) -> str | None:
        """Return the upstream's transcript of a turn; None when there is none within its time limit.

        Raises:
            AgentFailed: the upstream cannot be reached.
        """
        async with self._asking:
            await self._connected()
            if heard.item_id not in self._transcripts:
                for event in self._commit(heard):
                    self._send(event)
        try:
            async with asyncio.timeout(TRANSCRIPT_TIMEOUT_S):
                return await asyncio.shield(self._transcripts[heard.item_id])
        except TimeoutError:
            return None

    async def respond(self, request: Request) -> AsyncGenerator[Output, None]:
        """Yield the upstream's answer, as it comes.

        Raises:
            AgentFailed: the upstream cannot be reached, refused, failed, or was lost on the way.
        """
        async with self._asking:
            response = await self._ask(request)
        try:
            async with aclosing(response.outputs()) as outputs:
                async for made in outputs:
                    self._note(made, response)
                    yield made.output
        finally:
            self._leave(response)
            if response.is_stuck:
                await self._give_up("it says nothing more")

    async def heard_until(self, item_id: str, played_s: float) -> None:
        """Make the upstream forget what was not heard of an answer."""
        answer = self._mirror.answer_of(item_id)
        if answer is not None and answer.samples:
            self._send(answer.truncation(played_s))

    async def close(self) -> None:
        """Leave the upstream."""
        self._is_closed = True
        await self._give_up("the conversation ended")

    async def _connected(self) -> None:
        """Return with a connection that is ready for turns.

        Raises:
            AgentFailed: there is none to be had.
        """
        self._check_open()
        if self._link is not None:
            return
        await self._hang_up()
        self._stream, self._mirror = TurnStream(self._config.max_turn_s), Mirror()
        self._settings = UpstreamSettings()
        self._commits.clear()
        ready = self._ready = asyncio.get_running_loop().create_future()
        link = await connect(self._config.upstream, self._take, self._on_lost, self._environ)
        self._readable = link.readable
        link.send(self._settings.first())
        limit_s = self._config.upstream.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await ready
            self._check_open()
            if link.is_lost:
                raise AgentFailed("realtime upstream: expected a session, but it was lost at once")
        except TimeoutError:
            await link.close()
            raise AgentFailed(
                f"realtime upstream: expected session.updated within {limit_s:g} s, got none"
            ) from None
        except BaseException:
            await link.close()
            raise
        self._link = link

    def _check_open(self) -> None:
        if self._is_closed:
            raise AgentFailed("realtime upstream: expected an open conversation, got one that ended")

    async def _give_up(self, reason: str) -> None:
        self._end_all(reason)
        await self._hang_up()

    async def _hang_up(self) -> None:
        for link in (self._link, self._gone):
            if link is not None:
                await link.close()
        self._link = self._gone = None

    def _on_lost(self, reason: str) -> None:
        self._gone, self._link = self._link, None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(AgentFailed(f"realtime upstream: expected a session, but {reason}"))
        self._end_all(f"{reason}; the next turn connects again")

    def _end_all(self, reason: str) -> None:
        """Let whoever waits for the upstream know that nothing more comes."""
        for response in self._running():
            response.fail_for_good(reason)
        for item_id in self._transcripts:
            self._transcribed(item_id, None)

    def _send(self, event: Event) -> str:
        """Send an event, or nothing where there is no connection; return its id."""
        event = {"event_id": next(self._event_ids)} | event
        if self._link is not None:
            self._link.send(event)
        return str(event["event_id"])

    def _running(self) -> list[UpstreamResponse]:
        """Return the responses that the upstream may still be at, in the order they were asked for."""
        self._responses = [response for response in self._responses if not response.finished.is_set()]
        return self._responses

    async def _ask(self, request: Request) -> UpstreamResponse:
        """Bring the upstream's conversation up to the request and ask for a response."""
        if not request.aside:
            await self._settled()
        await self._connected()
        response = UpstreamResponse(round(self._config.max_response_s * AGENT_HZ), is_aside=request.aside)
        self._responses.append(response)
        events = [] if request.aside else self._settings.update(request)
        if not request.own_input:
            events += self._items_update(request)
        own = self._mirror.inputs(request) if request.aside or request.own_input else None
        events.append(response_create(request, own))
        response.event_ids = [self._send(event) for event in events]
        return response

    async def _settled(self) -> None:
        """Return when no response that joins the conversation runs: an upstream refuses a second one."""
        for response in [response for response in self._running() if not response.is_aside]:
            self._leave(response)
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await response.finished.wait()
            except TimeoutError:
                await self._give_up("it did not stop when it was told to")

    def _items_update(self, request: Request) -> list[Event]:
        heard = request.heard
        return self._mirror.update(
            request.items,
            None if heard is None else heard.item_id,
            lambda: [] if heard is None else self._commit(heard),
            self._transcript_of,
        )

    def _commit(self, heard: Heard) -> list[Event]:
        """Return what makes a turn an item of the upstream's."""
        *sound, commit = self._stream.commit(heard.samples)
        event_id = next(self._event_ids)
        self._commits[event_id] = heard.item_id
        self._mirror.committing(heard.item_id)
        self._transcripts[heard.item_id] = asyncio.get_running_loop().create_future()
        while len(self._transcripts) > MAX_TRANSCRIPTS:
            oldest = next(iter(self._transcripts))
            self._transcribed(oldest, None)
            del self._transcripts[oldest]
        return [*sound, commit | {"event_id": event_id}]

    def _transcript_of(self, item_id: str) -> str | None:
        known = self._transcripts.get(item_id)
        return known.result() if known is not None and known.done() else None

    def _transcribed(self, item_id: str | None, words: str | None) -> None:
        transcript = self._transcripts.get(item_id or "")
        if transcript is not None and not transcript.done():
            transcript.set_result(words)

    def _note(self, made: Made, response: UpstreamResponse) -> None:
        """Note what is passed on: it becomes items of our conversation."""
        if not response.is_aside:
            if isinstance(made.output, ToolCall):
                self._mirror.called(made.output.call_id, made.item_id)
            if made.answer is not None and made.item_id not in response.passed:
                self._mirror.answered(made.answer)
            if made.answer is not None and isinstance(made.output, TranscriptDelta):
                made.answer.text += made.output.text
        response.passed.add(made.item_id)

    def _leave(self, response: UpstreamResponse) -> None:
        """Make sure that nothing more of a response is made."""
        if not response.finished.is_set() and not response.is_abandoned:
            response.is_abandoned = True
            self._cancel(response)

    def _cancel(self, response: UpstreamResponse) -> None:
        if response.id is not None:  # or else when it has begun
            response.cancel_id = self._send({"type": "response.cancel", "response_id": response.id})

    def _take(self, event: Event) -> None:
        """Take an event of the upstream's."""
        kind = event["type"]
        if kind == "error":
            self._take_error(event["error"])
        elif kind == "session.updated":
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
        elif kind == "input_audio_buffer.committed":
            ours = self._mirror.committed(str(event["item_id"]))
            self._commits = {event_id: item for event_id, item in self._commits.items() if item != ours}
        elif kind == "conversation.item.input_audio_transcription.completed":
            self._transcribed(self._mirror.item_of(event["item_id"]), str(event["transcript"]))
        elif kind == "conversation.item.input_audio_transcription.failed":
            self._transcribed(self._mirror.item_of(event["item_id"]), None)
        elif kind.startswith("response."):
            self._take_response(event)

    def _take_response(self, event: Event) -> None:
        kind = event["type"]
        if kind == "response.created":
            response = self._running_as(None)  # they begin in the order they were asked for
            if response is not None:
                response.id = str(event["response"]["id"])
                if response.is_abandoned:
                    self._cancel(response)
            return
        is_done = kind == "response.done"
        response = self._running_as(event["response"]["id"] if is_done else event["response_id"])
        if response is not None and is_done:
            self._take_done(event["response"], response)
        elif response is not None:
            response.take(event)
            self._settings.is_voice_fixed |= response.has_sound

    def _running_as(self, response_id: str | None) -> UpstreamResponse | None:
        return next((response for response in self._running() if response.id == response_id), None)

    def _take_done(self, done: dict[str, Any], response: UpstreamResponse) -> None:
        if not response.is_aside and response.is_abandoned:
            # What nobody got to hear is no part of our conversation.
            for item in done.get("output") or ():
                if item["id"] not in response.passed:
                    self._send({"type": "conversation.item.delete", "item_id": item["id"]})
        details = done.get("status_details") or {}
        error = details.get("error") or {}
        response.end(done, self._readable(error.get("message") or error.get("code") or ""))

    def _take_error(self, error: dict[str, Any]) -> None:
        code, about = error.get("code"), error.get("event_id")
        said = self._readable(error.get("message") or code or "an error without words")
        if about in self._commits:
            self._mirror.commit_refused()
            self._transcribed(self._commits.pop(about), None)
        if code in _BENIGN:
            for running in self._running():
                if running.cancel_id is not None and running.cancel_id == about:
                    running.finished.set()
            return
        response = self._running_from(about)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(AgentFailed(f"realtime upstream: expected a session, got: {said}"))
        elif response is not None:
            self._settings.forget()
            if about in (None, response.event_ids[-1]):
                response.fail_for_good(f"expected an answer, got: {said}")
            else:
                response.fail(f"expected an answer, got: {said}")
        else:
            _log.info("realtime upstream refused an event: %s", self._readable(code))

    def _running_from(self, event_id: object) -> UpstreamResponse | None:
        """Return the response that is made from a client event; not all upstreams say which they refuse."""
        if event_id is None:
            return self._running_as(None)
        return next((response for response in self._running() if event_id in response.event_ids), None)
