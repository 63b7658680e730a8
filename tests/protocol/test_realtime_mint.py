from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from serve_app.config import AppConfig, GatewayConfig, IceConfig, IceServer
from serve_app.errors import AdmissionRefused
from serve_app.gateway.ephemeral import Grant
from tests.fakes_keys import BEGIN_S
from tests.protocol.realtime_door import BEARER, Doors, with_keys

pytestmark = pytest.mark.protocol

BETA, GA = "/v1/realtime/sessions", "/v1/realtime/client_secrets"


def refusal(answer: Any) -> tuple[int, str]:
    """Return the status and code of an answer, which must be an error in OpenAI's shape."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert isinstance(body["error"]["message"], str)
    return answer.status_code, body["error"]["code"]


def test_a_beta_key_lasts_a_minute_and_comes_with_its_session() -> None:
    doors = Doors(with_keys())
    answer = doors.http.post(BETA, json={"model": "gpt-4o-realtime-preview", "voice": "ash"}, headers=BEARER)
    minted = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert minted["client_secret"] == {"value": f"ek_{0:032d}", "expires_at": BEGIN_S + 60}
    assert minted["object"] == "realtime.session"
    assert minted["id"].startswith("sess_")
    assert (minted["model"], minted["voice"]) == ("gpt-4o-realtime-preview", "ash")
    assert minted["modalities"] == ["audio", "text"]
    assert doors.keys.lifetimes == [60]
    [grant] = doors.keys.grants.values()
    assert grant == Grant("ada", "beta", "gpt-4o-realtime-preview", {"voice": "ash"})


def test_a_ga_key_lasts_ten_minutes_and_comes_beside_its_session() -> None:
    doors = Doors(with_keys())
    session = {"type": "realtime", "model": "gpt-realtime-2.1", "instructions": "Be brief."}
    minted = doors.http.post(GA, json={"session": session}, headers=BEARER).json()
    assert (minted["value"], minted["expires_at"]) == (f"ek_{0:032d}", BEGIN_S + 600)
    assert minted["session"]["type"] == "realtime"
    assert minted["session"]["model"] == "gpt-realtime-2.1"
    assert minted["session"]["instructions"] == "Be brief."
    [grant] = doors.keys.grants.values()
    assert (grant.key_id, grant.dialect, grant.model) == ("ada", "ga", "gpt-realtime-2.1")
    assert grant.session == {"type": "realtime", "instructions": "Be brief."}


@pytest.mark.parametrize("path", [BETA, GA])
def test_an_empty_body_mints_a_key_for_the_defaults(path: str) -> None:
    doors = Doors()
    answer = doors.http.post(path, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    [grant] = doors.keys.grants.values()
    assert (grant.key_id, grant.model) == (None, "gpt-realtime")


def test_the_lifetime_can_be_asked_for() -> None:
    doors = Doors()
    after = {"anchor": "created_at", "seconds": 7200}
    assert doors.http.post(GA, json={"expires_after": after}).status_code == 200
    assert doors.http.post(BETA, json={"client_secret": {"expires_after": after}}).status_code == 200
    assert doors.keys.lifetimes == [7200, 7200]


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        (GA, {"expires_after": {"seconds": 9}}, "integer_below_min_value", "expires_after.seconds"),
        (GA, {"expires_after": {"seconds": 7201}}, "integer_above_max_value", "expires_after.seconds"),
        (GA, {"expires_after": {"seconds": True}}, "invalid_type", "expires_after.seconds"),
        (GA, {"expires_after": {"anchor": "now"}}, "invalid_value", "expires_after.anchor"),
        (GA, {"expires_after": {"hours": 1}}, "unknown_parameter", "expires_after.hours"),
        (GA, {"expires_after": 60}, "invalid_type", "expires_after"),
        (GA, {"model": "x"}, "unknown_parameter", "model"),
        (GA, {"session": {}}, "missing_required_parameter", "session.type"),
        (GA, {"session": {"type": "realtime", "voice": "ash"}}, "unknown_parameter", "session.voice"),
        (GA, {"session": {"type": "transcription"}}, "invalid_value", "session.type"),
        (GA, {"session": []}, "invalid_type", "session"),
        (GA, {"session": {"type": "realtime", "model": 5}}, "invalid_type", "model"),
        (BETA, {"model": "x" * 129}, "string_above_max_length", "model"),
        (BETA, {"input_audio_format": "mp3"}, "invalid_value", "session.input_audio_format"),
        (BETA, {"client_secret": []}, "invalid_type", "client_secret"),
    ],
)
def test_what_cannot_be_minted_is_refused_with_its_field(path: str, body: Any, code: str, param: str) -> None:
    doors = Doors()
    answer = doors.http.post(path, json=body)
    assert refusal(answer) == (400, code)
    assert answer.json()["error"]["param"] == param
    assert doors.keys.grants == {}


def test_sessions_that_only_transcribe_are_not_offered() -> None:
    answer = Doors().http.post("/v1/realtime/transcription_sessions", json={})
    assert refusal(answer) == (400, "transcription_not_offered")


@pytest.mark.parametrize("path", [BETA, GA, "/v1/realtime/transcription_sessions"])
def test_minting_needs_an_api_key_of_its_own(path: str) -> None:
    doors = Doors(with_keys())
    missing = doors.http.post(path, json={})
    assert refusal(missing) == (401, "invalid_api_key")
    assert missing.headers["www-authenticate"] == "Bearer"
    wrong = {"authorization": "Bearer another-key-0123456789"}
    assert refusal(doors.http.post(path, json={}, headers=wrong)) == (401, "invalid_api_key")
    ephemeral = {"authorization": f"Bearer {doors.mint()}"}
    assert refusal(doors.http.post(path, json={}, headers=ephemeral)) == (401, "invalid_api_key")


def test_too_many_unused_keys_are_told_when_to_come_back() -> None:
    doors = Doors()
    doors.keys.fail = AdmissionRefused("too many ephemeral keys have not expired yet", 12.3)
    answer = doors.http.post(BETA, json={})
    assert refusal(answer) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "13"


def test_an_unexpected_failure_is_told_by_its_kind_alone(caplog: pytest.LogCaptureFixture) -> None:
    doors = Doors()
    doors.keys.fail = ZeroDivisionError("secret")
    answer = doors.http.post(BETA, json={})
    assert refusal(answer) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "a Realtime request failed" in caplog.text


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", b"{}", (415, "unsupported_content_type")),
        ("application/json", b"[", (400, "invalid_json")),
        ("application/json", b"[]", (400, "invalid_json")),
        ("application/json", b'{"a": NaN}', (400, "invalid_json")),
        ("application/json", b"\xff{}", (400, "invalid_json")),
        ("application/json", b"[" * 100_000, (400, "invalid_json")),
        ("application/json", b'{"instructions": "' + b"x" * 2**20 + b'"}', (413, "body_refused")),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    content_type: str, body: bytes, expected: tuple[int, str]
) -> None:
    headers = {"content-type": content_type}
    assert refusal(Doors().http.post(BETA, content=body, headers=headers)) == expected


# What AG2 backends pass on to their pages.


@pytest.mark.parametrize("path", [BETA, GA])
def test_answers_say_where_to_call_and_how(path: str) -> None:
    server = IceServer(urls=["turn:t"], username="u", credential=SecretStr("c"))
    minted = Doors(AppConfig(ice=IceConfig(servers=[server]))).http.post(path, json={}).json()
    assert minted["base_url"] == "http://testserver/v1/realtime"
    assert minted["ice_servers"] == [{"urls": ["turn:t"], "username": "u", "credential": "c"}]
    assert minted["video"] is True


def test_the_address_follows_the_proxy_and_the_configuration() -> None:
    proxied = Doors().http.post(BETA, json={}, headers={"x-forwarded-proto": "https", "host": "a.example"})
    assert proxied.json()["base_url"] == "https://a.example/v1/realtime"
    config = AppConfig(gateway=GatewayConfig(public_url="https://b.example"))
    assert Doors(config).http.post(BETA, json={}).json()["base_url"] == "https://b.example/v1/realtime"


def test_ice_servers_go_to_callers_with_a_key() -> None:
    config = AppConfig(ice=IceConfig(servers=[IceServer(urls=["stun:s"])]))
    doors = Doors(with_keys(config))
    path = "/v1/realtime/ice-servers"
    assert refusal(doors.http.get(path)) == (401, "invalid_api_key")
    for key in (BEARER, {"authorization": f"Bearer {doors.mint()}"}):
        assert doors.http.get(path, headers=key).json() == {"ice_servers": [{"urls": ["stun:s"]}]}


# Pages.


def preflight(doors: Doors, origin: str) -> Any:
    asked = "authorization, content-type, x-openai-agents-sdk, openai-beta"
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    return doors.http.options("/v1/realtime/calls", headers=headers)


def test_pages_of_any_origin_may_use_a_key_where_none_is_configured() -> None:
    doors = Doors(with_keys())
    answer = preflight(doors, "https://page.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    allowed = answer.headers["access-control-allow-headers"].lower()
    for name in ("authorization", "content-type", "x-openai-agents-sdk", "openai-beta"):
        assert name in allowed
    page = {"origin": "https://page.example", **BEARER}
    minted = doors.http.post(BETA, json={}, headers=page)
    assert minted.status_code == 200
    assert minted.headers["access-control-allow-origin"] == "*"
    exposed = minted.headers["access-control-expose-headers"].lower()
    assert "location" in exposed


def test_an_open_server_serves_no_pages_of_other_origins() -> None:
    doors = Doors()
    answer = doors.http.post(BETA, json={}, headers={"origin": "https://page.example"})
    assert refusal(answer) == (403, "origin_not_allowed")
    assert doors.http.post(BETA, json={}, headers={"origin": "http://testserver"}).status_code == 200


def test_configured_origins_bind_everybody() -> None:
    config = AppConfig(gateway=GatewayConfig(allowed_origins=["https://mine.example"]))
    doors = Doors(with_keys(config))
    assert preflight(doors, "https://page.example").status_code == 400
    other = {"origin": "https://page.example", **BEARER}
    assert refusal(doors.http.post(BETA, json={}, headers=other)) == (403, "origin_not_allowed")
    mine = {"origin": "https://mine.example", **BEARER}
    answer = doors.http.post(BETA, json={}, headers=mine)
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"


# Fuzz.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["session", "expires_after", "model", "type", "audio", "client_secret", "tools", "seconds", "anchor"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from([BETA, GA]), body=st.dictionaries(FIELDS, JSON, max_size=5) | JSON)
def test_whatever_is_posted_the_answer_is_a_key_or_an_error_of_this_door(path: str, body: Any) -> None:
    answer = Doors().http.post(
        path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    if answer.status_code != 200:
        status, code = refusal(answer)
        assert status == 400, code
