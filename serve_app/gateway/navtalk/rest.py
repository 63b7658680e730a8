"""The look-ups that NavTalk's SDKs make before they open their socket, and the avatars' pictures.

`GET /api/open/v1/avatar/getByName?license=&name=`, `/avatar/detail?license=&avatarId=` (protocols, section
3.6; the licence may also come in the header `license`), and `GET /avatars/{id}/thumbnail.png` or `.jpg`,
which needs no licence: an image element cannot bring one, and a URL that holds one would spread it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.config import AppConfig
from serve_app.errors import AvatarError, AvatarInvalid, InvalidMessage, Unauthorized
from serve_app.gateway.navtalk.avatars import PICTURE_TYPES, AvatarDirectory, Card
from serve_app.gateway.public_url import http_url

logger = logging.getLogger("serve_app.gateway")

PICTURE_AGE_S = 3600

Check = Callable[[HTTPConnection], object]


def license_of(connection: HTTPConnection) -> str | None:
    """Return the licence that a request or a socket brings, NavTalk's name for an API key."""
    return connection.query_params.get("license") or connection.headers.get("license")


class AvatarLookups:
    """Serves the look-ups and pictures.

    Args:
        directory: finds avatars.
        check: raises Unauthorized for a caller who may not enter.
        config: the whole configuration.
    """

    def __init__(self, directory: AvatarDirectory, check: Check, config: AppConfig) -> None:
        self._directory = directory
        self._check = check
        self._config = config

    def routes(self) -> list[BaseRoute]:
        """Return the routes; pages of the allowed origins may read them, of all where none are named."""
        cors = [
            Middleware(
                CORSMiddleware,
                allow_origins=self._config.gateway.allowed_origins or ["*"],
                allow_methods=["GET"],
                allow_headers=["*"],
            )
        ]
        pairs = (
            ("/api/open/v1/avatar/getByName", _told(self._by_name)),
            ("/api/open/v1/avatar/detail", _told(self._by_id)),
            ("/avatars/{avatar_id}/thumbnail.{kind}", _told(self._picture)),
        )
        return [
            Route(path, endpoint, methods=["GET", "HEAD", "OPTIONS"], middleware=cors)
            for path, endpoint in pairs
        ]

    async def _by_name(self, request: Request) -> Response:
        self._check(request)
        name = _parameter(request, "name")
        choice = await asyncio.to_thread(self._directory.choose, name, None)
        return self._found(request, choice.card, name)

    async def _by_id(self, request: Request) -> Response:
        self._check(request)
        card = await asyncio.to_thread(self._directory.card, _parameter(request, "avatarId"))
        return self._found(request, card, card.name)

    async def _picture(self, request: Request) -> Response:
        avatar_id, kind = request.path_params["avatar_id"], request.path_params["kind"]
        if kind not in PICTURE_TYPES:
            raise AvatarInvalid(f"expected a picture of {', '.join(PICTURE_TYPES)}, found another kind")
        card = await asyncio.to_thread(self._directory.card, avatar_id)
        headers = {
            "cache-control": f"public, max-age={PICTURE_AGE_S}",
            "etag": f'"{card.avatar_id}-{card.updated_s:.3f}-{kind}"',
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        picture = await asyncio.to_thread(self._directory.picture, avatar_id, kind)
        return Response(picture, media_type=PICTURE_TYPES[kind], headers=headers)

    def _found(self, request: Request, card: Card, name: str) -> Response:
        """Answer with the name that was asked for: SDKs open their socket with it."""
        picture_url = f"{http_url(request, self._config.gateway)}/avatars/{card.avatar_id}/thumbnail.jpg"
        provider = self._config.navtalk.provider_name
        data = {
            "id": card.avatar_id,
            "name": name,
            "url": picture_url,
            "thumbnailUrl": picture_url,
            "providerId": provider,
            "providerName": provider,
            "model": "gpt-realtime",
            "voice": self._config.agents.voice,
            "firstMessage": "",
            "prompt": "",
            "videoFile": "",
            "status": "active",
        }
        return _answer(200, "SUCCESS", data)


def _told(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def tell(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AvatarError as error:
            return _answer(_status(error), str(error), None)
        except Exception as error:
            # Whatever failed in one look-up, its client is told and the others go on.
            logger.exception("an avatar could not be looked up")
            return _answer(500, f"the server failed at this ({type(error).__name__})", None)

    return tell


def _status(error: AvatarError) -> int:
    if isinstance(error, Unauthorized):
        return 401
    if isinstance(error, InvalidMessage):
        return 400
    return 404 if isinstance(error, AvatarInvalid) else 500


def _parameter(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise InvalidMessage(f"expected ?{name}=, found none", missing=name)
    return value


def _answer(code: int, message: str, data: dict[str, str] | None) -> Response:
    return JSONResponse({"code": code, "message": message, "data": data}, code, {"cache-control": "no-store"})
