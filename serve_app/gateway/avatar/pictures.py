"""The pictures of avatars: `GET /avatars/{id}/preview.png` (256 pixels), `/avatars/{id}/portrait.png` (512).

They need no key: an image element cannot bring one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from threading import Lock

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serve_app.avatars.background import png_of
from serve_app.avatars.bundle import PORTRAIT, SIZE
from serve_app.avatars.store import AvatarStore
from serve_app.config import AppConfig, GatewayConfig
from serve_app.errors import AvatarError
from serve_app.gateway.avatar.errors import error_response
from serve_app.gateway.public_url import http_url

logger = logging.getLogger("serve_app.gateway")

SIDES = {"preview": SIZE // 2, "portrait": SIZE}
AGE_S = 3600
MAX_PICTURES = 128


def picture_urls(connection: HTTPConnection, config: GatewayConfig, avatar_id: str) -> dict[str, str]:
    """Return where an avatar's pictures are."""
    base = f"{http_url(connection, config)}/avatars/{avatar_id}"
    return {"preview_url": f"{base}/preview.png", "image_url": f"{base}/portrait.png"}


class Pictures:
    """Serves the pictures.

    Args:
        store: where avatars lie.
        config: the whole configuration.
    """

    def __init__(self, store: AvatarStore, config: AppConfig) -> None:
        self._store = store
        self._config = config
        self._lock = Lock()
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def routes(self) -> list[BaseRoute]:
        """Return the routes; pages of the allowed origins may read them, of all where none are named."""
        cors = Middleware(
            CORSMiddleware,
            allow_origins=self._config.gateway.allowed_origins or ["*"],
            allow_methods=["GET"],
            allow_headers=["*"],
        )
        methods = ["GET", "HEAD", "OPTIONS"]
        return [
            Route(
                f"/avatars/{{avatar_id}}/{name}.png",
                self._picture,
                methods=methods,
                middleware=[cors],
                name=name,
            )
            for name in SIDES
        ]

    async def _picture(self, request: Request) -> Response:
        avatar_id, name = (
            request.path_params["avatar_id"],
            request.url.path.rpartition("/")[2].removesuffix(".png"),
        )
        try:
            content = await asyncio.to_thread(self._png, avatar_id, name)
        except AvatarError as error:
            return error_response(error)
        except Exception:
            # Whatever failed in one picture, its client is told and the others go on.
            logger.exception("a picture of an avatar could not be made")
            return error_response(AvatarError())
        headers = {
            "cache-control": f"public, max-age={AGE_S}",
            "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            "x-content-type-options": "nosniff",
        }
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/png", headers=headers)

    def _png(self, avatar_id: str, name: str) -> bytes:
        if name == "portrait":
            return self._store.file(avatar_id, PORTRAIT)
        key = (avatar_id, str(self._store.path(avatar_id)))
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        content = png_of(self._store.load(avatar_id).portrait, SIDES[name])
        with self._lock:
            self._made[key] = content
            while len(self._made) > MAX_PICTURES:
                self._made.popitem(last=False)
        return content
