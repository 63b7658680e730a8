"""The calls of LiveKit Agents' plugins for other services, as their source (1.8.9, and before) makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.config import AppConfig, AvatarsConfig, RoomsConfig
from serve_app.errors import AdmissionRefused, ConcurrencyExceeded
from tests.protocol.test_rest import ID, KEY, Server, closed_config, room_token

pytestmark = pytest.mark.protocol

URL = "wss://lk.example"
BEARER = {"authorization": f"Bearer {KEY}", "x-api-key": ""}
NO_KEY = {"x-api-key": ""}


def agents_token(identity: str = "bey-avatar-agent") -> str:
    return room_token(sub=identity, kind="agent", attributes={"lk.publish_on_behalf": "agent"})


def assert_opened(server: Server, token: str, *, key_id: str | None = "one") -> None:
    """The same session is opened, whichever call asked for it."""
    request = server.request()
    assert (request.room.platform, request.room.url, request.room.token) == ("livekit", URL, token)
    assert request.room.hears == "agent"
    assert (request.key_id, request.awaits, request.kept_by) == (key_id, "nothing", ("room",))
    assert request.conversation is None
    assert server.link.detached.is_set()
    assert token not in repr(request)


def bey(token: str, **fields: Any) -> dict[str, Any]:
    return {"transport": "livekit", "avatar_id": "default", "url": URL, "token": token, **fields}


def anam(token: str, **persona: Any) -> dict[str, Any]:
    return {
        "personaConfig": {
            "type": "ephemeral",
            "name": "Ada",
            "avatarId": "default",
            "llmId": "CUSTOMER_CLIENT_V1",
            **persona,
        },
        "environment": {"livekitUrl": URL, "livekitToken": token},
        "sessionOptions": {"videoWidth": 720, "videoHeight": 480},
    }


def keyframe(token: str, **persona: str) -> dict[str, Any]:
    return {
        "room_name": "demo",
        "livekit_url": URL,
        "livekit_token": token,
        "source_participant_identity": "agent",
        **persona,
    }


SIMLI = {"faceId": "default/happy_0", "handleSilence": True, "maxSessionLength": 600, "maxIdleTime": 30}


# Beyond Presence.


def test_bey_asks_on_the_path_of_document_001() -> None:
    server, token = Server(), agents_token()
    answer = server.client.post("/v1/sessions", json=bey(token))
    assert (answer.status_code, answer.json()) == (201, {"id": ID, "session_id": ID})
    assert_opened(server, token)
    assert server.request().avatar_id == "default"


def test_bey_before_1_8_9_asks_on_a_path_of_its_own() -> None:
    server, token = Server(), agents_token()
    body = {"avatar_id": "default", "livekit_url": URL, "livekit_token": token}
    assert server.client.post("/v1/session", json=body).status_code == 201
    assert_opened(server, token)


@pytest.mark.parametrize(
    "avatar_id", ["b9be11b8-89fb-4227-8f86-4a881393cbdb", "avat_01KMZJ4WE5QCD9G3EK21QW8NJK"]
)
def test_plugins_whose_user_named_no_avatar_get_the_configured_one(avatar_id: str) -> None:
    server = Server()
    assert server.client.post("/v1/sessions", json=bey(agents_token(), avatar_id=avatar_id)).is_success
    assert server.request().avatar_id is None
    aliases = {avatar_id: "default"}
    server = Server(closed_config(avatars=AvatarsConfig(aliases=aliases)))
    assert server.client.post("/v1/sessions", json=bey(agents_token(), avatar_id=avatar_id)).is_success
    assert server.request().avatar_id == "default"


def test_other_transports_of_bey_are_not_served() -> None:
    server = Server()
    answer = server.client.post("/v1/sessions", json=bey(agents_token(), transport="pipecat"))
    assert answer.status_code == 400
    assert "transport" in answer.json()["error"]["message"]


# Anam.


def test_anam_asks_once_with_its_key() -> None:
    server, token = Server(), agents_token("anam-avatar-agent")
    answer = server.client.post("/v1/engine/session", json=anam(token), headers=BEARER)
    assert (answer.status_code, answer.json()) == (200, {"sessionId": ID})
    assert_opened(server, token)


def test_anam_before_1_8_9_asks_for_a_token_and_brings_it_back_alone() -> None:
    server, token = Server(), agents_token("anam-avatar-agent")
    first = server.client.post("/v1/auth/session-token", json=anam(token), headers=BEARER)
    assert set(first.json()) == {"sessionToken"}
    assert not server.opener.calls
    headers = {"authorization": f"Bearer {first.json()['sessionToken']}", **NO_KEY}
    second = server.client.post("/v1/engine/session", json={}, headers=headers)
    assert (second.status_code, second.json()) == (200, {"sessionId": ID})
    assert_opened(server, token)
    assert server.request().avatar_id == "default"


def test_anam_is_told_of_a_missing_avatar_when_it_asks_for_the_token() -> None:
    server = Server()
    body = anam(agents_token(), avatarId="somebody-of-anams")
    answer = server.client.post("/v1/auth/session-token", json=body, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "AVATAR_NOT_FOUND")


# Simli.


def test_simli_brings_the_room_after_the_face() -> None:
    server, token = Server(), agents_token("simli-avatar-agent")
    headers = {"x-simli-api-key": KEY, **NO_KEY}
    first = server.client.post("/compose/token", json=SIMLI, headers=headers)
    assert set(first.json()) == {"session_token"}
    body = {"session_token": first.json()["session_token"], "livekit_token": token, "livekit_url": URL}
    second = server.client.post("/integrations/livekit/agents", json=body, headers=NO_KEY)
    assert second.status_code == 200
    assert_opened(server, token)
    assert (server.request().avatar_id, server.request().max_duration_s) == ("default", 600.0)


def test_tokens_are_good_for_their_own_call_alone() -> None:
    server, token = Server(), agents_token()
    simli = server.client.post("/compose/token", json=SIMLI).json()["session_token"]
    session = server.tokens.issue(ID, "one", 60.0)
    anams = server.client.post("/v1/auth/session-token", json=anam(token)).json()["sessionToken"]
    for wrong in (simli, session, "nonsense", ""):
        headers = {"authorization": f"Bearer {wrong}", **NO_KEY}
        assert server.client.post("/v1/engine/session", json={}, headers=headers).status_code == 401
    for wrong in (anams, session, "nonsense", ""):
        body = {"session_token": wrong, "livekit_token": token, "livekit_url": URL}
        assert server.client.post("/integrations/livekit/agents", json=body).status_code == 401
    assert not server.opener.calls


# Keyframe.


@pytest.mark.parametrize("persona", ["persona_id", "persona_slug"])
def test_keyframe_learns_who_its_avatar_is_in_the_room(persona: str) -> None:
    server, token = Server(), agents_token("keyframe-avatar-agent")
    body = keyframe(token, **{persona: "default"})
    answer = server.client.post("/v1/sessions/plugins/livekit", json=body, headers=BEARER)
    assert answer.status_code == 201
    assert answer.json() == {
        "reservation_id": ID,
        "avatar_participant_identity": "keyframe-avatar-agent",
        "model_id": server.config.model,
    }
    assert_opened(server, token)


# All of them.

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/sessions", bey(agents_token())),
    ("/v1/session", bey(agents_token())),
    ("/v1/auth/session-token", anam(agents_token())),
    ("/v1/engine/session", anam(agents_token())),
    ("/compose/token", SIMLI),
    ("/v1/sessions/plugins/livekit", keyframe(agents_token(), persona_id="default")),
]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_without_a_key_nobody_is_served(path: str, body: dict[str, Any]) -> None:
    server = Server()
    for headers in (NO_KEY, {"x-api-key": "k" * 40}, {"x-simli-api-key": "k" * 40, **NO_KEY}):
        answer = server.client.post(path, json=body, headers=headers)
        assert answer.status_code == 401
        assert "k" * 40 not in answer.text
    assert not server.opener.calls


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_open_servers_need_no_key(path: str, body: dict[str, Any]) -> None:
    server = Server(AppConfig())
    assert server.client.post(path, json=body, headers=NO_KEY).is_success


@pytest.mark.parametrize(("path", "body"), [call for call in CALLS if call[0] != "/compose/token"])
def test_rooms_that_cannot_be_joined_are_told_at_once(path: str, body: dict[str, Any]) -> None:
    for url, token in (
        ("ws://lk.example", agents_token()),
        ("wss://elsewhere.example", agents_token()),
        (URL, "no jwt"),
        (URL, room_token(exp=1)),
        (URL, ""),
    ):
        server = Server(closed_config(rooms=RoomsConfig(allowed_hosts=["lk.example"])))
        asked = json.loads(json.dumps(body))
        place = asked.get("environment", asked)
        for name in place:
            if name.lower().endswith("url"):
                place[name] = url
            elif name.lower().endswith("token"):
                place[name] = token
        answer = server.client.post(path, json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "ROOM_FAILED"), (url, token)
        assert not server.opener.calls


@pytest.mark.parametrize(
    ("error", "status"), [(AdmissionRefused("full", 5.0), 503), (ConcurrencyExceeded("5", 5.0), 429)]
)
def test_plugins_are_told_to_try_again(error: Exception, status: int) -> None:
    for path, body in CALLS:
        if path in {"/compose/token", "/v1/auth/session-token"}:
            continue
        server = Server()
        server.opener.fail = error
        answer = server.client.post(path, json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "5")


@settings(max_examples=120, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.dictionaries(st.text(max_size=20), st.text(max_size=20)).map(json.dumps)
    ),
    st.sampled_from([*(path for path, _ in CALLS), "/integrations/livekit/agents"]),
)
def test_whatever_is_posted_the_answer_is_the_doors_own(body: bytes | str, path: str) -> None:
    answer = Server().client.post(path, content=body)
    assert answer.status_code in {200, 400, 401}
    if answer.status_code == 400:
        assert answer.json()["success"] is False
