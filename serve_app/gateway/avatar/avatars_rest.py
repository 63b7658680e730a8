"""New avatars from photos, and the pictures of all: `POST /v1/avatars/upload-face` (protocols, section 2.2).

The older path `/avatars/upload` means the same. A new avatar can be shown as soon as the answer is there:
Animators and hosts read it from the store when a session first asks for it.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.avatars.creation import Creations, Order
from serve_app.avatars.landmarks import ToolsMissing
from serve_app.avatars.photo import PhotoRefused
from serve_app.avatars.store import AvatarStore, StoreUnreachable, new_avatar_id
from serve_app.config import AppConfig
from serve_app.errors import AvatarError
from serve_app.gateway.auth import Keyring, check_origin
from serve_app.gateway.avatar.errors import error_response
from serve_app.gateway.avatar.pictures import Pictures, picture_urls
from serve_app.gateway.avatar.upload_body import read_upload

logger = logging.getLogger("serve_app.gateway")

_STATUS = {
    "too_large": 413,
    "too_many_pixels": 413,
    "not_an_image": 415,
    "bad_request": 400,
    "bad_url": 400,
}
"""HTTP status of a refused photo by its reason; 422 for what is not named."""


class UploadsClosed(AvatarError):
    """This server takes no photos now.

    Attributes:
        status: HTTP status to answer with.
        answer: code to answer with.
        suggestion: what can be done about it.
    """

    code = "uploads_closed"

    def __init__(self, status: int, answer: str, detail: str, suggestion: str) -> None:
        super().__init__(detail)
        self.status = status
        self.answer = answer
        self.suggestion = suggestion


class AvatarsDoor:
    """Serves uploads and pictures.

    Args:
        keyring: the API keys.
        config: the whole configuration.
        store: where avatars go; None for the configured one.
        creations: makes them; None for its own.
    """

    def __init__(
        self,
        keyring: Keyring,
        config: AppConfig,
        store: AvatarStore | None = None,
        creations: Creations | None = None,
    ) -> None:
        self._keyring = keyring
        self._config = config
        self._store = store or AvatarStore(config.avatars.store)
        self._creations = creations or Creations(config.avatars.tools, config.avatars.max_uploads_waiting)
        self._pictures = Pictures(self._store, config)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        paths = ("/v1/avatars/upload-face", "/avatars/upload")
        uploads = [Route(path, self._upload, methods=["POST"]) for path in paths]
        return [*uploads, *self._pictures.routes()]

    async def _upload(self, request: Request) -> Response:
        try:
            return await self._uploaded(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except AvatarError as error:
            logger.info("upload refused: %s", error.reason if isinstance(error, PhotoRefused) else error.code)
            return _refusal(error)
        except Exception:
            # Whatever failed in one upload, its client is told and the others go on.
            logger.exception("an upload failed")
            return error_response(AvatarError())

    async def _uploaded(self, request: Request) -> Response:
        self._keyring.authenticate(request)
        check_origin(request, self._config.gateway)
        if not self._config.avatars.uploads or not self._store.takes_new_ones:
            raise UploadsClosed(
                403,
                "UPLOADS_DISABLED",
                "expected a server that takes photos, found one that does not",
                "Ask the operator to set avatars.uploads and avatars.store.",
            )
        async with self._creations.place():
            upload = await read_upload(request)
            await self._check_room()
            avatar_id = new_avatar_id()
            order = Order(
                avatar_id,
                upload.name or avatar_id,
                content=upload.content,
                url=upload.url,
                source="uploaded",
                background=upload.background,
            )
            created = await self._creations.create(order)
            await asyncio.to_thread(self._store.add, created.files)
        logger.info("avatar %s was made of an upload", avatar_id)
        urls = picture_urls(request, self._config.gateway, avatar_id)
        return JSONResponse({"success": True, **urls, "avatar_id": avatar_id})

    async def _check_room(self) -> None:
        most = self._config.avatars.max_stored
        if len(await asyncio.to_thread(self._store.ids)) >= most:
            raise UploadsClosed(
                507,
                "STORE_FULL",
                f"expected fewer than {most} avatars in the store, found as many",
                "Ask the operator to remove some, or to raise avatars.max_stored.",
            )


def _refusal(error: AvatarError) -> JSONResponse:
    if isinstance(error, PhotoRefused):
        return _told(_STATUS.get(error.reason, 422), error.reason.upper(), error.detail, error.suggestion)
    if isinstance(error, UploadsClosed):
        return _told(error.status, error.answer, str(error), error.suggestion)
    if isinstance(error, ToolsMissing):
        logger.warning("%s", error)
        return _told(
            501,
            "UPLOADS_UNAVAILABLE",
            "expected the tools that find faces on this server, found none that work",
            "Ask the operator to run `avatar tools` there.",
        )
    if isinstance(error, StoreUnreachable):
        logger.warning("%s", error)
        answer = _told(
            503,
            "STORE_UNREACHABLE",
            "expected a store that can be written, found none now",
            "Try again soon.",
        )
        answer.headers["retry-after"] = "5"
        return answer
    return error_response(error)


def _told(status: int, code: str, message: str, suggestion: str) -> JSONResponse:
    told = {"message": message, "suggestion": suggestion, "code": code}
    return JSONResponse({"success": False, "error": told}, status)
