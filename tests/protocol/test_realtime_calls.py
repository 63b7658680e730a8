from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.config import AppConfig, AuthConfig, RealtimeConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import (
    AdmissionRefused,
    AgentFailed,
    AvatarInvalid,
    ConcurrencyExceeded,
    HostLost,
    InvalidDescription,
    QuotaExceeded,
)
from tests.fakes import ANSWER, Call, FakeSessionLink
from tests.never_shown import NeverShown
from tests.protocol.realtime_door import BEARER, KEY, OFFER, OTHER_KEY, SDP, CallLink, Doors, with_keys
from tests.protocol.test_realtime_mint import refusal

pytestmark = pytest.mark.protocol

BETA, GA = "/v1/realtime", "/v1/realtime/calls"
PATHS = {"beta": BETA, "ga": GA}
OTHER = {"authorization": f"Bearer {OTHER_KEY}"}
VIDEO_OFFER = "v=0\r\ns=-\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **SDP}


def call(doors: Doors, dialect: str = "ga", key: str = KEY, *, query: str = "", offer: str = OFFER) -> Any:
    return doors.http.post(PATHS[dialect] + query, content=offer, headers=bearer(key))


# An ephemeral key.


@pytest.mark.parametrize("dialect", ["beta", "ga"])
@pytest.mark.parametrize("offer", [OFFER, VIDEO_OFFER])
def test_an_ephemeral_key_opens_the_call_it_was_minted_for(dialect: str, offer: str) -> None:
    doors = Doors(with_keys())
    body: dict[str, Any] = {"voice": "ash", "model": "gpt-4o-realtime-preview"}
    checked: dict[str, Any] = {"voice": "ash"}
    if dialect == "ga":
        checked = {"type": "realtime", "instructions": "Be brief."}
        body = {"session": {**checked, "model": "gpt-4o-realtime-preview"}}
    key = doors.mint(dialect, **body)
    answer = call(doors, dialect, key, offer=offer)
    assert (answer.status_code, answer.text) == (201, ANSWER)
    assert answer.headers["content-type"].startswith("application/sdp")
    assert answer.headers["location"] == "/v1/realtime/calls/rtc_h1abc"
    request = doors.opened()
    assert request.conversation == ConversationSpec(
        dialect=dialect,  # type: ignore[arg-type]  # one of the two
        session=checked,
        model="gpt-4o-realtime-preview",
        sound_in="track",
        sound_out="media",
        expires_s=3600.0,
    )
    assert (request.key_id, request.awaits, request.kept_by) == ("ada", "peer", ("peer",))
    assert request.max_duration_s == 3600.0
    assert doors.link.calls == [Call("answer", (offer,)), Call("detach")]


def test_a_key_opens_one_call() -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    assert call(doors, key=key).status_code == 201
    assert refusal(call(doors, key=key)) == (401, "invalid_api_key")
    assert len(doors.opener.calls) == 1


def test_an_expired_key_opens_nothing() -> None:
    doors = Doors(with_keys())
    key = doors.mint("beta")
    doors.keys.now_s += 61
    assert refusal(call(doors, "beta", key)) == (401, "invalid_api_key")
    assert doors.opener.calls == []


def test_ag2_names_the_model_again() -> None:
    doors = Doors(with_keys())
    key = doors.mint("beta", model="gpt-4o-mini-realtime-preview")
    answer = call(doors, "beta", key, query="?model=gpt-4o-mini-realtime-preview")
    assert answer.status_code == 201


@pytest.mark.parametrize("dialect", ["beta", "ga"])
def test_a_key_is_bound_to_its_model(dialect: str) -> None:
    doors = Doors(with_keys())
    key = doors.mint(dialect)
    assert refusal(call(doors, dialect, key, query="?model=another")) == (400, "model_mismatch")
    assert call(doors, dialect, key).status_code == 201


