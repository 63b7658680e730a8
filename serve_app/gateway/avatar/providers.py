"""The calls by which LiveKit Agents' plugins of other services ask for an avatar, so that they can ask here.

Each plugin makes a token for its agent's room, hands it over in calls of its own, and from then on speaks the
avatar-worker protocol that all of them share (rooms/livekit_worker.py). All of these calls open the same
session; a plugin is pointed here by its base URL alone (protocols 5.2). As in the plugins' source:

- bey (`BEY_API_URL`), 1.8.9: `POST /v1/sessions` with a `transport`, which SessionsDoor hands over;
  before: `POST /v1/session`. x-api-key.
- anam (`ANAM_API_URL`), 1.8.9: `POST /v1/engine/session` with the API key; before: the same body to
  `/v1/auth/session-token`, then an empty one to `/v1/engine/session` with that token. Bearer.
- simli (`api_url`), 1.8.9: `POST /compose/token` with x-simli-api-key, `/integrations/livekit/agents` with
  the token in the body. `maxIdleTime` is not kept: the server's own idle time counts for all.
- keyframe (`KEYFRAME_API_URL`), 1.8.9: `POST /v1/sessions/plugins/livekit`. Bearer. Its emotions are not
  shown; they come on a topic of their own, which nobody here reads.

Sizes of pictures, styles and names are taken and change nothing here. The other calls of these services are
not served.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.config import AppConfig
from serve_app.errors import InvalidMessage
from serve_app.gateway.auth import Caller, Keyring, bearer_of
from serve_app.gateway.avatar.asked import Asked
from serve_app.gateway.avatar.errors import told
from serve_app.gateway.avatar.models import parsed
from serve_app.gateway.http_body import read_body
from serve_app.gateway.link import SessionOpener
from serve_app.gateway.tokens import SessionTokens
from serve_app.rooms.base import RoomSpec
from serve_app.rooms.livekit_token import read_grant
from serve_app.session.request import SessionRequest

MAX_BODY_BYTES = 64 * 1024

TOKEN_S = 300.0
"""The plugins use their tokens at once."""

MAX_TOKEN_CHARACTERS = 32_768
"""Anam's carries the room's token and address."""

ANAM, SIMLI = "anam-session", "simli-session"
"""Subjects of the tokens: no ids of sessions, which begin otherwise."""


class Body(BaseModel):
    """A request; fields that change nothing here are ignored."""

    model_config = ConfigDict(extra="ignore")


class BeySession(Body):
    """Of `POST /v1/sessions` and, with the older names, of `POST /v1/session`."""

    transport: Literal["livekit"] = "livekit"
    avatar_id: str | None = Field(default=None, max_length=256)
    url: str = Field(max_length=2048, validation_alias=AliasChoices("url", "livekit_url"))
    token: str = Field(max_length=16_384, validation_alias=AliasChoices("token", "livekit_token"))


class AnamPersona(Body):
    """Whose face."""

    avatar_id: str = Field(max_length=256, validation_alias="avatarId")


class AnamEnvironment(Body):
    """The agent's room."""

    url: str = Field(max_length=2048, validation_alias="livekitUrl")
    token: str = Field(max_length=16_384, validation_alias="livekitToken")


class AnamSession(Body):
    """Of `POST /v1/auth/session-token`, and of `POST /v1/engine/session` where no token came before."""

    persona: AnamPersona = Field(validation_alias="personaConfig")
    environment: AnamEnvironment


class SimliToken(Body):
    """Of `POST /compose/token`; the face is "<face>" or "<face>/<emotion>"."""

    face_id: str = Field(max_length=256, validation_alias="faceId")
    max_duration_s: float | None = Field(
        default=None, gt=0, le=86_400, allow_inf_nan=False, validation_alias="maxSessionLength"
    )


class SimliSession(Body):
    """Of `POST /integrations/livekit/agents`."""

    session_token: str = Field(max_length=MAX_TOKEN_CHARACTERS)
    livekit_url: str = Field(max_length=2048)
    livekit_token: str = Field(max_length=16_384)


class KeyframeSession(Body):
    """Of `POST /v1/sessions/plugins/livekit`."""

    persona_id: str | None = Field(default=None, max_length=256)
    persona_slug: str | None = Field(default=None, max_length=256)
    livekit_url: str = Field(max_length=2048)
    livekit_token: str = Field(max_length=16_384)


