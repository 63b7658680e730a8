"""The actor that owns the pool of session hosts and admits sessions: capacity is counted here alone.

Named and detached, as are the hosts, so that media outlives gateways and this actor alike. After a restart it
finds the hosts by their names, and learns from them which sessions they hold for whom.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import sqlite3
import time
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError
from ray.serve.exceptions import RayServeException
from ray.util import list_named_actors

from serve_app.animator.client import AnimatorClient, again
from serve_app.clock import MonotonicClock
from serve_app.config import AppConfig, AuthConfig
from serve_app.errors import AdmissionRefused, AvatarError, SessionNotFound
from serve_app.logs import configure_logs
from serve_app.metrics import RegistryMetrics
from serve_app.session.admission import Admission, Place
from serve_app.session.grants import GrantStore
from serve_app.session.opened import HostStatus
from serve_app.session.placement import scheduling_of
from serve_app.session.pool import PoolSize
from serve_app.session.rollout import Rollout
from serve_app.session.usage import KeyLimits, UsageLedger, UsageReport
from serve_app.session.usage_file import UsageFile

__all__ = [
    "NAMESPACE",
    "Place",
    "SessionRegistry",
    "host_name",
    "host_of",
    "registry_name",
    "session_tag",
]

logger = logging.getLogger("serve_app.registry")

NAMESPACE = "avatar"
HOST_PREFIX = "session-host-"
BEAT_S = 1.0
ANSWER_S = 5.0
MISSED = 3
"""A host that so many reports in a row did not come from is lost; of one that is dead Ray knows at once."""

MODEL_S = 1.0
"""Longest wait for a model's answer; a client is refused or let in at once."""

SAVE_S = 5.0
"""How many seconds of a key's use a crash may forget."""

STARTING_S = 1.0
"""When to come again while a host starts."""

ROLLOUT_S = 60.0
"""How long hosts of a former configuration take sessions while the first new one starts: a cluster without
room for both must let the former ones drain."""

ORPHAN_S = 60.0
"""Without a gateway for so long the application is gone: the hosts and this actor end."""

SESSION_ID = re.compile(r"sess_(h[0-9a-f]{6})[0-9a-f]{24}")


def registry_name(app_name: str) -> str:
    """Return the name of an application's registry actor."""
    return f"session-registry-{app_name}"


def host_name(tag: str) -> str:
    """Return the actor name of the host with this tag."""
    return f"{HOST_PREFIX}{tag}"


def session_tag(session_id: str) -> str:
    """Return the tag of the host that holds a session: it stands in the id, "sess_<tag><hex>".

    Raises:
        SessionNotFound: this is no session's id.
    """
    match = SESSION_ID.fullmatch(session_id)
    if match is None:
        raise SessionNotFound("expected the id of a session of this server, found something else")
    return match[1]


def host_of(session_id: str) -> str:
    """Return the actor name of the host that holds a session.

    Raises:
        SessionNotFound: this is no session's id.
    """
    return host_name(session_tag(session_id))


@dataclass(slots=True)
class _Host:
    """A host actor.

    Attributes:
        config: what it was started with.
        is_ready: whether it is warm.
        is_surplus: whether fewer hosts do: it takes no sessions and ends when it is empty.
        missed: reports in a row that did not come.
    """

    actor: ActorHandle[Any]
    config: AppConfig
    is_ready: bool = False
    is_surplus: bool = False
    missed: int = 0