@pytest.mark.parametrize(("minted", "used"), [("beta", "ga"), ("ga", "beta")])
def test_a_key_is_bound_to_its_dialect(minted: str, used: str) -> None:
    doors = Doors(with_keys())
    key = doors.mint(minted)
    answer = call(doors, used, key)
    assert refusal(answer) == (400, "dialect_mismatch")
    assert PATHS[minted] in answer.json()["error"]["message"]
    assert call(doors, minted, key).status_code == 201


def test_a_session_beside_an_ephemeral_key_is_refused() -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    form = {"sdp": (None, OFFER), "session": (None, '{"type": "realtime"}')}
    answer = doors.http.post(GA, files=form, headers={"authorization": f"Bearer {key}"})
    assert refusal(answer) == (400, "invalid_parameter")
    assert doors.keys.used == set()


# An API key.


@pytest.mark.parametrize("as_files", [False, True])
def test_a_form_brings_offer_and_session(as_files: bool) -> None:
    doors = Doors(with_keys())
    session = '{"type": "realtime", "model": "gpt-realtime-2.1", "audio": {"output": {"voice": "ash"}}}'
    names = ("offer.sdp", "session.json") if as_files else (None, None)
    form = {
        "sdp": (names[0], OFFER, "application/sdp"),
        "session": (names[1], session, "application/json"),
    }
    answer = doors.http.post(GA, files=form, headers=BEARER)
    assert (answer.status_code, answer.text) == (201, ANSWER)
    conversation = doors.opened().conversation
    assert conversation is not None
    assert conversation.model == "gpt-realtime-2.1"
    assert conversation.session == {"type": "realtime", "audio": {"output": {"voice": "ash"}}}
    assert doors.link.calls[0] == Call("answer", (OFFER,))


def test_json_brings_the_same() -> None:
    doors = Doors()
    body = {"sdp": OFFER, "session": {"type": "realtime", "model": "gpt-realtime-2.1"}}
    assert doors.http.post(GA, json=body).status_code == 201
    conversation = doors.opened().conversation
    assert conversation is not None
    assert conversation.model == "gpt-realtime-2.1"


@pytest.mark.parametrize("dialect", ["beta", "ga"])
def test_a_raw_offer_names_its_model_in_the_query(dialect: str) -> None:
    doors = Doors()
    assert call(doors, dialect, "anything", query="?model=any-name&avatar=ada").status_code == 201
    request = doors.opened()
    assert request.avatar_id == "ada"
    assert request.conversation is not None
    assert (request.conversation.dialect, request.conversation.model) == (dialect, "any-name")


def test_a_session_ends_with_the_configured_hour() -> None:
    doors = Doors(AppConfig(realtime=RealtimeConfig(max_session_s=90.0)))
    call(doors)
    request = doors.opened()
    assert request.max_duration_s == 90.0
    assert request.conversation is not None
    assert request.conversation.expires_s == 90.0


def test_a_session_ends_with_the_time_of_its_key_where_that_is_shorter() -> None:
    config = with_keys()
    keys = [key.model_copy(update={"max_duration_s": 60.0}) for key in config.auth.keys]
    doors = Doors(config.model_copy(update={"auth": AuthConfig(keys=keys)}))
    call(doors)
    conversation = doors.opened().conversation
    assert conversation is not None
    assert conversation.expires_s == 60.0


@pytest.mark.parametrize("dialect", ["beta", "ga"])
def test_calls_need_a_key(dialect: str) -> None:
    doors = Doors(with_keys())
    assert refusal(call(doors, dialect, "wrong-key-0123456789")) == (401, "invalid_api_key")
    assert refusal(doors.http.post(PATHS[dialect], content=OFFER, headers=SDP)) == (401, "invalid_api_key")
    assert doors.opener.calls == []


