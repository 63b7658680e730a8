from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from serve_app.config import ApiKeyConfig, AuthConfig, GatewayConfig
from serve_app.errors import Unauthorized
from serve_app.gateway.auth import Caller, Keyring, check_origin
from serve_app.session.usage import KeyLimits
from tests.never_shown import NeverShown

pytestmark = pytest.mark.unit

FIRST, SECOND = "ak_first-of-all-the-keys", "ak_second-of-all-the-keys"


def connection(headers: dict[str, str] | None = None, query: str = "") -> HTTPConnection:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return raw_connection(raw, query.encode())


def raw_connection(headers: list[tuple[bytes, bytes]], query: bytes = b"") -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": headers, "query_string": query, "path": "/"})


def key(key_id: str, plain: str, **limits: float) -> ApiKeyConfig:
    sha256 = hashlib.sha256(plain.encode()).hexdigest()
    return ApiKeyConfig.model_validate({"id": key_id, "sha256": sha256, **limits})


@pytest.fixture
def keyring() -> Keyring:
    return Keyring(
        AuthConfig(keys=[key("first", FIRST), key("second", SECOND, max_concurrent=2, minutes=60)])
    )


def test_an_open_server_knows_nobody_and_lets_everybody_in() -> None:
    keyring = Keyring(AuthConfig())
    assert keyring.authenticate(connection()) == Caller(None, None)
    assert keyring.authenticate(connection({"x-api-key": "whatever"}), "else") == Caller(None, None)


def test_a_server_that_requires_keys_and_has_none_lets_nobody_in() -> None:
    keyring = Keyring(AuthConfig(required=True))
    with pytest.raises(Unauthorized):
        keyring.authenticate(connection({"x-api-key": FIRST}))


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-api-key": SECOND}, ""),
        ({"authorization": f"Bearer {SECOND}"}, ""),
        ({"authorization": f"bearer  {SECOND}"}, ""),
        ({}, f"token={SECOND}"),
        ({}, f"avatar=default&token={quote(SECOND)}"),
        ({"authorization": "Basic dXNlcjpwYXNz"}, f"token={SECOND}"),
    ],
)
def test_a_key_is_found_where_clients_put_it(keyring: Keyring, headers: dict[str, str], query: str) -> None:
    caller = keyring.authenticate(connection(headers, query))
    assert caller == Caller("second", KeyLimits("second", max_concurrent=2, minutes=60))


def test_a_key_that_the_door_found_counts_before_all_others(keyring: Keyring) -> None:
    assert keyring.authenticate(connection({"x-api-key": FIRST}), SECOND).key_id == "second"
    with pytest.raises(Unauthorized):
        keyring.authenticate(connection({"x-api-key": FIRST}), "ak_no-such-key-at-all")


@pytest.mark.parametrize(
    ("headers", "query", "found"),
    [
        ({}, "", "none"),
        ({"x-api-key": ""}, "token=", "none"),
        ({"authorization": "Basic hush-hush"}, "", "none"),
        ({"authorization": "Bearer"}, "", "none"),
        ({"x-api-key": "hush-hush"}, "", "one that is not known"),
        ({"x-api-key": FIRST[:-1]}, "", "one that is not known"),
        ({"x-api-key": hashlib.sha256(FIRST.encode()).hexdigest()}, "", "one that is not known"),
        ({"x-api-key": "hush-hush-ö"}, "", "one that is not known"),
        ({}, "token=hush-hush-%ff", "one that is not known"),
    ],
)
def test_a_refusal_says_what_was_expected_and_shows_no_key(
    keyring: Keyring, headers: dict[str, str], query: str, found: str
) -> None:
    with pytest.raises(Unauthorized) as caught:
        keyring.authenticate(connection(headers, query))
    expected = "expected an API key in x-api-key, Authorization: Bearer or ?token="
    assert str(caught.value) == f"{expected}, found {found}"
    NeverShown("hush-hush", FIRST[:-1]).check(caught.value)


def test_nothing_of_a_key_is_logged_or_represented(
    keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = NeverShown(FIRST, SECOND, "ak_some-other-key")
    with hidden.in_logs(caplog):
        hidden.check(keyring, keyring.authenticate(connection({"x-api-key": FIRST})))
        with pytest.raises(Unauthorized) as caught:
            keyring.authenticate(connection({"x-api-key": "ak_some-other-key"}))
        hidden.check(caught.value)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"x-api-key", b"authorization", b"host", b"cookie"]),
        st.binary(max_size=80) | st.builds(lambda tail: b"Bearer " + tail, st.binary(max_size=60)),
    ),
    max_size=4,
)


@given(headers=HEADERS, query=st.binary(max_size=80), given_key=st.none() | st.text(max_size=40))
def test_whatever_a_stranger_sends_is_refused(
    headers: list[tuple[bytes, bytes]], query: bytes, given_key: str | None
) -> None:
    keyring = Keyring(AuthConfig(keys=[key("first", FIRST)]))
    with pytest.raises(Unauthorized):
        keyring.authenticate(raw_connection(headers, query), given_key)


def test_a_lone_surrogate_is_no_key(keyring: Keyring) -> None:
    with pytest.raises(Unauthorized):
        keyring.authenticate(connection(), "\ud800")


# Origins


@pytest.mark.parametrize("origin", [None, "https://here.example", "https://here.example:443"])
def test_pages_of_this_host_may_enter(origin: str | None) -> None:
    headers = {"host": "here.example"} | ({} if origin is None else {"origin": origin})
    check_origin(connection(headers), GatewayConfig())


@pytest.mark.parametrize("origin", ["https://there.example", "null", "https://here.example:444", "http://["])
def test_pages_of_other_hosts_may_not(origin: str) -> None:
    with pytest.raises(Unauthorized, match=r"gateway\.allowed_origins"):
        check_origin(connection({"host": "here.example", "origin": origin}), GatewayConfig())


@pytest.mark.parametrize("allowed", ["*", "https://there.example", "https://There.example/"])
def test_pages_of_allowed_origins_may_enter(allowed: str) -> None:
    headers = {"host": "here.example", "origin": "https://there.example"}
    check_origin(connection(headers), GatewayConfig(allowed_origins=[allowed]))


@given(origin=st.binary(max_size=60), host=st.binary(max_size=60))
def test_whatever_stands_for_an_origin_is_let_in_or_refused(origin: bytes, host: bytes) -> None:
    try:
        check_origin(raw_connection([(b"origin", origin), (b"host", host)]), GatewayConfig())
    except Unauthorized:
        return
