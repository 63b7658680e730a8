from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from serve_app.config import AppConfig, GatewayConfig, RealtimeConfig
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import AdmissionRefused, AvatarInvalid, EventsLost, HostLost, SpeechOverrun
from serve_app.gateway.door_socket import SocketLimits
from serve_app.session.events import ConversationEvent, PeerChanged, SessionClosed, SessionEnding
from tests.fakes import Call
from tests.never_shown import NeverShown
from tests.protocol.realtime_door import BEARER, KEY, OTHER_KEY, CallLink, Doors, with_keys

pytestmark = pytest.mark.protocol

PATH = "/v1/realtime"
KEY_PROTOCOL = f"openai-insecure-api-key.{KEY}"


@contextlib.contextmanager
def connected(doors: Doors, query: str = "?model=gpt-realtime", **options: Any) -> Iterator[Any]:
    with doors.http.websocket_connect(PATH + query, **options) as socket:
        yield socket


def conversation(doors: Doors) -> ConversationSpec:
    spec = doors.opened().conversation
    assert spec is not None
    return spec


def closed(socket: Any) -> tuple[int, str]:
    with pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_json()
    return caught.value.code, caught.value.reason


def error(socket: Any) -> dict[str, Any]:
    """Return the `error` of the next event, which must be one in OpenAI's shape."""
    event = socket.receive_json()
    assert event["type"] == "error", event
    assert set(event) == {"type", "event_id", "error"}
    assert event["event_id"].startswith("event_")
    assert set(event["error"]) == {"type", "code", "message", "param", "event_id"}
    return dict(event["error"])


def refused(doors: Doors, query: str = "?model=gpt-realtime", **options: Any) -> tuple[str, int]:
    """Return the code and close code with which a socket is refused."""
    with connected(doors, query, **options) as socket:
        told = error(socket)
        close_code, reason = closed(socket)
        assert reason == f"{told['type']}.{told['code']}"
        return told["code"], close_code


def settle(socket: Any) -> None:
    """Return when everything sent before has been handled."""
    socket.send_text("[")
    assert error(socket)["code"] == "invalid_json"


# Opening.


def test_a_socket_opens_a_conversation_in_events() -> None:
    doors = Doors(with_keys())
    with connected(doors, "?model=gpt-realtime-2.1&avatar=ada", headers=BEARER) as socket:
        created = {"type": "session.created", "event_id": "event_1", "session": {"type": "realtime"}}
        doors.link.emit(PeerChanged("connected"), ConversationEvent(created))
        assert socket.receive_json() == created
    assert conversation(doors) == ConversationSpec(
        dialect="ga",
        session={"type": "realtime"},
        model="gpt-realtime-2.1",
        sound_in="events",
        sound_out="events",
        expires_s=3600.0,
    )
    request = doors.opened()
    assert (request.key_id, request.avatar_id, request.awaits) == ("ada", "ada", "socket")
    assert request.kept_by == ("lease",)
    assert doors.link.closed.wait(5)


@pytest.mark.parametrize(
    ("options", "dialect"),
    [
        ({"headers": BEARER}, "ga"),
        ({"headers": {**BEARER, "openai-beta": "realtime=v1"}}, "beta"),
        ({"headers": {**BEARER, "openai-beta": "assistants=v2, realtime=v1"}}, "beta"),
        ({"subprotocols": ["realtime", KEY_PROTOCOL]}, "ga"),
        ({"subprotocols": ["realtime", KEY_PROTOCOL, "openai-agents-sdk.0.20.0"]}, "ga"),
        ({"subprotocols": ["realtime", KEY_PROTOCOL, "openai-beta.realtime-v1"]}, "beta"),
    ],
)
def test_the_dialect_is_the_one_asked_for(options: dict[str, Any], dialect: str) -> None:
    doors = Doors(with_keys())
    with connected(doors, **options) as socket:
        settle(socket)
        chosen = "realtime" if "subprotocols" in options else None
        assert socket.accepted_subprotocol == chosen
    assert conversation(doors).dialect == dialect
    assert doors.opened().key_id == "ada"


@pytest.mark.parametrize("dialect", ["beta", "ga"])
def test_an_ephemeral_key_opens_one_socket_of_its_dialect(dialect: str) -> None:
    doors = Doors(with_keys())
    settings = {"instructions": "Be brief."}
    body = settings if dialect == "beta" else {"session": {"type": "realtime", **settings}}
    key = doors.mint(dialect, **body)
    protocols = ["realtime", f"openai-insecure-api-key.{key}"]
    with connected(doors, "", subprotocols=protocols) as socket:
        settle(socket)
    assert conversation(doors).dialect == dialect
    assert conversation(doors).session["instructions"] == "Be brief."
    assert refused(doors, "", subprotocols=protocols) == ("invalid_api_key", 3000)