# What cannot be answered.


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        ("", "invalid_offer"),
        ("hello", "invalid_offer"),
        ("v=0\r\ns=-\r\n", "invalid_offer"),
        ("v=0\r\ns=-\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n", "invalid_offer"),
        ("v=0" + "x" * 2**18, "body_refused"),
    ],
)
def test_an_offer_without_sound_and_picture_is_refused(offer: str, code: str) -> None:
    doors = Doors()
    answer = call(doors, offer=offer)
    assert refusal(answer) == (413 if code == "body_refused" else 400, code)
    if "s=-" in offer:
        assert "addTransceiver" in answer.json()["error"]["message"]
    assert doors.opener.calls == []


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", OFFER, (415, "unsupported_content_type")),
        ("", OFFER, (415, "unsupported_content_type")),
        ("application/sdp", b"v=0\xff", (400, "invalid_offer")),
        ("application/json", "{}", (400, "missing_required_parameter")),
        ("application/json", '{"sdp": 5}', (400, "invalid_type")),
        ("application/json", '{"sdp": "v=0", "offer": ""}', (400, "unknown_parameter")),
        ("application/json", '{"sdp": "v=0", "session": []}', (400, "invalid_type")),
        ("application/json", '{"sdp": "v=0", "session": "["}', (400, "invalid_json")),
        ("multipart/form-data", "x", (400, "invalid_form")),
        ("multipart/form-data; boundary=b", "x", (400, "invalid_form")),
        ("multipart/form-data; boundary=b", "--b--\r\n", (400, "missing_required_parameter")),
    ],
)
def test_a_body_that_is_no_offer_is_refused(
    content_type: str, body: str | bytes, expected: tuple[int, str]
) -> None:
    doors = Doors()
    headers = {"content-type": content_type} if content_type else {}
    content = body.encode() if isinstance(body, str) else body
    assert refusal(doors.http.post(GA, content=content, headers=headers)) == expected
    assert doors.opener.calls == []


def test_a_part_that_comes_twice_is_refused() -> None:
    form = [("sdp", (None, OFFER)), ("sdp", (None, OFFER))]
    assert refusal(Doors().http.post(GA, files=form)) == (400, "invalid_form")


def test_the_beta_takes_raw_offers_only() -> None:
    answer = Doors().http.post(BETA, json={"sdp": OFFER})
    assert refusal(answer) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    ("failure", "expected", "retry_after"),
    [
        (AdmissionRefused("every host is full", 7.2), (503, "session_limit_reached"), "8"),
        (ConcurrencyExceeded("all are running", 2), (429, "rate_limit_exceeded"), "2"),
        (QuotaExceeded("used up"), (429, "insufficient_quota"), None),
        (AvatarInvalid("no avatar ada"), (404, "avatar_not_found"), None),
        (AgentFailed("no upstream"), (503, "agent_failed"), None),
        (HostLost("gone"), (503, "host_lost"), "1"),
        (ZeroDivisionError("secret"), (500, "internal_error"), None),
    ],
)
def test_a_call_that_is_not_opened_leaves_its_key_usable(
    failure: Exception, expected: tuple[int, str], retry_after: str | None
) -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    doors.opener.fail = failure
    answer = call(doors, key=key)
    assert refusal(answer) == expected
    assert answer.headers.get("retry-after") == retry_after
    assert "secret" not in answer.text
    doors.opener.fail = None
    assert call(doors, key=key).status_code == 201


def test_a_call_that_is_not_answered_ends_its_session_and_leaves_its_key_usable() -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    doors.link.fail["answer"] = InvalidDescription("the offer's audio line has no codec in common")
    assert refusal(call(doors, key=key)) == (400, "invalid_offer")
    assert doors.link.closed.is_set()
    assert call(doors, key=key).status_code == 201


