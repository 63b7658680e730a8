"""Minting ephemeral keys: `ek_…`, which open one call each (protocols, section 4.4)."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.requests import HTTPConnection

from serve_app.config import AppConfig
from serve_app.conversation import faults
from serve_app.conversation.settings import check_session, session_object
from serve_app.conversation.spec import ConversationSpec, Dialect
from serve_app.errors import CapacityError
from serve_app.gateway.ephemeral import EphemeralKey, EphemeralKeys, Grant
from serve_app.gateway.public_url import http_url
from serve_app.gateway.realtime.errors import refused

BETA_LIFETIME_S = 60
GA_LIFETIME_S = 600
MIN_LIFETIME_S, MAX_LIFETIME_S = 10, 7200

MAX_MODEL_CHARS = 128

UNTIL_OPENED = 0
"""`expires_at` of a session object whose session has not begun."""


class KeyMint:
    """Mints keys for both dialects.

    The answers carry three fields that OpenAI's do not (protocols, Decision 4.6): `base_url` for the SDP
    offer, `ice_servers`, and `video`, whether the answer has a face. A stock AG2 backend passes them on.

    Args:
        keys: where they are kept.
        config: the whole configuration.
    """

    def __init__(self, keys: EphemeralKeys, config: AppConfig) -> None:
        self._keys = keys
        self._config = config

    async def beta(self, key_id: str | None, body: dict[str, Any], base_url: str) -> dict[str, Any]:
        """Answer `POST /v1/realtime/sessions`: a session object, and `client_secret`.

        Args:
            key_id: the API key it is minted with.
            body: flat session settings; `model` and `client_secret.expires_after` besides.
            base_url: of the door as the client sees it.

        Raises:
            RealtimeFault: settings that cannot be used.
            RealtimeRefused: 400 something else is wrong, 429 too many unused keys wait.
        """
        settings = dict(body)
        secret_asked = settings.pop("client_secret", None)
        if not isinstance(secret_asked, dict | None):
            raise faults.wrong_type("client_secret", "an object", secret_asked)
        expires_after = (secret_asked or {}).get("expires_after")
        lifetime_s = _lifetime_s(expires_after, "client_secret.expires_after", BETA_LIFETIME_S)
        key, session = await self._mint(key_id, "beta", settings, lifetime_s)
        secret = {"value": key.value, "expires_at": key.expires_at}
        return {**session, "client_secret": secret, **self._extras(base_url)}

    async def ga(self, key_id: str | None, body: dict[str, Any], base_url: str) -> dict[str, Any]:
        """Answer `POST /v1/realtime/client_secrets`: `value`, `expires_at` and `session`.

        Args:
            key_id: the API key it is minted with.
            body: `expires_after` and `session`, either may be missing.
            base_url: of the door as the client sees it.

        Raises:
            RealtimeFault: settings that cannot be used.
            RealtimeRefused: 400 something else is wrong, 429 too many unused keys wait.
        """
        if unknown := sorted(set(body) - {"expires_after", "session"}):
            raise faults.unknown(unknown[0][:64])
        lifetime_s = _lifetime_s(body.get("expires_after"), "expires_after", GA_LIFETIME_S)
        settings = body.get("session")
        if settings is None:
            settings = {"type": "realtime"}
        if not isinstance(settings, dict):
            raise faults.wrong_type("session", "an object", settings)
        key, session = await self._mint(key_id, "ga", settings, lifetime_s)
        return {
            "value": key.value,
            "expires_at": key.expires_at,
            "session": session,
            **self._extras(base_url),
        }

    def ice_servers(self) -> list[dict[str, object]]:
        """Return STUN and TURN servers in the shape of W3C's RTCIceServer, credentials included."""
        return [server.for_client() for server in self._config.ice.servers]

    def base_url(self, connection: HTTPConnection) -> str:
        """Return the address of `/v1/realtime` as the caller sees it, without a slash at its end."""
        # A configured address has its path; without one, Serve's route prefix belongs to it.
        root = "" if self._config.gateway.public_url else connection.scope.get("root_path", "")
        return f"{http_url(connection, self._config.gateway)}{root}/v1/realtime"

    async def _mint(
        self, key_id: str | None, dialect: Dialect, settings: dict[str, Any], lifetime_s: float
    ) -> tuple[EphemeralKey, dict[str, Any]]:
        model, checked = checked_settings(dialect, settings, self._config.realtime.model)
        try:
            key = await self._keys.mint(Grant(key_id, dialect, model, checked), lifetime_s)
        except CapacityError as error:
            raise refused(
                429,
                str(error),
                "rate_limit_exceeded",
                type="rate_limit_error",
                retry_after_s=error.retry_after_s,
            ) from None
        spec = ConversationSpec(dialect=dialect, session=checked, model=model)
        return key, session_object(
            spec, f"sess_{secrets.token_hex(12)}", UNTIL_OPENED, self._config.agents.voice
        )

    def _extras(self, base_url: str) -> dict[str, Any]:
        return {"base_url": base_url, "ice_servers": self.ice_servers(), "video": True}


def checked_settings(
    dialect: Dialect, settings: dict[str, Any], default_model: str, *, asked_model: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the model's name and the checked settings without it.

    Args:
        dialect: of the settings.
        settings: as the client sent them; a `model` among them goes first.
        default_model: where the client names none.
        asked_model: what the query names.

    Raises:
        RealtimeFault: settings that cannot be used.
        RealtimeRefused: 400: a model that is no name, or a session that only transcribes.
    """
    rest = dict(settings)
    if rest.get("type") == "transcription":
        raise faults.wrong_value("session.type", "transcription", ["realtime"])
    model = rest.pop("model", None) or asked_model or default_model
    if not isinstance(model, str):
        raise faults.wrong_type("model", "a string", model)
    if len(model) > MAX_MODEL_CHARS:
        raise faults.too_long("model", "string", MAX_MODEL_CHARS, len(model))
    return model, check_session(dialect, rest)


def _lifetime_s(expires_after: Any, param: str, default_s: int) -> int:  # noqa: ANN401 - whatever was sent
    if expires_after is None:
        return default_s
    if not isinstance(expires_after, dict):
        raise faults.wrong_type(param, "an object", expires_after)
    if unknown := sorted(set(expires_after) - {"anchor", "seconds"}):
        raise faults.unknown(f"{param}.{unknown[0][:64]}")
    anchor, seconds = expires_after.get("anchor", "created_at"), expires_after.get("seconds", default_s)
    if anchor != "created_at":
        raise faults.wrong_value(f"{param}.anchor", anchor, ["created_at"])
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise faults.wrong_type(f"{param}.seconds", "an integer", seconds)
    if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
        raise faults.out_of_range(f"{param}.seconds", "integer", MIN_LIFETIME_S, MAX_LIFETIME_S, seconds)
    return seconds
