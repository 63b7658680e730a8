"""Sends what sessions have due: one Animator call and one delivery for each pair of model and host in a tick.

Knows neither Ray nor sockets: a `Route` submits windows and delivers them. Sessions that are well ahead wait
for the common tick; an utterance's first window goes at once, and a session about to run dry goes within
`urgent_tick_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.clock import Clock
from serve_app.config import SpeechConfig
from serve_app.errors import AvatarError, HostLost, ReplicaLost
from serve_app.nouns import Credit, Sound, Window, WindowBatch
from serve_app.speech.source import SpeechSource

logger = logging.getLogger("serve_app.dispatcher")

EPSILON_S = 1e-6
"""A timer that fires on a tick must be seen as on it, whatever the rounding of its time."""

PASS_S = 0.04
"""Sound that waits this long for its windows to be taken by a replica is sent ahead of them."""


@dataclass(slots=True)
class _Lane:
    """What is on its way over equal routes: windows take turns, and sound may overtake them."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    sounds: list[Sound] = field(default_factory=list)

    def take_sounds(self) -> list[Sound]:
        sounds, self.sounds = self.sounds, []
        return sounds


Deliver = Callable[[Sequence[Sound], Sequence[Window], Sequence[Any]], Awaitable[list[Credit]]]
"""Hands sound, windows and the reference of their clips to the host; raises HostLost when that is gone.

The reference, if there is one, travels inside a list, so that Ray does not wait for the clips. A call to
another process is on its way when this returns, and the host takes calls in the order they were made.
"""

CreditsOf = Callable[[Sequence[str]], Awaitable[list[Credit]]]


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one model and one host.

    Attributes:
        key: equal for routes that may share a call.
        submit: starts animating; returns a reference to the clips before they exist. Raises ReplicaLost when
            no replica took the call.
        deliver: as there.
        renew: keeps sessions alive and returns their credit. Raises HostLost when the host is gone.
    """

    key: Hashable
    submit: Callable[[WindowBatch], Awaitable[Any]]
    deliver: Deliver
    renew: CreditsOf


class Dispatcher:
    """The beat of one process: gathers what its sessions have due and sends it.

    Args:
        config: tick lengths.
        clock: the time.
        renew_s: how often leases are renewed.
    """

    def __init__(self, config: SpeechConfig, clock: Clock, renew_s: float = 1.0) -> None:
        self._config = config
        self._clock = clock
        self._renew_s = renew_s
        self._routes: dict[SpeechSource, Route] = {}
        self._wake = asyncio.Event()
        self._sends: set[asyncio.Task[None]] = set()
        self._lanes: defaultdict[Hashable, _Lane] = defaultdict(_Lane)
        self._last_send_s = 0.0

    def attach(self, source: SpeechSource, route: Route) -> None:
        """Send what `source` has due over `route` from now on."""
        self._routes[source] = route

    def detach(self, source: SpeechSource) -> None:
        """Send nothing more of `source`."""
        self._routes.pop(source, None)

    def kick(self) -> None:
        """Look at once whether something is due; call it after feeding a source."""
        self._wake.set()

    async def a_tick(self) -> None:
        """Return after a tick, when what waited has been sent."""
        await self._clock.sleep_until(self._clock.now_s() + self._config.tick_s)

    async def run(self) -> None:
        """Run until cancelled."""
        beat = asyncio.create_task(self._renew_leases())
        try:
            while True:
                has_more = sum(source.advance() for source in self._routes) > 0
                self._send_due()
                await (asyncio.sleep(0) if has_more else self._wait())
        finally:
            beat.cancel()
            for task in self._sends:
                task.cancel()

    async def _wait(self) -> None:
        """Sleep until a kick, the next urgent moment or the next tick, whichever comes first."""
        if not any(source.has_work for source in self._routes):
            self._wake.clear()
            await self._wake.wait()
            return
        now_s = self._clock.now_s()
        next_s = (self._tick_of(now_s) + 1) * self._config.tick_s
        if any(source.is_urgent(now_s) for source in self._routes):
            next_s = min(next_s, max(now_s, self._last_send_s + self._config.urgent_tick_s))
        self._wake.clear()
        sleep = asyncio.ensure_future(self._clock.sleep_until(next_s))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wake.cancel()

    def _send_due(self) -> None:
        now_s = self._clock.now_s()
        on_tick = self._tick_of(now_s) > self._tick_of(self._last_send_s)
        urgent_allowed = now_s - self._last_send_s >= self._config.urgent_tick_s - EPSILON_S
        due: dict[Hashable, list[SpeechSource]] = defaultdict(list)
        for source, route in self._routes.items():
            if not source.has_work:
                continue
            if on_tick or source.is_first() or (urgent_allowed and source.is_urgent(now_s)):
                due[route.key].append(source)
        if due:
            self._last_send_s = now_s
        for sources in due.values():
            self._send(sources, now_s)

    def _tick_of(self, now_s: float) -> int:
        return int(now_s / self._config.tick_s + EPSILON_S)

    def _send(self, sources: list[SpeechSource], now_s: float) -> None:
        sounds: list[Sound] = []
        windows: list[Window] = []
        for source in sources:
            window = source.take_window(now_s)
            sounds += source.take_sounds()
            if window is not None:
                windows.append(window)
        if sounds or windows:
            route = self._routes[sources[0]]
            self._lanes[route.key].sounds += sounds
            task = asyncio.create_task(self._carry(route, windows))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def _carry(self, route: Route, windows: list[Window]) -> None:
        lane = self._lanes[route.key]
        credits_: list[Credit] = []
        try:
            async with lane.turn:
                clips = await self._submit_in_turn(route, lane, windows) if windows else []
                sounds = lane.take_sounds()
                if not sounds and not windows:
                    return
                answer = route.deliver(sounds, windows, clips)
            credits_ = await answer
        except HostLost as error:
            logger.warning("delivery failed: %s", error)
        finally:
            self._landed(windows, credits_)

    async def _submit_in_turn(self, route: Route, lane: _Lane, windows: list[Window]) -> list[Any]:
        """Submit windows; while no replica takes them, let the sound of all sessions pass."""
        submitting = asyncio.create_task(self._submit(route, windows))
        try:
            while not (await asyncio.wait({submitting}, timeout=PASS_S))[0]:
                if sounds := lane.take_sounds():
                    self._apply(await route.deliver(sounds, [], []))
            return submitting.result()
        finally:
            submitting.cancel()

    async def _submit(self, route: Route, windows: list[Window]) -> list[Any]:
        try:
            return [await route.submit(WindowBatch(tuple(windows)))]
        except ReplicaLost:
            logger.warning("no replica took %d windows; their host will ask again", len(windows))
            return []

    def _landed(self, windows: list[Window], credits_: list[Credit]) -> None:
        sources = {source.session_id: source for source in self._routes}
        for window in windows:
            if source := sources.get(window.session_id):
                source.landed(1)
        self._apply(credits_)
        self.kick()

    def _apply(self, credits_: list[Credit]) -> None:
        sources = {source.session_id: source for source in self._routes}
        for credit in credits_:
            if source := sources.get(credit.session_id):
                source.credit(credit, self._clock.now_s())

    async def _renew_leases(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_s() + self._renew_s)
            by_route: dict[Hashable, tuple[Route, list[str]]] = {}
            for source, route in self._routes.items():
                by_route.setdefault(route.key, (route, []))[1].append(source.session_id)
            for route, session_ids in by_route.values():
                try:
                    self._apply(await route.renew(session_ids))
                except AvatarError as error:
                    logger.warning("lease of %d sessions not renewed: %s", len(session_ids), error)
