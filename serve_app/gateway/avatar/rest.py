"""Document 001's REST under /v1: sessions, avatars, usage, start links; and beside it other services' calls.

An avatar joins the room that the caller names, or waits to be watched over WHEP (`platform: "proxy"`), and
speaks what its socket (socket.py) or, in a LiveKit room, its agent sends.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_app.avatars.store import AvatarStore
from serve_app.config import AppConfig, LinkConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import InvalidMessage, SessionNotFound
from serve_app.gateway.auth import Caller, Keyring
from serve_app.gateway.avatar import socket
from serve_app.gateway.avatar.asked import Asked
from serve_app.gateway.avatar.errors import told
from serve_app.gateway.avatar.models import (
    MAX_METADATA_BYTES,
    CreateSession,
    RoomRequest,
    StartLink,
    parsed,
    period_shape,
    session_shape,
    time_text,
    usage_shape,
)
from serve_app.gateway.avatar.pictures import picture_urls
from serve_app.gateway.avatar.providers import ProvidersDoor
from serve_app.gateway.avatar.start_link import AGENT_IDENTITY, LinkRooms
from serve_app.gateway.http_body import read_body
from serve_app.gateway.link import SessionLink, SessionOpener
from serve_app.gateway.public_url import http_url, ws_url
from serve_app.gateway.tokens import SessionTokens
from serve_app.rooms.base import RoomSpec
from serve_app.session.request import SessionRequest
from serve_app.session.usage import UsageReport

MAX_BODY_BYTES = 64 * 1024


class UsageSource(Protocol):
    """Knows what API keys have used."""

    async def usage(self, key_id: str | None) -> UsageReport:
        """Return what a key has used; None stands for an open server's sessions."""
        ...