def test_a_key_of_the_other_dialect_or_model_is_refused() -> None:
    doors = Doors(with_keys())
    protocols = ["realtime", f"openai-insecure-api-key.{doors.mint('ga')}"]
    beta = {"openai-beta": "realtime=v1"}
    assert refused(doors, "", subprotocols=protocols, headers=beta) == ("dialect_mismatch", 4000)
    assert refused(doors, "?model=another", subprotocols=protocols) == ("model_mismatch", 4000)
    with connected(doors, "", subprotocols=protocols) as socket:
        settle(socket)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (AdmissionRefused("full", 1), ("session_limit_reached", 1013)),
        (AvatarInvalid("no avatar ada"), ("avatar_not_found", 4000)),
        (ZeroDivisionError("secret"), ("internal_error", 1011)),
    ],
)
def test_a_refused_socket_is_told_why_and_its_key_stays(
    failure: Exception, expected: tuple[str, int]
) -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    doors.opener.fail = failure
    assert refused(doors, "", headers={"authorization": f"Bearer {key}"}) == expected
    assert doors.keys.used == set()


def test_a_socket_needs_a_key() -> None:
    doors = Doors(with_keys())
    assert refused(doors) == ("invalid_api_key", 3000)
    assert refused(doors, headers={"authorization": "Bearer wrong-key-0123456789"}) == (
        "invalid_api_key",
        3000,
    )
    assert refused(doors, subprotocols=["realtime", "openai-insecure-api-key.ek_x"]) == (
        "invalid_api_key",
        3000,
    )
    assert doors.opener.calls == []


def test_pages_of_other_origins_need_a_key_or_an_entry_in_the_list() -> None:
    page = {"origin": "https://page.example"}
    assert refused(Doors(), headers=page) == ("origin_not_allowed", 3000)
    with connected(Doors(with_keys()), headers={**page, **BEARER}) as socket:
        settle(socket)
    listed = AppConfig(gateway=GatewayConfig(allowed_origins=["https://page.example"]))
    with connected(Doors(listed), headers=page) as socket:
        settle(socket)


def test_sockets_that_only_transcribe_are_not_offered() -> None:
    assert refused(Doors(), "?intent=transcription") == ("invalid_value", 4000)


# Events.


def test_events_travel_both_ways_in_order() -> None:
    doors = Doors()
    events = [
        {"type": "session.update", "event_id": "e1", "session": {"type": "realtime"}},
        {"type": "input_audio_buffer.append", "audio": "AAAA"},
        {"type": "response.create"},
    ]
    with connected(doors) as socket:
        for event in events:
            socket.send_json(event)
        settle(socket)
        answers = [{"type": "session.updated", "event_id": f"event_{n}"} for n in range(3)]
        doors.link.emit(*(ConversationEvent(answer) for answer in answers))
        assert [socket.receive_json() for _ in answers] == answers
    assert doors.link.conversed == events


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        '"x"',
        "3",
        "{",
        '{"type": NaN}',
        "[" * 5000,
        '{"a": "\\ud800"}',
        "[]," * 50_000,
    ],
)
def test_what_is_no_json_object_is_told_and_the_socket_lives(text: str) -> None:
    doors = Doors()
    with connected(doors) as socket:
        socket.send_text(text)
        told = error(socket)
        assert (told["type"], told["code"]) == ("invalid_request_error", "invalid_json")
        socket.send_json({"type": "response.create"})
        settle(socket)
    assert doors.link.conversed == [{"type": "response.create"}]


def test_binary_frames_are_told() -> None:
    with connected(Doors()) as socket:
        socket.send_bytes(b"{}")
        assert error(socket)["code"] == "invalid_json"


def test_fifteen_mebibytes_of_sound_are_taken() -> None:
    doors = Doors()
    sound = base64.b64encode(bytes(15 * 2**20)).decode()
    with connected(doors) as socket:
        socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
        settle(socket)
    [event] = doors.link.conversed
    assert event["audio"] == sound


def test_an_event_that_is_too_large_is_told() -> None:
    doors = Doors()
    with connected(doors) as socket:
        socket.send_text('{"a":"' + "A" * 21 * 2**20 + '"}')
        assert error(socket)["code"] == "event_too_large"
    assert doors.link.conversed == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(SpeechOverrun("too fast", 0.5), "speech_overrun"), (ZeroDivisionError("secret"), "internal_error")],
)
def test_an_event_that_is_not_taken_is_told_with_its_id(failure: Exception, code: str) -> None:
    doors = Doors()
    doors.link.fail["converse"] = failure
    with connected(doors) as socket:
        socket.send_json({"type": "input_audio_buffer.append", "event_id": "mine", "audio": ""})
        told = error(socket)
        assert (told["code"], told["event_id"]) == (code, "mine")
        assert "secret" not in told["message"]
        settle(socket)


def test_too_many_messages_close_the_socket() -> None:
    limits = SocketLimits(messages_per_s=0.001, burst_messages=2)
    with connected(Doors(limits=limits)) as socket:
        for _ in range(3):
            socket.send_json({"type": "response.create"})
        assert error(socket)["code"] == "rate_limit_exceeded"
        assert closed(socket)[0] == 1008


# The end.


