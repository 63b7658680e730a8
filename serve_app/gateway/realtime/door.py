"""The OpenAI Realtime door, beta and GA: keys, calls over WebRTC, and the WebSocket (protocols, section 4).

| request | answer |
|---|---|
| `POST /v1/realtime/sessions` | beta: mints a key for a minute, 200 session object and `client_secret` |
| `POST /v1/realtime/client_secrets` | GA: mints a key, 200 `value`, `expires_at`, `session` |
| `POST /v1/realtime/transcription_sessions` | 400: sessions that only transcribe are not offered |
| `POST /v1/realtime?model=` | beta: SDP offer, 201 SDP answer |
| `POST /v1/realtime/calls` | GA: SDP offer, raw or in a form, 201 SDP answer and `Location` |
| `POST /v1/realtime/calls/{id}/hangup`, `DELETE /v1/realtime/calls/{id}` | 200, the call has ended |
| `GET /v1/realtime/ice-servers` | 200 `ice_servers` |
| WebSocket `/v1/realtime` | see `realtime_socket` |

The dialect of a call is that of the address it comes by; an ephemeral key opens the one it was minted for.
`?avatar=` on the addresses that open something picks the face.
Errors are OpenAI's `{"error": {"message", "type", "code", "param"}}`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute

from serve_app.clock import Clock, MonotonicClock
from serve_app.config import AppConfig
from serve_app.gateway.auth import Keyring
from serve_app.gateway.door_socket import SocketLimits
from serve_app.gateway.ephemeral import EphemeralKeys
from serve_app.gateway.link import SessionOpener
from serve_app.gateway.realtime.access import Doorkeeper
from serve_app.gateway.realtime.calls import RealtimeCalls
from serve_app.gateway.realtime.errors import refused
from serve_app.gateway.realtime.http import read_json, route
from serve_app.gateway.realtime.mint import KeyMint
from serve_app.gateway.realtime.socket import RealtimeSocketDoor

NO_STORE = {"cache-control": "no-store"}


class RealtimeDoor:
    """The door's routes.

    Args:
        opener: admits sessions and finds running ones.
        keys: the ephemeral keys, one truth for all gateways.
        keyring: the API keys.
        config: the whole configuration.
        clock: the time.
        limits: what one socket may cost.
    """

    def __init__(
        self,
        opener: SessionOpener,
        keys: EphemeralKeys,
        keyring: Keyring,
        config: AppConfig,
        *,
        clock: Clock | None = None,
        limits: SocketLimits | None = None,
    ) -> None:
        self._config = config
        self._doorkeeper = Doorkeeper(keys, keyring, config)
        self._mint = KeyMint(keys, config)
        self._calls = RealtimeCalls(opener, self._doorkeeper, config)
        self._socket = RealtimeSocketDoor(
            opener,
            self._doorkeeper,
            config,
            limits=limits or SocketLimits(),
            clock=clock or MonotonicClock(),
        )

    def routes(self) -> list[BaseRoute]:
        """Return the routes of this door."""
        base, call = "/v1/realtime", "/v1/realtime/calls/{call_id}"
        http = [
            (f"{base}/sessions", self._mint_beta, ["POST"]),
            (f"{base}/client_secrets", self._mint_ga, ["POST"]),
            (f"{base}/transcription_sessions", self._mint_transcription, ["POST"]),
            (f"{base}/ice-servers", self._ice_servers, ["GET"]),
            (f"{base}/calls", self._calls.open_ga, ["POST"]),
            (f"{call}/hangup", self._calls.hang_up, ["POST"]),
            (f"{call}/accept", self._calls.refuse_telephony, ["POST"]),
            (f"{call}/reject", self._calls.refuse_telephony, ["POST"]),
            (f"{call}/refer", self._calls.refuse_telephony, ["POST"]),
            (call, self._calls.hang_up, ["DELETE"]),
            (base, self._calls.open_beta, ["POST"]),
        ]
        return [
            WebSocketRoute(base, self._socket.__call__),
            *(route(path, endpoint, methods, self._config.gateway) for path, endpoint, methods in http),
        ]

    async def _mint_beta(self, request: Request) -> Response:
        access = await self._doorkeeper.admit_owner(request)
        body = await read_json(request)
        minted = await self._mint.beta(access.key_id, body, self._mint.base_url(request))
        return JSONResponse(minted, headers=NO_STORE)

    async def _mint_ga(self, request: Request) -> Response:
        access = await self._doorkeeper.admit_owner(request)
        body = await read_json(request)
        minted = await self._mint.ga(access.key_id, body, self._mint.base_url(request))
        return JSONResponse(minted, headers=NO_STORE)

    async def _mint_transcription(self, request: Request) -> Response:
        await self._doorkeeper.admit_owner(request)
        message = (
            "Sessions that only transcribe are not offered; use /v1/realtime/sessions and its transcripts."
        )
        raise refused(400, message, "transcription_not_offered")

    async def _ice_servers(self, request: Request) -> Response:
        await self._doorkeeper.admit(request)
        return JSONResponse({"ice_servers": self._mint.ice_servers()}, headers=NO_STORE)