class SessionsDoor:
    """Serves document 001's REST.

    Args:
        opener: admits sessions and finds running ones.
        keyring: the API keys.
        tokens: makes session tokens.
        usage: knows what keys have used.
        config: the whole configuration.
    """

    def __init__(
        self,
        opener: SessionOpener,
        keyring: Keyring,
        tokens: SessionTokens,
        usage: UsageSource,
        config: AppConfig,
    ) -> None:
        self._opener = opener
        self._keyring = keyring
        self._tokens = tokens
        self._usage = usage
        self._config = config
        self._avatars = AvatarStore(config.avatars.store)
        self._asked = Asked(config)
        self._links = LinkRooms(config.rooms)
        self._providers = ProvidersDoor(opener, keyring, tokens, config)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        # Links are followed by the pages of anybody: a link's id is all the right they need.
        cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["POST"], allow_headers=["*"])
        return [
            Route("/v1/sessions", told(self._create), methods=["POST"]),
            Route("/v1/sessions/{session_id}", told(self._show), methods=["GET"]),
            Route("/v1/sessions/{session_id}/start", told(self._show), methods=["POST"]),
            Route("/v1/sessions/{session_id}/end", told(self._end), methods=["POST", "PUT"]),
            Route("/v1/avatars", told(self._list_avatars), methods=["GET"]),
            Route("/v1/usage", told(self._tell_usage), methods=["GET"]),
            Route(
                "/v1/links/start-session",
                told(self._follow_link),
                methods=["POST", "OPTIONS"],
                middleware=[cors],
            ),
            *self._providers.routes(),
        ]

    # --- sessions ----------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        data = await read_body(request, MAX_BODY_BYTES)
        body: CreateSession = parsed(CreateSession, data)
        if len(str(body.metadata)) > MAX_METADATA_BYTES:
            raise InvalidMessage(f"metadata: expected at most {MAX_METADATA_BYTES} characters, found more")
        if body.transport is not None:
            return await self._providers.open_bey(caller, data)
        room = self._room(body.room)
        link = await self._opener.open(
            SessionRequest(
                avatar_id=await self._asked.avatar_id(body.avatar or body.avatar_id),
                key_id=caller.key_id,
                room=room,
                awaits="nothing" if room is not None and room.hears == "agent" else "socket",
                kept_by=("lease",) if room is None else ("lease", "room"),
                metadata=body.metadata,
            )
        )
        try:
            session = await self._created(request, link, caller, is_proxy=room is None)
            report = await self._usage.usage(caller.key_id)
        except BaseException:
            await link.close()
            raise
        await link.detach()
        answer = {
            "success": True,
            "session": session,
            "usage": usage_shape(report),
            "message": "Session created successfully",
        }
        return JSONResponse(answer)

    async def _created(
        self, request: Request, link: SessionLink, caller: Caller, *, is_proxy: bool
    ) -> dict[str, Any]:
        facts = await link.facts()
        lifetime_s = facts.expires_at - facts.started_at
        token = self._tokens.issue(link.session_id, caller.key_id, lifetime_s)
        session = session_shape(facts, status="started", token=token)
        session["server_ws_uri"] = ws_url(request, self._config.gateway) + socket.PATH
        if is_proxy:
            whep_url = f"{http_url(request, self._config.gateway)}/whep/{link.session_id}"
            session["room"] = {"platform": "proxy", "roomURL": whep_url, "participantToken": token}
        return session

    async def _show(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        link = await self._mine(request, caller)
        facts = await link.facts()
        await link.detach()
        return JSONResponse({"success": True, "session": session_shape(facts, status="started")})

    async def _end(self, request: Request) -> Response:
        """End a session; one that has ended is told of as ended, for as long as it is remembered."""
        caller = self._keyring.authenticate(request)
        facts = await self._opener.facts(request.path_params["session_id"])
        if facts.key_id != caller.key_id:
            raise _not_found()
        if not facts.is_closed:
            link = await self._opener.attach(facts.session_id, take_over=False)
            await link.close()
            facts = await self._opener.facts(facts.session_id)
        session = session_shape(facts, status="ended")
        session["ended_at"] = None if facts.ended_at is None else time_text(facts.ended_at)
        return JSONResponse({"success": True, "session": session, "message": "Session ended successfully"})

    def _room(self, asked: RoomRequest) -> RoomSpec | None:
        if asked.platform == "proxy":
            return None
        return self._asked.room(RoomSpec(asked.platform, asked.url, asked.token, asked.display_name))

    async def _mine(self, request: Request, caller: Caller) -> SessionLink:
        """Return the session of the path; another key's is not found, whether it is there or not."""
        link = await self._opener.attach(request.path_params["session_id"], take_over=False)
        if (await link.facts()).key_id != caller.key_id:
            raise _not_found()
        return link

    # --- what there is -----------------------------------------------------------------------------

    async def _list_avatars(self, request: Request) -> Response:
        self._keyring.authenticate(request)
        cards = await asyncio.to_thread(self._avatars.cards)
        avatars = [
            {
                "avatar_id": card.avatar_id,
                "name": card.name,
                "source": card.source,
                "aspect_ratio": "1:1",
                **picture_urls(request, self._config.gateway, card.avatar_id),
            }
            for card in cards
        ]
        return JSONResponse({"success": True, "avatars": avatars})

    async def _tell_usage(self, request: Request) -> Response:
        caller = self._keyring.authenticate(request)
        report = await self._usage.usage(caller.key_id)
        longest_s = self._config.session.max_duration_s
        if caller.limits is not None and caller.limits.max_duration_s is not None:
            longest_s = min(longest_s, caller.limits.max_duration_s)
        return JSONResponse(period_shape(report, longest_s))

    # --- rooms -------------------------------------------------------------------------------------

    async def _follow_link(self, request: Request) -> Response:
        body: StartLink = parsed(StartLink, await read_body(request, MAX_BODY_BYTES))
        found = next((link for link in self._config.rooms.links if link.id == body.link_id), None)
        if found is None:
            raise SessionNotFound("link_id: expected a start link of this server, found none of that id")
        return JSONResponse(await self._start(found))

    async def _start(self, found: LinkConfig) -> dict[str, Any]:
        """Put an avatar into a room of its own, to talk there with whoever holds the guest's token."""
        room, guest = self._links.new_room()
        link = await self._opener.open(
            SessionRequest(
                avatar_id=await self._asked.avatar_id(found.avatar),
                key_id=found.key_id,
                conversation=ConversationSpec(expires_s=self._config.session.max_duration_s),
                room=room,
                awaits="nothing",
                kept_by=("room",),
            )
        )
        await link.detach()
        return {
            "success": True,
            "session_id": link.session_id,
            "livekit_url": room.url,
            "participant_token": guest,
            "agent_identity": AGENT_IDENTITY,
        }


def _not_found() -> SessionNotFound:
    return SessionNotFound("no such session; it has ended or never was")
