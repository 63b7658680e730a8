"""Document 001's REST, as its client and the LiveKit plugins that know a provider call it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.config import (
    ApiKeyConfig,
    AppConfig,
    AuthConfig,
    AvatarsConfig,
    GatewayConfig,
    LinkConfig,
    RoomsConfig,
)
from serve_app.errors import (
    AdmissionRefused,
    AvatarError,
    ConcurrencyExceeded,
    QuotaExceeded,
    RoomFailed,
)
from serve_app.gateway.auth import Keyring
from serve_app.gateway.avatar.rest import SessionsDoor
from serve_app.gateway.tokens import SessionTokens
from serve_app.session.usage import UsageReport
from tests.fakes import Call, FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

ID = "sess_h0123456789abcdef"
KEY = "ah_live_" + "k" * 32
SECRET = "s" * 40


class Usage:
    """Says the same of every key."""

    async def usage(self, key_id: str | None) -> UsageReport:
        return UsageReport(key_id, 1.7e9, 1.7025e9, 30.5, 100.0, 69.5, 1, 2.25, 5)


def room_token(**claims: Any) -> str:
    grant = {"roomJoin": True, "room": "demo", "canPublish": True}
    return jwt.encode(
        {"iss": "key", "sub": "avatar", "exp": int(time.time()) + 3600, "video": grant, **claims},
        "another server's secret, not ours to know",
        algorithm="HS256",
    )


class Server:
    """The door over fakes, and a client with a key."""

    def __init__(self, config: AppConfig | None = None) -> None:
        self.config = config or closed_config()
        self.link = FakeSessionLink(ID)
        self.link.key_id = "one" if self.config.auth.keys else None
        self.opener = FakeSessionOpener(self.link)
        self.opener.resumable[ID] = self.link
        self.tokens = SessionTokens(self.config.auth)
        door = SessionsDoor(self.opener, Keyring(self.config.auth), self.tokens, Usage(), self.config)
        self.client = TestClient(Starlette(routes=door.routes()), headers={"x-api-key": KEY})

    def request(self) -> Any:
        """Return what the opener was asked for last."""
        return next(call.args[0] for call in reversed(self.opener.calls) if call.name == "open")


def closed_config(**sections: Any) -> AppConfig:
    key = ApiKeyConfig(id="one", sha256=hashlib.sha256(KEY.encode()).hexdigest())
    other = ApiKeyConfig(id="two", sha256=hashlib.sha256(b"t" * 40).hexdigest())
    return AppConfig(auth=AuthConfig(keys=[key, other], session_secret=SecretStr(SECRET)), **sections)


# Sessions.


def test_a_session_is_created_as_the_document_shows_it() -> None:
    server = Server()
    server.link.metadata = {"user": 7}
    answer = server.client.post("/v1/sessions", json={"avatar": "default", "metadata": {"user": 7}})
    assert answer.status_code == 200
    body = answer.json()
    session = body.pop("session")
    token = session.pop("session_token")
    assert body == {
        "success": True,
        "usage": {
            "concurrency": {"current": 1, "max": 5, "available": 4},
            "minutes": {"total_remaining": 69.5},
        },
        "message": "Session created successfully",
    }
    assert server.tokens.check(token, ID) == "one"
    assert session == {
        "session_id": ID,
        "status": "started",
        "avatar": "default",
        "aspect_ratio": "1:1",
        "started_at": "2023-11-14T22:13:20.000Z",
        "ended_at": None,
        "expiration": "2023-11-15T02:13:20.000Z",
        "metadata": {"user": 7},
        "server_ws_uri": "ws://testserver/v1/avatar",
        "room": {
            "platform": "proxy",
            "roomURL": f"http://testserver/whep/{ID}",
            "participantToken": token,
        },
    }
    assert server.request().key_id == "one"
    assert server.request().awaits == "socket"
    assert server.link.detached.is_set()


def test_addresses_follow_the_configured_one() -> None:
    server = Server(closed_config(gateway=GatewayConfig(public_url="https://avatars.example")))
    session = server.client.post("/v1/sessions", json={}).json()["session"]
    assert session["server_ws_uri"] == "wss://avatars.example/v1/avatar"
    assert session["room"]["roomURL"] == f"https://avatars.example/whep/{ID}"


def test_a_session_may_go_to_a_room_of_the_callers() -> None:
    server = Server()
    daily = {"platform": "daily", "url": "https://x.daily.co/r", "token": "t", "display_name": "Ada"}
    session = server.client.post("/v1/sessions", json={"room": daily}).json()["session"]
    assert "room" not in session
    spec = server.request().room
    assert (spec.platform, spec.url, spec.token, spec.display_name) == ("daily", daily["url"], "t", "Ada")
    assert spec.hears == "nobody"
    assert server.request().kept_by == ("lease", "room")


def test_in_a_livekit_room_the_agent_that_asked_speaks() -> None:
    server = Server()
    room = {"platform": "livekit", "url": "wss://lk.example", "token": room_token()}
    assert server.client.post("/v1/sessions", json={"room": room}).status_code == 200
    assert server.request().room.hears == "nobody"
    room["token"] = room_token(attributes={"lk.publish_on_behalf": "agent"})
    assert server.client.post("/v1/sessions", json={"room": room}).status_code == 200
    assert server.request().room.hears == "agent"
    assert server.request().awaits == "nothing"


def test_another_services_avatar_ids_may_be_aliases() -> None:
    server = Server(
        closed_config(avatars=AvatarsConfig(aliases={"avat_01KMZJ4WE5QCD9G3EK21QW8NJK": "default"}))
    )
    assert server.client.post("/v1/sessions", json={"avatar": "avat_01KMZJ4WE5QCD9G3EK21QW8NJK"}).is_success
    assert server.request().avatar_id == "default"


def test_a_session_ends_once_and_says_so_twice() -> None:
    server = Server()
    first = server.client.post(f"/v1/sessions/{ID}/end").json()
    second = server.client.put(f"/v1/sessions/{ID}/end").json()
    assert first == second
    assert first["session"]["status"] == "ended"
    assert first["session"]["ended_at"] == "2023-11-14T22:14:20.000Z"
    assert server.link.names().count("close") == 1


def test_another_keys_session_is_not_found() -> None:
    server = Server()
    for method, path in (("GET", ID), ("POST", f"{ID}/end"), ("GET", "sess_unknown"), ("POST", "x/end")):
        answer = server.client.request(method, f"/v1/sessions/{path}", headers={"x-api-key": "t" * 40})
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "SESSION_NOT_FOUND"
    assert "close" not in server.link.names()


# What is refused.


def test_without_a_key_the_older_error_is_told() -> None:
    server = Server()
    for method, path in (("POST", "/v1/sessions"), ("GET", "/v1/usage"), ("GET", "/v1/avatars")):
        answer = server.client.request(method, path, headers={"x-api-key": ""})
        assert (answer.status_code, answer.json()) == (401, {"error": "API key required"})
    answer = server.client.get("/v1/usage", headers={"x-api-key": "x" * 40})
    assert answer.status_code == 401
    assert "x" * 40 not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QuotaExceeded("60 minutes"), 402, "INSUFFICIENT_MINUTES"),
        (ConcurrencyExceeded("5 sessions", 5.0), 429, "CONCURRENCY_LIMIT"),
        (AdmissionRefused("no room", 5.0), 503, "NO_CAPACITY"),
        (RoomFailed("no SDK"), 422, "ROOM_FAILED"),
        (AvatarError("a secret"), 500, "INTERNAL"),
    ],
)
def test_each_refusal_has_its_answer(error: AvatarError, status: int, code: str) -> None:
    server = Server()
    server.opener.fail = error
    answer = server.client.post("/v1/sessions", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["success"] is False
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    assert "a secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"avatar": "nobody"}, 404),
        ({"avatar": "https://images.example/face.png"}, 404),
        ({"avatar": "data:image/png;base64,AAAA"}, 404),
        ({"aspect_ratio": "round"}, 400),
        ({"room": {"platform": "zoom"}}, 400),
        ({"room": {"platform": "livekit", "url": "wss://lk.example", "token": "no jwt"}}, 422),
        ({"room": {"platform": "livekit", "url": "wss://lk.example"}}, 422),
        ({"room": {"platform": "livekit", "url": "ws://lk.example", "token": room_token()}}, 422),
        ({"room": {"platform": "livekit", "url": "wss://a:b@lk.example", "token": room_token()}}, 422),
        ({"room": {"platform": "daily", "url": "https://x.daily.co/"}}, 422),
        ({"room": {"platform": "daily", "url": "not an address"}}, 422),
        ({"metadata": {"a": "x" * 20_000}}, 400),
        ([], 400),
    ],
)
def test_unusable_requests_are_told_what_is_wrong(body: Any, status: int) -> None:
    server = Server()
    answer = server.client.post("/v1/sessions", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert not [call for call in server.opener.calls if call.name == "open"]


def test_a_body_without_end_is_not_read() -> None:
    answer = Server().client.post("/v1/sessions", content=b" " * 70_000)
    assert answer.status_code == 413


def test_rooms_of_other_hosts_can_be_forbidden() -> None:
    server = Server(closed_config(rooms=RoomsConfig(allowed_hosts=["*.livekit.cloud"])))
    room = {"platform": "livekit", "url": "wss://internal.example", "token": room_token()}
    assert server.client.post("/v1/sessions", json={"room": room}).status_code == 422
    room["url"] = "wss://demo.livekit.cloud"
    assert server.client.post("/v1/sessions", json={"room": room}).status_code == 200


def test_a_session_whose_answer_fails_is_closed() -> None:
    server = Server()
    server.link.fail["facts"] = AvatarError("gone")
    assert server.client.post("/v1/sessions", json={}).status_code == 500
    assert server.link.closed.is_set()


# What there is.


def test_avatars_and_usage_are_told() -> None:
    server = Server()
    avatars = server.client.get("/v1/avatars").json()["avatars"]
    (default,) = [avatar for avatar in avatars if avatar["avatar_id"] == "default"]
    assert default["aspect_ratio"] == "1:1"
    assert default["name"]
    assert default["preview_url"] == "http://testserver/avatars/default/preview.png"
    assert default["image_url"] == "http://testserver/avatars/default/portrait.png"
    usage = server.client.get("/v1/usage").json()["usage"]
    assert usage["total_remaining"] == 69.5
    assert usage["active_sessions"] == 1
    assert usage["active_minutes"] == 2.25
    assert usage["concurrency"] == {"current": 1, "max": 5, "available": 4}
    assert usage["plan"]["max_session_duration"] == 240


# Links and providers.


def test_a_start_link_needs_no_key_and_gives_a_room_of_its_own() -> None:
    rooms = RoomsConfig(
        livekit_url="wss://lk.example",
        livekit_api_key="lk",
        livekit_api_secret=SecretStr("r" * 32),
        links=[LinkConfig(id="lnk_12345678", key_id="one")],
    )
    server = Server(closed_config(rooms=rooms))
    follow: Callable[[str], Any] = lambda link_id: server.client.post(  # noqa: E731
        "/v1/links/start-session", json={"link_id": link_id}, headers={"x-api-key": ""}
    )
    body = follow("lnk_12345678").json()
    assert {key: body[key] for key in ("success", "session_id", "livekit_url", "agent_identity")} == {
        "success": True,
        "session_id": ID,
        "livekit_url": "wss://lk.example",
        "agent_identity": "agenthuman-avatar-agent",
    }
    guest = jwt.decode(body["participant_token"], "r" * 32, algorithms=["HS256"])
    spec = server.request().room
    avatar = jwt.decode(spec.token, "r" * 32, algorithms=["HS256"])
    assert guest["video"]["room"] == avatar["video"]["room"]
    assert avatar["sub"] == "agenthuman-avatar-agent"
    assert server.request().key_id == "one"
    assert spec.hears == "guests", "the avatar talks with whoever follows the link"
    conversation = server.request().conversation
    assert (conversation.agent, conversation.sound_in, conversation.sound_out) == (None, "track", "media")
    assert server.request().kept_by == ("room",)
    assert follow("lnk_unknown0").status_code == 404
    assert (
        Server(closed_config(rooms=RoomsConfig(links=rooms.links)))
        .client.post("/v1/links/start-session", json={"link_id": "lnk_12345678"})
        .status_code
        == 422
    )


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["/v1/sessions", "/v1/links/start-session"]))
def test_whatever_is_posted_the_answer_is_the_doors_own(body: bytes, path: str) -> None:
    answer = Server().client.post(path, content=body)
    if answer.status_code == 200:  # every field of a session has a default
        assert (path, json.loads(body)) == ("/v1/sessions", {})
        return
    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_open_servers_need_no_key() -> None:
    server = Server(AppConfig())
    assert server.client.post("/v1/sessions", json={}, headers={"x-api-key": ""}).is_success
    assert server.opener.calls[0] == Call("open", (server.request(),))
