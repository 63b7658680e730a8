from __future__ import annotations

import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidMessage
from serve_app.rooms.address import MAX_NAME_CHARS, MAX_TOKEN_CHARS, MAX_URL_CHARS, check_spec, is_loopback
from serve_app.rooms.base import RoomSpec

pytestmark = pytest.mark.unit

Platform = Literal["livekit", "daily"]


@pytest.mark.parametrize(
    ("platform", "url", "host"),
    [
        ("livekit", "wss://project.livekit.cloud", "project.livekit.cloud"),
        ("livekit", "https://livekit.example.com:7880/", "livekit.example.com"),
        ("livekit", "ws://localhost:7880", "localhost"),
        ("livekit", "ws://127.0.0.1:7880", "127.0.0.1"),
        ("livekit", "ws://[::1]:7880", "::1"),
        ("daily", "https://domain.daily.co/room", "domain.daily.co"),
        ("daily", "http://127.0.0.1/room", "127.0.0.1"),
    ],
)
def test_usable_addresses_give_their_host(platform: Platform, url: str, host: str) -> None:
    assert check_spec(RoomSpec(platform, url, "token")) == host


@pytest.mark.parametrize(
    ("platform", "url", "expected"),
    [
        ("livekit", "ws://livekit.example.com", "expected wss:// or https://, got ws://"),
        ("livekit", "file:///etc/passwd", "host"),
        ("livekit", "", "host"),
        ("livekit", "livekit.example.com", "host"),
        ("livekit", "wss://user:secret@example.com", "no user or password"),
        ("livekit", "wss://exa mple.com", "printable ASCII"),
        ("livekit", "wss://example.com\n", "printable ASCII"),
        ("livekit", "wss://exämple.com", "printable ASCII"),
        ("livekit", "wss://example.com:99999", "cannot be read"),
        ("livekit", "wss://example.com:0", "port from 1"),
        ("livekit", "wss://[::1", "cannot be read"),
        ("livekit", "wss://" + "a" * MAX_URL_CHARS, f"at most {MAX_URL_CHARS}"),
        ("daily", "wss://domain.daily.co/room", "expected https://, got wss://"),
        ("daily", "http://domain.daily.co/room", "expected https://, got http://"),
        ("daily", "https://domain.daily.co/", "no room name"),
    ],
)
def test_other_addresses_are_refused_with_what_was_expected(
    platform: Platform, url: str, expected: str
) -> None:
    with pytest.raises(InvalidMessage, match=expected):
        check_spec(RoomSpec(platform, url, "token"))


@pytest.mark.parametrize("token", ["", "a b", "tokén", "t" * (MAX_TOKEN_CHARS + 1)])
def test_tokens_no_room_can_have_are_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidMessage, match="room token") as refusal:
        check_spec(RoomSpec("livekit", "wss://example.com", token))
    assert not token or token not in str(refusal.value)


def test_public_daily_room_needs_no_token() -> None:
    assert check_spec(RoomSpec("daily", "https://domain.daily.co/room", ""))


def test_long_names_are_refused() -> None:
    with pytest.raises(InvalidMessage, match="display_name"):
        check_spec(RoomSpec("livekit", "wss://example.com", "t", display_name="n" * (MAX_NAME_CHARS + 1)))


def test_only_this_machine_is_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "a.localhost", "127.8.0.1", "::1"))
    assert not any(is_loopback(host) for host in ("localhost.example.com", "10.0.0.1", "127.0.0.1.nip.io"))


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(["livekit", "daily"]))
def test_whatever_arrives_is_taken_or_refused(url: str, token: str, platform: Platform) -> None:
    for address in (url, f"wss://{url}", f"https://{url}"):
        with contextlib.suppress(InvalidMessage):
            check_spec(RoomSpec(platform, address, token))