class HeldLink(CallLink):
    """A link that never answers an offer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def answer(self, offer_sdp: str) -> str:
        self.asked.set()
        return await asyncio.Future()


async def test_a_client_that_leaves_meanwhile_loses_neither_session_nor_key() -> None:
    link = HeldLink()
    doors = Doors(with_keys(), link)
    key = doors.mint("beta")
    posting = asyncio.create_task(_post(doors, BETA, OFFER.encode(), bearer(key)))
    async with asyncio.timeout(5):
        await link.asked.wait()
    assert doors.keys.used == {key}
    posting.cancel()
    await asyncio.wait([posting])
    assert posting.cancelled()
    assert link.closed.is_set()
    assert doors.keys.used == set()


async def _post(doors: Doors, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(doors.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.post(path, content=body, headers=headers)


# Running calls.


def running(key_id: str | None = "ada") -> Doors:
    link = CallLink(key_id=key_id)
    doors = Doors(with_keys(), link)
    doors.opener.resumable[link.session_id] = link
    return doors


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/realtime/calls/rtc_h1abc/hangup"), ("DELETE", "/v1/realtime/calls/rtc_h1abc")],
)
def test_a_call_is_hung_up(method: str, path: str) -> None:
    doors = running()
    answer = doors.http.request(method, path, headers=BEARER)
    assert (answer.status_code, answer.content) == (200, b"")
    assert doors.opener.calls[-1] == Call("attach", ("sess_h1abc", False))
    assert doors.link.closed.is_set()


def test_the_key_that_opened_a_call_hangs_it_up() -> None:
    doors = running()
    key = doors.mint("ga")
    answer = doors.http.delete("/v1/realtime/calls/rtc_h1abc", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200


def test_calls_of_other_keys_cannot_be_told_from_none() -> None:
    doors = running()
    other = doors.http.post("/v1/realtime/calls/rtc_h1abc/hangup", headers=OTHER)
    never = doors.http.post("/v1/realtime/calls/rtc_never/hangup", headers=OTHER)
    assert refusal(other) == (404, "call_id_not_found")
    assert refusal(never)[0] == 404
    assert other.json()["error"]["code"] == never.json()["error"]["code"]
    assert doors.link.names() == ["facts"]


@pytest.mark.parametrize("call_id", ["h1abc", "sess_h1abc", "rtc_", "rtc_a_b", "rtc_" + "a" * 200, "%00"])
def test_what_is_no_call_id_is_not_looked_for(call_id: str) -> None:
    doors = running()
    answer = doors.http.delete(f"/v1/realtime/calls/{call_id}", headers=BEARER)
    assert refusal(answer) == (404, "call_id_not_found")
    assert doors.opener.calls == []


def test_a_session_without_a_conversation_is_no_call() -> None:
    link = FakeSessionLink("sess_h1abc")
    link.key_id = "ada"
    doors = Doors(with_keys(), link)
    doors.opener.resumable[link.session_id] = link
    answer = doors.http.delete("/v1/realtime/calls/rtc_h1abc", headers=BEARER)
    assert refusal(answer) == (404, "call_id_not_found")


def test_an_ended_call_is_not_found() -> None:
    doors = running()
    doors.link.closed.set()
    answer = doors.http.delete("/v1/realtime/calls/rtc_h1abc", headers=BEARER)
    assert refusal(answer) == (404, "call_id_not_found")


@pytest.mark.parametrize("verb", ["accept", "reject", "refer"])
def test_telephony_is_not_offered(verb: str) -> None:
    answer = running().http.post(f"/v1/realtime/calls/rtc_h1abc/{verb}", json={}, headers=BEARER)
    assert refusal(answer) == (404, "sip_not_offered")


# Secrets and fuzz.


def test_no_key_and_no_offer_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    doors = Doors(with_keys())
    with NeverShown(KEY, "UDP/TLS", f"ek_{0:032d}").in_logs(caplog):
        key = doors.mint("ga")
        doors.opener.fail = AdmissionRefused("full", 1)
        call(doors, key=key)
        doors.opener.fail = None
        call(doors, key=key)
        call(doors, key=key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["application/sdp", "application/json", "multipart/form-data; boundary=b"]),
    body=st.binary(max_size=300)
    | st.builds(
        lambda name, value: (
            b'--b\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n--b--"
        ),
        st.sampled_from([b"sdp", b"session", b'x"; filename="y']) | st.binary(max_size=10),
        st.binary(max_size=60) | st.just(OFFER.encode()),
    ),
)
def test_whatever_is_posted_the_answer_is_an_sdp_or_an_error_of_this_door(kind: str, body: bytes) -> None:
    answer = Doors().http.post(GA, content=body, headers={"content-type": kind})
    if answer.status_code != 201:
        status, code = refusal(answer)
        assert status == 400, code