class ProvidersDoor:
    """Sends avatars into the rooms of other services' plugins.

    Args:
        opener: admits sessions.
        keyring: the API keys.
        tokens: signs what a plugin brings back with its next call.
        config: the whole configuration.
    """

    def __init__(
        self, opener: SessionOpener, keyring: Keyring, tokens: SessionTokens, config: AppConfig
    ) -> None:
        self._opener = opener
        self._keyring = keyring
        self._tokens = tokens
        self._config = config
        self._asked = Asked(config)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        endpoints = {
            "/v1/session": self._bey,
            "/v1/auth/session-token": self._anam_token,
            "/v1/engine/session": self._anam,
            "/compose/token": self._simli_token,
            "/integrations/livekit/agents": self._simli,
            "/v1/sessions/plugins/livekit": self._keyframe,
        }
        return [Route(path, told(endpoint), methods=["POST"]) for path, endpoint in endpoints.items()]

    async def open_bey(self, caller: Caller, data: bytes) -> Response:
        """Answer Beyond Presence's call, whose caller is known.

        Raises:
            AvatarError: what is wrong with it.
        """
        body: BeySession = parsed(BeySession, data)
        session_id = await self._open(caller.key_id, body.avatar_id, body.url, body.token)
        return JSONResponse({"id": session_id, "session_id": session_id}, 201)

    # --- inside ------------------------------------------------------------------------------------

    async def _bey(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        return await self.open_bey(caller, await read_body(request, MAX_BODY_BYTES))

    async def _anam_token(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        body: AnamSession = parsed(AnamSession, await read_body(request, MAX_BODY_BYTES))
        # Told now, while the plugin still knows what it asked for.
        await self._asked.avatar_id(body.persona.avatar_id)
        room = self._asked.room(_room(body.environment.url, body.environment.token))
        claims = {
            "key_id": caller.key_id,
            "avatar": body.persona.avatar_id,
            "url": room.url,
            "token": room.token,
        }
        return JSONResponse({"sessionToken": self._tokens.sign(ANAM, claims, TOKEN_S)})

    async def _anam(self, request: Request) -> Response:
        data = await read_body(request, MAX_BODY_BYTES)
        if data.strip() in {b"", b"{}"}:
            claims = self._tokens.claims_of(bearer_of(request), ANAM, MAX_TOKEN_CHARACTERS)
            session_id = await self._open(claims["key_id"], claims["avatar"], claims["url"], claims["token"])
        else:
            caller = self._keyring.authenticate(request)
            body: AnamSession = parsed(AnamSession, data)
            session_id = await self._open(
                caller.key_id, body.persona.avatar_id, body.environment.url, body.environment.token
            )
        return JSONResponse({"sessionId": session_id})

    async def _simli_token(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request, request.headers.get("x-simli-api-key"))
        body: SimliToken = parsed(SimliToken, await read_body(request, MAX_BODY_BYTES))
        face, _, _ = body.face_id.partition("/")
        await self._asked.avatar_id(face)
        claims = {"key_id": caller.key_id, "avatar": face, "max_duration_s": body.max_duration_s}
        return JSONResponse({"session_token": self._tokens.sign(SIMLI, claims, TOKEN_S)})

    async def _simli(self, request: Request) -> Response:
        body: SimliSession = parsed(SimliSession, await read_body(request, MAX_BODY_BYTES))
        claims = self._tokens.claims_of(body.session_token, SIMLI, MAX_TOKEN_CHARACTERS)
        session_id = await self._open(
            claims["key_id"],
            claims["avatar"],
            body.livekit_url,
            body.livekit_token,
            claims["max_duration_s"],
        )
        return JSONResponse({"session_id": session_id})

    async def _keyframe(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        body: KeyframeSession = parsed(KeyframeSession, await read_body(request, MAX_BODY_BYTES))
        persona = body.persona_id or body.persona_slug
        if persona is None:
            raise InvalidMessage("persona_id: expected it or persona_slug, found neither", "persona_id")
        session_id = await self._open(caller.key_id, persona, body.livekit_url, body.livekit_token)
        answer: dict[str, Any] = {
            "reservation_id": session_id,
            "avatar_participant_identity": read_grant(body.livekit_token, time.time()).identity,
            # Not one of Keyframe's: their plugin frames the speech of some of these in a way of its own.
            "model_id": self._config.model,
        }
        return JSONResponse(answer, 201)

    async def _open(
        self,
        key_id: str | None,
        avatar: str | None,
        url: str,
        token: str,
        max_duration_s: float | None = None,
    ) -> str:
        """Send an avatar into a LiveKit room whose agent speaks through it; return its session."""
        link = await self._opener.open(
            SessionRequest(
                avatar_id=await self._asked.avatar_id(avatar),
                key_id=key_id,
                room=self._asked.room(_room(url, token)),
                awaits="nothing",
                kept_by=("room",),
                max_duration_s=max_duration_s,
            )
        )
        await link.detach()
        return link.session_id


def _room(url: str, token: str) -> RoomSpec:
    return RoomSpec("livekit", url, token, hears="agent")