def test_the_end_of_the_hour_is_told_as_openai_tells_it() -> None:
    doors = Doors(AppConfig(realtime=RealtimeConfig(max_session_s=1800.0)))
    with connected(doors) as socket:
        settle(socket)
        doors.link.emit(SessionEnding("expired", 60.0), SessionClosed("expired"))
        warning = socket.receive_json()
        warning.pop("event_id")
        assert warning == {"type": "session.ending", "reason": "expired", "ends_in_ms": 60_000}
        sentence = "Your session hit the maximum duration of 30 minutes."
        assert error(socket) == {
            "type": "invalid_request_error",
            "code": "session_expired",
            "message": sentence,
            "param": None,
            "event_id": None,
        }
        assert closed(socket) == (1001, sentence)


@pytest.mark.parametrize(
    ("reason", "code", "close_code"),
    [
        ("idle", "session_expired", 1001),
        ("quota", "insufficient_quota", 1001),
        ("host_lost", "host_lost", 1012),
        ("shutdown", "shutdown", 1012),
        ("room", "session_expired", 1001),
    ],
)
def test_other_ends_are_told_too(reason: str, code: str, close_code: int) -> None:
    doors = Doors()
    with connected(doors) as socket:
        doors.link.emit(SessionClosed(reason))
        told = error(socket)
        assert told["code"] == code
        assert closed(socket) == (close_code, told["message"])


def test_a_hang_up_elsewhere_closes_the_socket_in_order() -> None:
    doors = Doors()
    with connected(doors) as socket:
        doors.link.emit(SessionClosed("client"))
        assert closed(socket)[0] == 1000


@pytest.mark.parametrize(
    ("failure", "code", "close_code"),
    [
        (HostLost("gone"), "host_lost", 1012),
        (EventsLost("too slow"), "events_lost", 1013),
        (ZeroDivisionError("secret"), "internal_error", 1011),
    ],
)
def test_events_that_fail_close_the_socket(failure: Exception, code: str, close_code: int) -> None:
    doors = Doors()
    with connected(doors) as socket:
        doors.link.emit(failure)
        assert error(socket)["code"] == code
        assert closed(socket)[0] == close_code


# Sidebands.


def running() -> Doors:
    link = CallLink(key_id="ada")
    doors = Doors(with_keys(), link)
    doors.opener.resumable[link.session_id] = link
    return doors


def test_a_sideband_joins_a_call_and_leaves_it_running() -> None:
    doors = running()
    with connected(doors, "?call_id=rtc_h1abc", headers=BEARER) as socket:
        socket.send_json({"type": "session.update", "session": {"type": "realtime"}})
        settle(socket)
        doors.link.emit(ConversationEvent({"type": "session.updated"}))
        assert socket.receive_json() == {"type": "session.updated"}
    assert doors.opener.calls[-1] == Call("attach", ("sess_h1abc", False))
    assert doors.link.detached.wait(5)
    assert not doors.link.closed.is_set()


def test_the_key_of_a_call_opens_its_sideband_after_it_was_used() -> None:
    doors = running()
    key = doors.mint("ga")
    doors.keys.used.add(key)
    with connected(doors, "?call_id=rtc_h1abc", headers={"authorization": f"Bearer {key}"}) as socket:
        settle(socket)


def test_sidebands_to_calls_of_others_are_refused() -> None:
    doors = running()
    other = {"authorization": f"Bearer {OTHER_KEY}"}
    assert refused(doors, "?call_id=rtc_h1abc", headers=other) == ("call_id_not_found", 4000)
    assert refused(doors, "?call_id=rtc_never", headers=BEARER) == ("call_id_not_found", 4000)
    assert refused(doors, "?call_id=", headers=BEARER) == ("call_id_not_found", 4000)


def test_keys_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    doors = Doors(with_keys())
    key = doors.mint("ga")
    with NeverShown(KEY, key, "not-the-key-0123456789").in_logs(caplog):
        with connected(doors, subprotocols=["realtime", f"openai-insecure-api-key.{key}"]) as socket:
            settle(socket)
        with connected(Doors(with_keys()), subprotocols=["realtime", KEY_PROTOCOL]) as socket:
            settle(socket)
        refused(doors, subprotocols=["realtime", "openai-insecure-api-key.not-the-key-0123456789"])


# Fuzz.


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frame=st.binary(max_size=80) | st.text(max_size=80) | st.dictionaries(st.text(), st.text()))
def test_whatever_is_sent_is_taken_or_told(frame: Any) -> None:
    doors = Doors()
    with connected(doors) as socket:
        if isinstance(frame, bytes):
            socket.send_bytes(frame)
        else:
            socket.send_text(frame if isinstance(frame, str) else json.dumps(frame))
        socket.send_json({"type": "last"})
        if not isinstance(frame, dict):
            with contextlib.suppress(ValueError):
                assert not isinstance(json.loads(frame), dict)
            assert error(socket)["code"] == "invalid_json"
        settle(socket)
    assert doors.link.conversed[-1] == {"type": "last"}
