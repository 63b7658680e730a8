"""Sessions on Ray, as doors see them: admission through the registry, everything else with the host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast
from weakref import WeakValueDictionary

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from serve_app.animator.client import AnimatorClient
from serve_app.clock import Clock
from serve_app.config import AppConfig
from serve_app.errors import (
    AdmissionRefused,
    AvatarError,
    ConcurrencyExceeded,
    HostLost,
    QuotaExceeded,
    SessionNotFound,
)
from serve_app.gateway.conversation_lane import ConversationLane
from serve_app.gateway.host_calls import HostCalls
from serve_app.gateway.link import OpenUtterance, SessionFacts, Viewing
from serve_app.metrics import RefusalMetrics
from serve_app.nouns import Int16
from serve_app.session.admission import Place
from serve_app.session.events import SessionClosed, SessionEvent
from serve_app.session.opened import Opened
from serve_app.session.registry import NAMESPACE, SessionRegistry, host_name, host_of, registry_name
from serve_app.session.request import SessionRequest
from serve_app.session.usage import KeyLimits
from serve_app.speech.dispatcher import Dispatcher, Route
from serve_app.speech.source import SpeechSource

logger = logging.getLogger("serve_app.gateway")

KEEP_S = 5.0
ROLLED_OUT_S = 0.5

OPENINGS = 3
"""Hosts to try a session on: one that died a moment ago is still among them."""


class RemoteSession:
    """One session in its host; implements SessionLink.

    Args:
        opened: what the host answered.
        resumed: whether the session ran before.
        host: the way to its host.
        sessions: the gateway's sessions.
        route: where speech goes; None for a link that follows a session and does not own it.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        resumed: bool,
        host: HostCalls,
        sessions: RaySessions,
        route: Route | None,
    ) -> None:
        self.session_id = opened.session_id
        self.resume_token = opened.resume_token
        self.resumed = resumed
        self.open_utterance: OpenUtterance | None = None
        self._host = host
        self._sessions = sessions
        self._next_event = opened.next_event
        self._owner = opened.owner if route is not None else None
        self._lane: ConversationLane | None = None
        self._source = SpeechSource(
            opened.session_id,
            opened.avatar_id,
            opened.grid,
            sessions.config.speech,
            generation=opened.generation,
            next_utterance=opened.next_utterance,
        )
        if route is None:
            return
        if opened.open_utterance is not None:
            number, client_index, received = opened.open_utterance
            self._source.go_on(number, client_index, received)
            self.open_utterance = OpenUtterance(client_index)
        sessions.dispatcher.attach(self._source, route)

    async def answer(self, offer_sdp: str) -> str:
        """Return the SDP answer to an offer."""
        return cast("str", await self._host.do("answer", self.session_id, offer_sdp))

    async def offer(self) -> str:
        """Return an SDP offer of sound and picture."""
        return cast("str", await self._host.do("offer", self.session_id))

    async def accept(self, answer_sdp: str) -> None:
        """Take the answer to the last offer."""
        await self._host.do("accept", self.session_id, answer_sdp)

    async def add_candidate(self, candidate: dict[str, object] | None) -> None:
        """Give a remote ICE candidate."""
        await self._host.do("add_candidate", self.session_id, candidate)

    async def view(self, offer_sdp: str) -> Viewing:
        """Answer the offer of one more viewer."""
        return cast("Viewing", await self._host.do("view", self.session_id, offer_sdp))

    async def add_viewer_candidate(self, viewer_id: str, candidate: dict[str, object] | None) -> None:
        """Give a viewer's remote ICE candidate."""
        await self._host.do("add_viewer_candidate", self.session_id, viewer_id, candidate)

    async def end_view(self, viewer_id: str) -> bool:
        """End a viewer's connection; return whether there was one."""
        return cast("bool", await self._host.do("end_view", self.session_id, viewer_id))

    def begin(self, client_index: int) -> None:
        """Open an utterance."""
        self._source.begin(client_index)

    def feed(self, samples: Int16, hz: int) -> None:
        """Add speech to the open utterance."""
        self._source.feed(samples, hz)
        self._sessions.dispatcher.kick()

    def end(self) -> None:
        """End the open utterance."""
        self._source.end()
        self._sessions.dispatcher.kick()

    async def interrupt(self) -> None:
        """Drop what is queued here and silence the host."""
        self._source.interrupt()
        generation = cast("int", await self._host.do("interrupt", self.session_id))
        if generation != self._source.generation:
            logger.warning(
                "session %s: expected generation %d, its host is at %d",
                self.session_id,
                self._source.generation,
                generation,
            )

    def converse(self, event: dict[str, object]) -> None:
        """Give the conversation a client event."""
        if self._lane is None:
            self._lane = ConversationLane(self.session_id, self._host)
        self._lane.put(event)

    async def facts(self) -> SessionFacts:
        """Return what can be told of the session."""
        return cast("SessionFacts", await self._host.ask("facts", self.session_id))

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Yield the session's events until it closes or another socket takes it over."""
        while True:
            try:
                answer = await self._news()
            except (HostLost, SessionNotFound):
                yield SessionClosed("host_lost")
                return
            if answer is None:
                return
            self._next_event, events = answer
            for event in events:
                yield event
                if isinstance(event, SessionClosed):
                    return

    async def detach(self) -> None:
        """Stop renewing the lease; accepted sound still leaves, and the host cuts the windows of it."""
        if self._owner is not None:
            self._sessions.let_go(self._source)

    async def close(self) -> None:
        """End the session now."""
        if self._owner is not None:
            self._sessions.dispatcher.detach(self._source)
        await self._sessions.close(self.session_id, self._host)

    async def _news(self) -> tuple[int, list[SessionEvent]] | None:
        session_id, start = self.session_id, self._next_event
        call = (
            self._host.ask("follow", session_id, start)
            if self._owner is None
            else self._host.ask("events", session_id, start, self._owner)
        )
        return cast("tuple[int, list[SessionEvent]] | None", await call)


