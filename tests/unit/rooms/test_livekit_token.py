from __future__ import annotations

import contextlib
import datetime
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidMessage, RoomFailed
from serve_app.rooms.livekit_token import LEEWAY_S, PUBLISH_ON_BEHALF, LiveKitGrant, read_grant

pytestmark = pytest.mark.unit

NOW_S = 1_800_000_000.0
SECRET = "s" * 32


def token(**changes: Any) -> str:
    claims: dict[str, Any] = {
        "sub": "bey-avatar-agent",
        "name": "Avatar",
        "kind": "agent",
        "iss": "key",
        "exp": int(NOW_S) + 600,
        "nbf": int(NOW_S),
        "video": {"roomJoin": True, "room": "demo", "canPublish": True},
        "attributes": {PUBLISH_ON_BEHALF: "agent-1"},
    }
    claims.update(changes)
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, SECRET, "HS256")


def test_grant_is_read_without_the_secret() -> None:
    assert read_grant(token(), NOW_S) == LiveKitGrant(
        room="demo",
        identity="bey-avatar-agent",
        name="Avatar",
        kind="agent",
        expires_s=NOW_S + 600,
        publish_on_behalf="agent-1",
        can_rename=False,
    )


def test_tokens_of_livekits_own_package_are_read() -> None:
    api = pytest.importorskip("livekit.api")
    made = (
        api.AccessToken("key", SECRET)
        .with_identity("avatar")
        .with_kind("agent")
        .with_grants(api.VideoGrants(room_join=True, room="demo", can_update_own_metadata=True))
        .with_attributes({PUBLISH_ON_BEHALF: "agent-1"})
        .with_ttl(datetime.timedelta(minutes=5))
        .to_jwt()
    )
    grant = read_grant(made, datetime.datetime.now(datetime.UTC).timestamp())
    assert (grant.room, grant.identity, grant.publish_on_behalf) == ("demo", "avatar", "agent-1")
    assert grant.can_rename


def test_token_for_nobody_in_particular_names_no_agent() -> None:
    grant = read_grant(token(attributes=None, name=None, kind=None, exp=None), NOW_S)
    assert grant.publish_on_behalf is None
    assert grant.expires_s is None
    assert (grant.name, grant.kind) == ("", "")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": int(NOW_S) - 90}, "expected a valid one, got one that expired 90 s ago"),
        ({"nbf": int(NOW_S) + 90}, "expected a valid one, got one for 90 s from now"),
        ({"video": {"room": "demo"}}, "expected the grant roomJoin"),
        ({"video": {"roomJoin": True, "room": "demo", "canPublish": False}}, "may publish"),
    ],
)
def test_tokens_that_let_nobody_in_are_refused_early(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(RoomFailed, match=expected):
        read_grant(token(**changes), NOW_S)


def test_clocks_may_differ_a_little() -> None:
    assert read_grant(token(exp=int(NOW_S - LEEWAY_S) + 1, nbf=int(NOW_S + LEEWAY_S) - 1), NOW_S)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"video": None}, "video grant"),
        ({"video": {"roomJoin": True}}, "the grant's room"),
        ({"sub": None}, "identity"),
        ({"sub": "x" * 300}, "at most 256"),
        ({"exp": "soon"}, "exp in Unix seconds"),
        ({"exp": True}, "exp in Unix seconds"),
        ({"exp": float("inf")}, "exp in Unix seconds"),
        ({"attributes": {PUBLISH_ON_BEHALF: 5}}, "identity"),
    ],
)
def test_tokens_of_another_kind_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidMessage, match=expected):
        read_grant(token(**changes), NOW_S)


@pytest.mark.parametrize("text", ["", "a.b.c", "not a token", "eyJhbGciOiJIUzI1NiJ9.W10.c2ln"])
def test_text_that_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidMessage, match="expected a LiveKit access token") as refusal:
        read_grant(text, NOW_S)
    assert not text or text not in str(refusal.value)


def test_deeply_nested_claims_are_refused() -> None:
    body = jwt.utils.base64url_encode(b'{"a":' + b"[" * 5_000).decode()
    with pytest.raises(InvalidMessage):
        read_grant(f"eyJhbGciOiJIUzI1NiJ9.{body}.c2ln", NOW_S)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["sub", "exp", "nbf", "video", "attributes", "name", "kind"]
GRANTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("roomJoin", "room", "canPublish"), JSON))


@given(st.dictionaries(st.sampled_from(NAMES), JSON | GRANTS), st.text(max_size=40))
def test_whatever_arrives_is_read_or_refused(claims: dict[str, Any], text: str) -> None:
    with contextlib.suppress(InvalidMessage, RoomFailed):
        read_grant(text, NOW_S)
    base = {"sub": "a", "video": {"roomJoin": True, "room": "r"}}
    with contextlib.suppress(InvalidMessage, RoomFailed):
        body = jwt.utils.base64url_encode(json.dumps(base | claims).encode()).decode()
        read_grant(f"eyJhbGciOiJIUzI1NiJ9.{body}.c2ln", NOW_S)