class SessionRegistry:
    """Keeps a pool of warm hosts alive, spreads sessions over them, and keeps the limits of API keys.

    Args:
        config: the whole configuration.
        app_name: Serve application.
    """

    def __init__(self, config: AppConfig, app_name: str) -> None:
        configure_logs(config.log_encoding)
        self._rollout = Rollout(config)
        self._app_name = app_name
        self._hosts: dict[str, _Host] = {}
        self._metrics = RegistryMetrics()
        clock = MonotonicClock()
        self._pool = PoolSize(clock)
        self._is_short = False
        self._rolled_s = clock.now_s()
        self._ledger = UsageLedger(time.time, time.monotonic)
        self._admission = Admission(clock, self._ledger)
        self._animators: dict[str, AnimatorClient] = {}
        self._grants: GrantStore[object] = GrantStore(clock)
        self._asked_s = time.monotonic()
        self._starting = asyncio.Lock()
        self._beat_task: asyncio.Task[None] | None = None
        self._save_task: asyncio.Task[None] | None = None
        self._warming: dict[str, asyncio.Future[None]] = {}
        self._knows_past_usage = False

    @property
    def _config(self) -> AppConfig:
        return self._rollout.config

    async def configure(self, config: AppConfig, number: int | None = None) -> int:
        """Keep the pool: start it, or replace its hosts when the configuration is a newer one.

        Gateways call this at their start and every few seconds: it is also their sign of life.

        Args:
            config: the gateway's.
            number: what the last call returned; None at its start.

        Returns:
            The number of the gateway's configuration.
        """
        self._asked_s = time.monotonic()
        async with self._starting:
            before = self._config
            number = self._rollout.take(config, number, int(time.time() * 1000))
            if self._config != before:
                self._rolled_s = time.monotonic()
                if former := sum(self._is_former(host) for host in self._hosts.values()):
                    logger.info("new configuration: %d hosts are replaced", former)
            if self._beat_task is None:
                await self._load_usage()
                await self._find_hosts()
                self._beat_task = asyncio.create_task(self._beat())
                self._save_task = asyncio.create_task(self._keep_usage())
            self._fill_pool()
        return number

    async def admit(self, key: KeyLimits | None = None, model: str | None = None) -> Place:
        """Reserve room on the least loaded host; `admitted` must follow, whatever came of it.

        Args:
            key: the API key whose session it is; None on an open server.
            model: whose frames it needs; None: the model is not asked.
        """
        if model is not None and (refused := await self._refused_by(model)) is not None:
            self._metrics.refused("full")
            return Place(None, refused.retry_after_s, refused.detail, "full")
        place = self._admission.admit(self._config, self._takers(), key)
        if place.refusal == "full" and self._beat_task is not None:
            self._is_short = True
            self._fill_pool()
        if place.refusal == "full" and self._is_growing():
            place = replace(place, retry_after_s=min(place.retry_after_s, STARTING_S))
        if place.refusal is not None:
            self._metrics.refused(place.refusal)
        return place

    async def _refused_by(self, model: str) -> AdmissionRefused | None:
        """Return why a model can make no more frames; None when it can, or cannot be asked.

        One that cannot be asked is told of where the session opens, in words of its own.
        """
        try:
            if model not in self._animators:
                self._animators[model] = AnimatorClient.of_app(model, self._app_name)
            await asyncio.wait_for(self._animators[model].admit(), MODEL_S)
        except AdmissionRefused as error:
            return error
        except (AvatarError, RayServeException, TimeoutError) as error:
            logger.warning("model %s is not asked for room: %s", model, type(error).__name__)
        return None

    async def admitted(self, reservation: str, session_id: str | None) -> None:
        """Turn a reservation into a session, or give it back with None."""
        if self._admission.admitted(reservation, session_id, time.time()):
            self._metrics.admitted.inc()

    async def released(self, session_id: str) -> None:
        """Forget a session that was closed, without waiting for its host's next report."""
        self._admission.released(session_id)

    async def host_lost(self, tag: str) -> None:
        """Look after a host that a gateway could not reach."""
        if tag in self._hosts:
            await self._check(tag)
            self._fill_pool()

    async def ready_hosts(self) -> int:
        """Return how many hosts can take sessions."""
        return len(self._takers())

    async def is_rolled_out(self) -> bool:
        """Return whether the newest configuration has a host, or has waited long enough for one."""
        return not any(self._is_former(self._hosts[tag]) for tag in self._takers())

    async def usage(self, key_id: str | None) -> UsageReport:
        """Return what an API key has used; None: the sessions of an open server.

        Raises:
            Unauthorized: no such key is configured.
        """
        return self._ledger.report(key_id, KeyLimits.of(self._config.auth, key_id))

    # --- ephemeral keys ----------------------------------------------------------------------------

    async def mint_grant(
        self, digest: bytes, grant: object, lifetime_s: float, owner: str | None, size_bytes: int
    ) -> None:
        """Keep a grant under its key's digest (see GrantStore.mint)."""
        self._grants.mint(digest, grant, lifetime_s=lifetime_s, owner=owner, size_bytes=size_bytes)

    async def check_grant(self, digest: bytes) -> object:
        """Return a grant (see GrantStore.check)."""
        return self._grants.check(digest)

    async def redeem_grant(self, digest: bytes) -> object:
        """Use a key up and return its grant (see GrantStore.redeem)."""
        return self._grants.redeem(digest)

    async def restore_grant(self, digest: bytes) -> None:
        """Make a used key usable again (see GrantStore.restore)."""
        self._grants.restore(digest)

    # --- hosts -------------------------------------------------------------------------------------

    def _is_former(self, host: _Host) -> bool:
        return host.config != _of_hosts(self._config)

    def _takers(self) -> list[str]:
        """Return the hosts that take sessions; those of a former configuration while the new ones start."""
        ready = {tag: host for tag, host in self._hosts.items() if host.is_ready and not host.is_surplus}
        present = [tag for tag, host in ready.items() if not self._is_former(host)]
        is_starting = time.monotonic() - self._rolled_s < ROLLOUT_S
        return list(ready) if not present and is_starting else present

    def _stays(self, host: _Host) -> bool:
        return not host.is_surplus and not self._is_former(host)

    def _is_growing(self) -> bool:
        return any(self._stays(host) and not host.is_ready for host in self._hosts.values())

    def _fill_pool(self) -> None:
        """Start the hosts that are missing; let those go that are too many."""
        staying = [tag for tag, host in self._hosts.items() if self._stays(host)]
        # Those that start already are not yet counted on; one at a time is enough.
        is_short, self._is_short = self._is_short and not self._is_growing(), False
        wanted = self._pool.wanted(self._admission.held(), self._config.session, is_short=is_short)
        for tag in self._admission.emptiest(staying)[: max(0, len(staying) - wanted)]:
            self._hosts[tag].is_surplus = True
            logger.info("host %s is one too many and drains", tag)
        missing = wanted - len(staying)
        for host in self._hosts.values():
            # One that drains and is warm is there sooner than a new one.
            if missing > 0 and host.is_surplus and not self._is_former(host):
                host.is_surplus = False
                missing -= 1
        for _ in range(missing):
            tag = f"h{secrets.token_hex(3)}"
            config = _of_hosts(self._config)
            self._hosts[tag] = _Host(self._start_host(tag, config), config)
            self._admission.add_host(tag)
            self._warming[tag] = asyncio.ensure_future(self._warm(tag))

    def _start_host(self, tag: str, config: AppConfig) -> ActorHandle[Any]:
        from serve_app.session.host import SessionHost  # brings aiortc, which gateways do not need

        session = config.session
        actor = ray.remote(SessionHost).options(
            name=host_name(tag),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=session.host_num_cpus,
            resources=session.host_resources or None,
            max_concurrency=10_000,
            **scheduling_of(session),
        )
        return actor.remote(tag, config, self._app_name)

    async def _warm(self, tag: str) -> None:
        host = self._hosts[tag]
        try:
            await host.actor.warm_up.remote()
        except Exception:  # a host that cannot start is replaced, whatever the reason
            logger.exception("host %s did not start", tag)
            self._drop(tag)
            return
        host.is_ready = True
        logger.info("host %s is ready", tag)

    async def _find_hosts(self) -> None:
        """Take over the hosts of a registry that is gone; none takes sessions before its own are known."""
        found: list[str] = []
        for entry in list_named_actors(all_namespaces=True):
            name = str(entry["name"])
            if entry["namespace"] == NAMESPACE and name.startswith(HOST_PREFIX):
                tag = name.removeprefix(HOST_PREFIX)
                self._hosts[tag] = _Host(ray.get_actor(name, NAMESPACE), _of_hosts(self._config))
                self._admission.add_host(tag)
                found.append(tag)
        await asyncio.gather(*(self._recognise(tag) for tag in found))
        for tag in found:
            if tag in self._hosts:
                self._hosts[tag].is_ready = True

    async def _recognise(self, tag: str) -> None:
        """Learn what a host was started with, and which sessions it holds."""
        host = self._hosts[tag]
        try:
            host.config = await asyncio.wait_for(again(host.actor.config.remote), ANSWER_S)
        except (RayError, TimeoutError) as error:
            logger.warning("host %s does not tell its configuration (%s)", tag, type(error).__name__)
        await self._check(tag)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await asyncio.gather(*(self._check(tag) for tag, host in self._hosts.items() if host.is_ready))
            self._end_overdrawn()
            self._fill_pool()
            ready = len(self._takers())
            self._metrics.hosts.set(ready)
            session = self._config.session
            # A pool that grows is full when it can grow no more.
            hosts = session.most_hosts if session.is_elastic else ready
            self._metrics.slots.set(hosts * session.max_sessions_per_host)
            if time.monotonic() - self._asked_s > ORPHAN_S:
                await self._end()

    async def _check(self, tag: str) -> None:
        host = self._hosts[tag]
        before = self._admission.held_by(tag)
        try:
            status: HostStatus = await asyncio.wait_for(host.actor.status.remote(), ANSWER_S)
        except (RayError, TimeoutError) as error:
            host.missed += 1
            if isinstance(error, ActorDiedError) or host.missed >= MISSED:
                logger.warning(
                    "host %s is lost (%s) with %d sessions", tag, type(error).__name__, len(before)
                )
                self._drop(tag)
            return
        host.missed = 0
        self._admission.reported(tag, before, status)
        if not self._stays(host) and tag not in self._takers() and self._admission.is_empty(tag):
            self._drop(tag)

    def _end_overdrawn(self) -> None:
        """End the sessions of keys whose minutes are used up."""
        for tag, session_id in self._admission.overdrawn(self._config):
            logger.info("session %s: the minutes of its API key are used up", session_id)
            self._hosts[tag].actor.close_session.remote(session_id, "quota")
            self._admission.released(session_id)

    def _drop(self, tag: str) -> None:
        host = self._hosts.pop(tag, None)
        self._warming.pop(tag, None)
        self._admission.remove_host(tag)
        if host is not None:
            ray.kill(host.actor)

    async def _end(self) -> None:
        logger.info("no gateway for %.0f s: the session hosts end", ORPHAN_S)
        for tag in list(self._hosts):
            self._drop(tag)
        await self._save_usage()
        ray.kill(ray.get_runtime_context().current_actor)

    # --- usage -------------------------------------------------------------------------------------

    async def _load_usage(self) -> None:
        file = self._usage_file()
        if file is None or self._knows_past_usage:
            return
        try:
            self._ledger.restore(await asyncio.to_thread(file.load))
        except (OSError, sqlite3.Error) as error:
            logger.error("auth.usage_file cannot be read (%s); tried again", error)  # noqa: TRY400
            return
        self._knows_past_usage = True

    async def _keep_usage(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await self._save_usage()

    async def _save_usage(self) -> None:
        await self._load_usage()
        file = self._usage_file()
        if file is None or not self._knows_past_usage:
            return
        self._ledger.charge()
        try:
            await asyncio.to_thread(file.save, self._ledger.state())
        except (OSError, sqlite3.Error) as error:
            logger.warning("auth.usage_file cannot be written (%s); tried again", error)
            return
        self._ledger.forget_past()

    def _usage_file(self) -> UsageFile | None:
        path = self._config.auth.usage_file
        return None if path is None else UsageFile(path)


def _of_hosts(config: AppConfig) -> AppConfig:
    """Return what hosts get to know: no keys and no secrets of doors, so that new ones drain no host."""
    return config.model_copy(update={"auth": AuthConfig()})
