"""The JSON of document 001's session REST: what clients send, and the shapes of the answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import InvalidMessage
from serve_app.gateway.link import SessionFacts
from serve_app.session.usage import UsageReport

MAX_METADATA_BYTES = 16_384

AspectRatio = Literal["1:1", "4:3", "3:4", "16:9", "9:16"]
"""Any of the document's is taken; pictures are square."""


class RoomRequest(BaseModel):
    """The caller's room; "proxy" asks for one of this server's own, to be watched over WHEP."""

    model_config = ConfigDict(extra="ignore")

    platform: Literal["livekit", "daily", "proxy"] = "proxy"
    url: str = Field(default="", max_length=2048)
    token: str = Field(default="", max_length=16_384)
    display_name: str = Field(default="Avatar", max_length=128)


class CreateSession(BaseModel):
    """The body of `POST /v1/sessions`; the older API's `avatar_id` is `avatar`.

    One with a `transport` is Beyond Presence's, whose plugin calls the same path; see `providers`.
    """

    model_config = ConfigDict(extra="ignore")

    avatar: str | None = Field(default=None, max_length=14 * 1_048_576)
    avatar_id: str | None = Field(default=None, max_length=256)
    aspect_ratio: AspectRatio = "1:1"
    room: RoomRequest = RoomRequest()
    transport: str | None = Field(default=None, max_length=32)
    metadata: dict[str, Any] = {}


class StartLink(BaseModel):
    """The body of `POST /v1/links/start-session`."""

    model_config = ConfigDict(extra="ignore")

    link_id: str = Field(max_length=128)
    aspect_ratio: AspectRatio = "1:1"


def parsed(model: type[BaseModel], body: bytes) -> Any:  # noqa: ANN401 - the model's own type
    """Return a request's body as `model`.

    Raises:
        InvalidMessage: it is not JSON, or a field is missing or wrong; the text names it, not what it holds.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        missing = place if first["type"] == "missing" else None
        raise InvalidMessage(f"{place}: {first['msg']}", missing) from None


def time_text(posix_s: float) -> str:
    """Return a POSIX time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(posix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def session_shape(facts: SessionFacts, *, status: str, token: str | None = None) -> dict[str, Any]:
    """Return the `session` of an answer."""
    shape: dict[str, Any] = {
        "session_id": facts.session_id,
        "status": status,
        "avatar": facts.avatar_id,
        "aspect_ratio": "1:1",
        "started_at": time_text(facts.started_at),
        "ended_at": None,
        "expiration": time_text(facts.expires_at),
        "metadata": facts.metadata,
    }
    if token is not None:
        shape["session_token"] = token
    return shape


def usage_shape(report: UsageReport) -> dict[str, Any]:
    """Return the `usage` of an answer; null where nothing limits."""
    limit = report.max_concurrent
    return {
        "concurrency": {
            "current": report.active_sessions,
            "max": limit,
            "available": None if limit is None else max(0, limit - report.active_sessions),
        },
        "minutes": {"total_remaining": _minutes(report.remaining_minutes)},
    }


def period_shape(report: UsageReport, max_duration_s: float) -> dict[str, Any]:
    """Return the answer of `GET /v1/usage`."""
    return {
        "success": True,
        "usage": {
            "period": {"start": time_text(report.period_start), "end": time_text(report.period_end)},
            "included_minutes": _minutes(report.included_minutes),
            "purchased_minutes": 0,
            "used_minutes": _minutes(report.used_minutes),
            "total_remaining": _minutes(report.remaining_minutes),
            "active_sessions": report.active_sessions,
            "active_minutes": _minutes(report.active_minutes),
            "concurrency": usage_shape(report)["concurrency"],
            "plan": {
                "key": report.key_id,
                "name": report.key_id,
                "max_session_duration": _minutes(max_duration_s / 60),
                "will_renew": True,
            },
        },
    }


def _minutes(minutes: float | None) -> float | None:
    return None if minutes is None else round(minutes, 2)