class RaySessions:
    """Admits sessions and finds running ones; one for each gateway process. Implements SessionOpener.

    Args:
        config: the whole configuration.
        app_name: Serve application.
        animators: a client for each model.
        clock: the time.
    """

    def __init__(
        self, config: AppConfig, app_name: str, animators: dict[str, AnimatorClient], clock: Clock
    ) -> None:
        self.config = config
        self.dispatcher = Dispatcher(config.speech, clock)
        self._app_name = app_name
        self._animators = animators
        self._metrics = RefusalMetrics("registry_lost", "host_lost")
        self._registry_actor: ActorHandle[Any] | None = None
        self._config_number: int | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._hosts: WeakValueDictionary[str, HostCalls] = WeakValueDictionary()

    async def start(self) -> None:
        """Find or make the registry and let it fill the pool of hosts."""
        self._registry_actor = (
            ray.remote(SessionRegistry)
            .options(
                name=registry_name(self._app_name),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0.01,
                max_restarts=-1,
                max_task_retries=2,
                max_concurrency=1000,
            )
            .remote(self.config, self._app_name)
        )
        self._config_number = await self.registry.configure.remote(self.config, self._config_number)

    async def rolled_out(self) -> None:
        """Return when sessions are opened with this gateway's configuration.

        In a redeploy the gateways before serve until then, with their hosts.
        """
        while not await self.registry.is_rolled_out.remote():  # noqa: ASYNC110 - the state of another process
            await asyncio.sleep(ROLLED_OUT_S)

    async def keep_pool(self) -> None:
        """Tell the registry that a gateway lives, and replace it when it is gone; runs until cancelled."""
        while True:
            await asyncio.sleep(KEEP_S)
            try:
                self._config_number = await self.registry.configure.remote(self.config, self._config_number)
            except RayError as error:
                logger.warning("the session registry is gone (%s) and is made again", type(error).__name__)
                await self.start()

    async def ready_hosts(self) -> int:
        """Return how many hosts can take sessions."""
        return cast("int", await self.registry.ready_hosts.remote())

    async def open(self, request: SessionRequest) -> RemoteSession:
        """Admit a session and open it on the host with the most room, or on another when that one is lost."""
        for _ in range(OPENINGS):
            place = await self._admit(request)
            try:
                return await self._open_at(place, request)
            except HostLost as error:
                logger.warning("host %s was lost before a session opened on it", place.tag)
                lost = error
                with contextlib.suppress(RayError):
                    await self.registry.host_lost.remote(place.tag)
        self._metrics.refused("host_lost")
        raise AdmissionRefused("the session hosts restart", self.config.session.retry_after_s) from lost

    async def _admit(self, request: SessionRequest) -> Place:
        try:
            limits = KeyLimits.of(self.config.auth, request.key_id)
            place = cast("Place", await self.registry.admit.remote(limits, self._model_of(request)))
        except RayError as error:
            self._metrics.refused("registry_lost")
            raise AdmissionRefused(
                "the session registry restarts", self.config.session.retry_after_s
            ) from error
        if place.tag is None:
            raise _refusal(place)
        return place

    def _model_of(self, request: SessionRequest) -> str | None:
        """Return the model to ask for room: one that measured what it can make."""
        model = request.model or self.config.model
        mine = self.config.animators.get(model)
        return model if mine is not None and mine.sessions_per_replica is None else None

    async def _open_at(self, place: Place, request: SessionRequest) -> RemoteSession:
        session_id: str | None = None
        try:
            host = self._host(host_name(str(place.tag)))
            opened = cast("Opened", await host.do("open", _within(request, place)))
            session_id = opened.session_id
        finally:
            self.registry.admitted.remote(place.reservation, session_id)
        return self._remote(opened, host, resumed=False)

    async def resume(self, session_id: str, resume_token: str) -> RemoteSession:
        """Take over a running session, wherever its host is."""
        try:
            host = self._host(host_of(session_id))
            opened = cast("Opened", await host.do("resume", session_id, resume_token))
        except HostLost as error:
            raise SessionNotFound("no such session; it has ended or never was") from error
        return self._remote(opened, host, resumed=True)

    async def attach(self, session_id: str, *, take_over: bool) -> RemoteSession:
        """Find a running session, to follow it or to take it over."""
        try:
            host = self._host(host_of(session_id))
            opened = cast("Opened", await host.do("attach", session_id, take_over))
        except HostLost as error:
            raise SessionNotFound("no such session; it has ended or never was") from error
        return self._remote(opened, host, resumed=True, owns=take_over)

    async def facts(self, session_id: str) -> SessionFacts:
        """Return what can be told of a session."""
        try:
            return cast("SessionFacts", await self._host(host_of(session_id)).ask("facts", session_id))
        except HostLost as error:
            raise SessionNotFound("no such session; it has ended or never was") from error

    async def close(self, session_id: str, host: HostCalls) -> None:
        """End a session and give its room back."""
        try:
            await host.ask("close_session", session_id, "client")
        except AvatarError as error:
            logger.info("session %s was gone before it was closed: %s", session_id, error)
        self.registry.released.remote(session_id)

    def let_go(self, source: SpeechSource) -> None:
        """Keep dispatching what a detached source still holds, then forget it."""
        task = asyncio.create_task(self._drain(source))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _drain(self, source: SpeechSource) -> None:
        while source.has_sound:
            await self.dispatcher.a_tick()
        self.dispatcher.detach(source)

    def _remote(self, opened: Opened, host: HostCalls, *, resumed: bool, owns: bool = True) -> RemoteSession:
        route = self._route(opened, host) if owns else None
        return RemoteSession(opened, resumed=resumed, host=host, sessions=self, route=route)

    def _route(self, opened: Opened, host: HostCalls) -> Route:
        key = opened.model, host_of(opened.session_id)
        return Route(key, self._animators[opened.model].submit, host.deliver, host.renew)

    def _host(self, name: str) -> HostCalls:
        """Return the way to the host of an actor's name, which all its sessions here share.

        Raises:
            HostLost: there is no such actor.
        """
        host = self._hosts.get(name)
        if host is None:
            try:
                host = self._hosts[name] = HostCalls(ray.get_actor(name, NAMESPACE))
            except ValueError as error:
                raise HostLost("no actor of that name") from error
        return host

    @property
    def registry(self) -> ActorHandle[Any]:
        """The registry's handle, another after a restart of it."""
        assert self._registry_actor is not None, "start() has not been awaited"
        return self._registry_actor


def _refusal(place: Place) -> AvatarError:
    if place.refusal == "quota":
        return QuotaExceeded(place.detail)
    refused = ConcurrencyExceeded if place.refusal == "concurrency" else AdmissionRefused
    return refused(place.detail, place.retry_after_s)


def _within(request: SessionRequest, place: Place) -> SessionRequest:
    """Return the request with the shorter of its own duration and the one its key allows."""
    durations_s = [s for s in (request.max_duration_s, place.max_duration_s) if s is not None]
    shortest_s = min(durations_s, default=None)
    ends_minutes = place.ends_minutes and shortest_s == place.max_duration_s
    return replace(request, max_duration_s=shortest_s, ends_minutes=ends_minutes)
