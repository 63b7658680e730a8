from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, GatewayConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import AdmissionRefused, InvalidCandidate, InvalidDescription, QuotaExceeded
from serve_app.gateway.auth import Keyring
from serve_app.gateway.smallwebrtc import SmallWebRtcDoor
from serve_app.session.request import SessionRequest
from tests.fakes import ANSWER, Call, FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

ID = "sess_1"
KEY = "key-of-the-shop"
CLOSED = AppConfig(
    auth=AuthConfig(keys=[ApiKeyConfig(id="shop", sha256=hashlib.sha256(KEY.encode()).hexdigest())])
)
OFFER = {"sdp": "v=0\r\n", "type": "offer"}
CANDIDATE = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdp_mid": "0", "sdp_mline_index": 0}


def client(opener: FakeSessionOpener, config: AppConfig | None = None) -> TestClient:
    config = config or AppConfig()
    door = SmallWebRtcDoor(opener, Keyring(config.auth), config)
    return TestClient(Starlette(routes=door.routes()))


def running(link: FakeSessionLink) -> FakeSessionOpener:
    opener = FakeSessionOpener(FakeSessionLink("sess_new"))
    opener.resumable[link.session_id] = link
    return opener


def test_an_offer_opens_a_session_that_lives_as_long_as_its_peer() -> None:
    link = FakeSessionLink(ID)
    opener = FakeSessionOpener(link)

    answer = client(opener).post("/api/offer", json={**OFFER, "request_data": {"user": 7}})

    assert answer.status_code == 200
    assert answer.json() == {"sdp": ANSWER, "type": "answer", "pc_id": ID}
    assert opener.calls == [
        Call(
            "open",
            (
                SessionRequest(
                    conversation=ConversationSpec(sound_in="track", sound_out="media"),
                    kept_by=("peer",),
                    metadata={"user": 7},
                ),
            ),
        )
    ]
    assert link.calls == [Call("answer", ("v=0\r\n",)), Call("detach")]


@pytest.mark.parametrize("restart", [True, False, None])
def test_an_offer_with_the_id_of_a_running_session_takes_a_new_peer_of_it(restart: bool | None) -> None:
    link = FakeSessionLink(ID)
    opener = running(link)

    answer = client(opener).post("/api/offer", json={**OFFER, "pc_id": ID, "restart_pc": restart})

    assert answer.json()["pc_id"] == ID
    assert opener.calls == [Call("attach", (ID, False))]
    assert link.names() == ["facts", "answer", "detach"]


@pytest.mark.parametrize("is_closed", [True, False])
def test_an_id_that_is_not_known_opens_a_new_session(is_closed: bool) -> None:
    link = FakeSessionLink(ID)
    if is_closed:
        link.closed.set()
    pc_id = ID if is_closed else "sess_other"

    answer = client(running(link)).post("/api/offer", json={**OFFER, "pc_id": pc_id, "restart_pc": True})

    assert answer.json()["pc_id"] == "sess_new"


def test_candidates_are_trickled() -> None:
    link = FakeSessionLink(ID)
    body = {"pc_id": ID, "candidates": [CANDIDATE, {"candidate": "candidate:2"}, {"candidate": ""}]}

    answer = client(running(link)).patch("/api/offer", json=body)

    assert answer.json() == {"status": "success"}
    assert [call.args for call in link.calls if call.name == "add_candidate"] == [
        ({"candidate": CANDIDATE["candidate"], "sdpMid": "0", "sdpMLineIndex": 0},),
        ({"candidate": "candidate:2", "sdpMid": None, "sdpMLineIndex": 0},),
        (None,),
    ]
    assert link.names()[-1] == "detach"


def test_candidates_of_nobody_are_refused() -> None:
    body = {"pc_id": "sess_other", "candidates": []}

    assert client(FakeSessionOpener()).patch("/api/offer", json=body).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ("{}", 400),
        (json.dumps({"sdp": 1, "type": "offer"}), 400),
        (json.dumps({"sdp": "v=0", "type": "answer"}), 400),
        (json.dumps({"sdp": "v" * 65_537, "type": "offer"}), 400),
        (json.dumps({"sdp": "v" * 131_072, "type": "offer"}), 413),
    ],
)
def test_an_offer_that_cannot_be_used_is_refused(body: str, status: int) -> None:
    answer = client(FakeSessionOpener()).post("/api/offer", content=body)

    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (AdmissionRefused("every host is full", 4.2), 503, "5"),
        (QuotaExceeded("no minutes left"), 429, None),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_a_server_that_takes_no_session_says_why(
    error: Exception, status: int, retry_after: str | None
) -> None:
    opener = FakeSessionOpener()
    opener.fail = error

    answer = client(opener).post("/api/offer", json=OFFER)

    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert "secret" not in answer.text


def test_a_session_whose_offer_cannot_be_answered_ends() -> None:
    link = FakeSessionLink(ID)
    link.fail["answer"] = InvalidDescription("expected a video line")

    answer = client(FakeSessionOpener(link)).post("/api/offer", json=OFFER)

    assert (answer.status_code, answer.json()) == (400, {"detail": "expected a video line"})
    assert link.closed.is_set()


def test_a_running_session_outlives_a_bad_offer() -> None:
    link = FakeSessionLink(ID)
    link.fail["answer"] = InvalidDescription("expected a video line")

    answer = client(running(link)).post("/api/offer", json={**OFFER, "pc_id": ID})

    assert answer.status_code == 400
    assert not link.closed.is_set()
    assert link.detached.is_set()


def test_a_candidate_that_cannot_be_used_is_refused() -> None:
    link = FakeSessionLink(ID)
    link.fail["add_candidate"] = InvalidCandidate("expected a candidate")

    answer = client(running(link)).patch("/api/offer", json={"pc_id": ID, "candidates": [CANDIDATE]})

    assert answer.status_code == 400
    assert link.detached.is_set()


@pytest.mark.parametrize(("key", "status"), [(KEY, 200), ("wrong", 401), (None, 401)])
def test_a_key_is_asked_for(key: str | None, status: int) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}

    assert (
        client(FakeSessionOpener(), CLOSED).post("/api/offer", json=OFFER, headers=headers).status_code
        == status
    )


def test_the_session_of_another_key_is_not_found() -> None:
    link = FakeSessionLink(ID)
    link.key_id = "lab"
    headers = {"x-api-key": KEY}

    answer = client(running(link), CLOSED).patch(
        "/api/offer", json={"pc_id": ID, "candidates": []}, headers=headers
    )

    assert answer.status_code == 404
    assert link.names() == ["facts", "detach"]


@pytest.mark.parametrize(
    ("origins", "status", "allowed"),
    [
        ([], 401, "*"),
        (["https://shop.example"], 200, "https://shop.example"),
        (["https://a.example"], 401, None),
    ],
)
def test_a_page_of_another_origin_needs_a_place_in_the_list(
    origins: list[str], status: int, allowed: str | None
) -> None:
    config = AppConfig(gateway=GatewayConfig(allowed_origins=origins))

    answer = client(FakeSessionOpener(), config).post(
        "/api/offer", json=OFFER, headers={"origin": "https://shop.example"}
    )

    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, allowed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(("sdp", "type", "pc_id", "restart_pc", "request_data", "candidates"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["POST", "PATCH"]),
    st.dictionaries(NAMES, JSON).map(json.dumps) | st.text(max_size=40),
)
def test_whatever_arrives_is_answered(method: str, body: Any) -> None:
    answer = client(FakeSessionOpener()).request(
        method, "/api/offer", content=body.encode("utf-8", "replace")
    )

    assert answer.status_code in {200, 400, 404}
