from __future__ import annotations

import logging

import pytest

from serve_app.rooms.base import RoomSpec
from serve_app.rooms.redaction import MAX_CHARS, RedactingFilter, redact

pytestmark = pytest.mark.unit

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "said",
    [
        f"failed to connect to wss://host.example.com/rtc?access_token={JWT}&sdk=python",
        f"token {JWT} has expired",
        f"GET /rtc?access_token={JWT}",
        "lookup of HTTPS://host.example.com failed",
    ],
)
def test_addresses_and_tokens_are_taken_out(said: str) -> None:
    redacted = redact(said)
    assert "host.example.com" not in redacted
    assert "eyJ" not in redacted


def test_the_rooms_own_token_and_address_are_taken_out_wherever_they_stand() -> None:
    spec = RoomSpec("daily", "https://domain.daily.co/room", "opaque-token")
    said = "https://domain.daily.co/room refused opaque-token: not allowed"
    assert redact(said, spec) == "<address> refused <token>: not allowed"


def test_long_messages_are_cut() -> None:
    assert len(redact("x" * 5_000)) == MAX_CHARS


def test_filter_rewrites_what_an_sdk_logs(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.redaction")
    logger.addFilter(RedactingFilter())
    with caplog.at_level(logging.WARNING, "tests.redaction"):
        logger.warning("%s:%d - %s", "livekit", 5, f"retrying wss://host.example.com?access_token={JWT}")
    assert caplog.messages == ["livekit:5 - retrying <address>"]
