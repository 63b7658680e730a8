"""What a LiveKit access token grants, read without its secret.

The token is somebody else's: their server checks its signature when the avatar joins. Reading it here only
gives refusals that are early and clear. Claims as in the LiveKit documentation, "Tokens and grants", and
`livekit.api.access_token.Claims`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jwt

from serve_app.errors import InvalidMessage, RoomFailed
from serve_app.rooms.address import MAX_TOKEN_CHARS

PUBLISH_ON_BEHALF = "lk.publish_on_behalf"
"""Attribute of an avatar worker's token: the agent it speaks for (LiveKit Agents, `voice/avatar`)."""

LEEWAY_S = 60.0
"""How far clocks may differ; LiveKit's own servers allow as much."""

MAX_IDENTITY_CHARS = 256


@dataclass(frozen=True, slots=True)
class LiveKitGrant:
    """Entry to a room.

    Attributes:
        room: its name.
        identity: who the bearer is in it.
        name: shown to the others; may be empty.
        kind: "agent", "standard", …; empty when the token does not say.
        expires_s: Unix time after which the token cannot be used to join, or None for never.
        publish_on_behalf: identity of the agent whose speech the avatar shows, or None.
        can_rename: whether the bearer may change its own name.
    """

    room: str
    identity: str
    name: str
    kind: str
    expires_s: float | None
    publish_on_behalf: str | None
    can_rename: bool


def read_grant(token: str, now_s: float) -> LiveKitGrant:
    """Read a token that is to be used now.

    Args:
        token: a JWT.
        now_s: Unix time.

    Raises:
        InvalidMessage: not a LiveKit access token.
        RoomFailed: one that does not let its bearer join a room and publish there now.
    """
    claims = _claims(token)
    video = claims.get("video")
    if not isinstance(video, dict):
        raise InvalidMessage("room token: expected a LiveKit token with a video grant, got one without")
    if video.get("roomJoin") is not True:
        raise RoomFailed("room token: expected the grant roomJoin, got a token without it")
    if video.get("canPublish", True) is not True:
        raise RoomFailed("room token: expected a token that may publish, got canPublish: false")
    grant = LiveKitGrant(
        room=_text(video, "room", "the grant's room"),
        identity=_text(claims, "sub", "an identity (sub)"),
        name=_optional_text(claims.get("name")) or "",
        kind=_optional_text(claims.get("kind")) or "",
        expires_s=_time(claims, "exp"),
        publish_on_behalf=_behalf(claims),
        can_rename=video.get("canUpdateOwnMetadata") is True,
    )
    _check_times(grant.expires_s, _time(claims, "nbf"), now_s)
    return grant


def _claims(token: str) -> dict[str, object]:
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidMessage(f"room token: expected at most {MAX_TOKEN_CHARS} characters, got {len(token)}")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        # The library's own text may quote the token.
        raise InvalidMessage(
            f"room token: expected a LiveKit access token (a JWT), got none ({type(error).__name__})"
        ) from None
    return dict(claims)


def _text(claims: dict[str, object], name: str, what: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidMessage(f"room token: expected {what}, got none", missing=name)
    if len(value) > MAX_IDENTITY_CHARS:
        raise InvalidMessage(
            f"room token: expected {what} of at most {MAX_IDENTITY_CHARS} characters, got {len(value)}"
        )
    return value


def _optional_text(value: object) -> str | None:
    return value[:MAX_IDENTITY_CHARS] if isinstance(value, str) and value else None


def _behalf(claims: dict[str, object]) -> str | None:
    attributes = claims.get("attributes")
    if not isinstance(attributes, dict) or not attributes.get(PUBLISH_ON_BEHALF):
        return None
    return _text(attributes, PUBLISH_ON_BEHALF, f"an identity in {PUBLISH_ON_BEHALF}")


def _time(claims: dict[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Unix seconds of some age to come are below 2^53, up to where floats count exactly.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
        raise InvalidMessage(f"room token: expected {name} in Unix seconds, got another value")
    return float(value) if not math.isnan(value) else None


def _check_times(expires_s: float | None, begins_s: float | None, now_s: float) -> None:
    if expires_s is not None and now_s > expires_s + LEEWAY_S:
        raise RoomFailed(
            f"room token: expected a valid one, got one that expired {now_s - expires_s:.0f} s ago"
        )
    if begins_s is not None and now_s < begins_s - LEEWAY_S:
        raise RoomFailed(f"room token: expected a valid one, got one for {begins_s - now_s:.0f} s from now")
