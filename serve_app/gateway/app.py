"""The ingress deployment: doors, the page, health and recordings. Holds no media and no sessions."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Protocol

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from serve_app.animator.client import AnimatorClient
from serve_app.clock import MonotonicClock
from serve_app.config import AppConfig
from serve_app.errors import AvatarError
from serve_app.gateway.a2v.door import A2vDoor
from serve_app.gateway.accounts import RayAccounts
from serve_app.gateway.address_limit import AddressLimit
from serve_app.gateway.ag2.door import Ag2Door
from serve_app.gateway.auth import Keyring
from serve_app.gateway.avatar.avatars_rest import AvatarsDoor
from serve_app.gateway.avatar.rest import SessionsDoor
from serve_app.gateway.avatar.socket import AvatarSocketDoor
from serve_app.gateway.navtalk.door import NavTalkDoor
from serve_app.gateway.page import page_settings
from serve_app.gateway.realtime.door import RealtimeDoor
from serve_app.gateway.sessions import RaySessions
from serve_app.gateway.smallwebrtc import SmallWebRtcDoor
from serve_app.gateway.tokens import SessionTokens
from serve_app.gateway.whep.door import WhepDoor
from serve_app.heap import freeze_heap
from serve_app.logs import configure_logs
from serve_app.media.recorder import RecordingFolder

logger = logging.getLogger("serve_app.gateway")

WEB = Path(__file__).parent / "web"
READY_S = 5.0

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; "
    "img-src 'self' data: blob:; frame-ancestors 'self'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Door(Protocol):
    """A protocol's entry."""

    def routes(self) -> list[BaseRoute]:
        """Return what it serves."""
        ...


class Gateway:
    """One ingress replica.

    Args:
        config: the whole configuration.
        animators: Serve's handle of each model's Animator.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, animators: dict[str, DeploymentHandle[Any]]
    ) -> None:
        configure_logs(config.log_encoding)
        app_name = serve.get_replica_context().app_name
        self._config = config
        self._animators = {model: AnimatorClient(handle) for model, handle in animators.items()}
        self._sessions = RaySessions(config, app_name, self._animators, MonotonicClock())
        self._recordings = RecordingFolder(config.recording) if config.recording.enabled else None
        self._doors = self._open_doors(config)
        await self._sessions.start()
        await self._sessions.rolled_out()
        self._tasks = [
            asyncio.create_task(self._sessions.dispatcher.run()),
            asyncio.create_task(self._sessions.keep_pool()),
        ]
        freeze_heap()

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the routes; Serve asks for them once, after the constructor."""
        limit = Middleware(AddressLimit, config=self._config.gateway)
        return Starlette(routes=self._routes(), middleware=[limit])

    def check_health(self) -> None:
        """Raise when a task of this replica's own has stopped, so that Serve replaces it."""
        if any(task.done() for task in self._tasks):
            raise RuntimeError("the dispatcher or the keeper of the host pool has stopped")

    def _open_doors(self, config: AppConfig) -> list[Door]:
        """Return the doors; the first whose route fits a request serves it."""
        sessions, keyring = self._sessions, Keyring(config.auth)
        tokens = SessionTokens(config.auth)
        accounts = RayAccounts(lambda: sessions.registry, config.session.retry_after_s)
        return [
            A2vDoor(sessions, keyring, config),
            SessionsDoor(sessions, keyring, tokens, accounts, config),
            AvatarsDoor(keyring, config),
            AvatarSocketDoor(sessions, tokens),
            RealtimeDoor(sessions, accounts, keyring, config),
            Ag2Door(accounts, keyring, config),
            NavTalkDoor(sessions, keyring, config),
            WhepDoor(sessions, keyring, tokens, config),
            SmallWebRtcDoor(sessions, keyring, config),
        ]

    def _routes(self) -> list[BaseRoute]:
        return [
            *(route for door in self._doors for route in door.routes()),
            Route("/", self._page),
            Route("/config.json", self._settings),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/recordings/{name}", self._recording),
            Mount("/web", StaticFiles(directory=WEB)),
        ]

    async def _page(self, request: Request) -> Response:
        return FileResponse(WEB / "index.html", headers=SECURITY_HEADERS)

    async def _settings(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(page_settings, self._config))

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        """200 when a session can be opened now: a host is warm and the default model answers."""
        try:
            hosts = await asyncio.wait_for(self._sessions.ready_hosts(), READY_S)
            await asyncio.wait_for(self._animators[self._config.model].spec(), READY_S)
        except (AvatarError, TimeoutError) as error:
            return JSONResponse(
                {"status": "starting", "detail": type(error).__name__}, 503, {"retry-after": "1"}
            )
        if hosts == 0:
            return JSONResponse(
                {"status": "starting", "detail": "no session host is warm"}, 503, {"retry-after": "1"}
            )
        return JSONResponse({"status": "ready", "hosts": hosts})

    async def _recording(self, request: Request) -> Response:
        path = self._recordings.path_of(request.path_params["name"]) if self._recordings is not None else None
        if path is None:
            return JSONResponse({"error": "no such recording"}, 404)
        return FileResponse(path, media_type="video/mp4")
