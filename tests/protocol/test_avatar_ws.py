"""The avatar socket of document 001, by a client that does what the document's does."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from serve_app.config import AuthConfig
from serve_app.errors import SpeechOverrun
from serve_app.gateway.avatar.messages import MAX_AUDIO_BYTES
from serve_app.gateway.avatar.socket import PATH, AvatarSocketDoor
from serve_app.gateway.door_socket import SocketLimits
from serve_app.gateway.tokens import SessionTokens
from serve_app.session.events import GenerationFailed, RoomChanged, SessionClosed, SessionEnding
from tests.fakes import FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

ID = "sess_h0123456789abcdef"
TOKENS = SessionTokens(AuthConfig())
NO_CONFIG = "Failed to fetch video path"


def pcm(seconds: float, hz: int) -> str:
    return base64.b64encode(np.ones(int(seconds * hz), np.int16).tobytes()).decode()


def token(session_id: str = ID, lifetime_s: float = 3600.0) -> str:
    return TOKENS.issue(session_id, None, lifetime_s)


@contextlib.contextmanager
def connected(
    link: FakeSessionLink | None = None, limits: SocketLimits | None = None
) -> Iterator[WebSocketTestSession]:
    opener = FakeSessionOpener()
    opener.resumable[ID] = link or FakeSessionLink(ID)
    door = AvatarSocketDoor(opener, TOKENS, limits=limits)
    with TestClient(Starlette(routes=door.routes())).websocket_connect(PATH) as socket:
        yield socket


@contextlib.contextmanager
def joined(link: FakeSessionLink, limits: SocketLimits | None = None) -> Iterator[WebSocketTestSession]:
    with connected(link, limits) as socket:
        socket.send_json({"type": "session.init", "session_id": ID, "session_token": token()})
        assert socket.receive_json() == {"type": "connection.established", "session_id": ID}
        yield socket


def error(socket: WebSocketTestSession) -> str:
    event = socket.receive_json()
    assert set(event) == {"type", "error"}, event
    assert event["type"] == "error"
    return str(event["error"])


def closed(socket: WebSocketTestSession) -> int:
    with pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_json()
    return caught.value.code


# Joining.


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"type": "agent.speak", "audio": "AAAA"}, "First message must be session.init"),
        ({"type": "session.init"}, "Missing session id"),
        ({"type": "session.init", "session_id": ""}, "Missing session id"),
        ({"type": "session.init", "session_id": ID}, NO_CONFIG),
        ({"type": "session.init", "session_id": ID, "session_token": "wrong"}, NO_CONFIG),
        ({"type": "session.init", "session_id": ID, "session_token": token(lifetime_s=-60.0)}, NO_CONFIG),
        (
            {"type": "session.init", "session_id": ID, "session_token": token("sess_hfffffff0")},
            "Invalid session id - server not assigned or session id mismatch",
        ),
        (
            {"type": "session.init", "session_id": "sess_gone", "session_token": token("sess_gone")},
            "Session not found",
        ),
        ([1], "Invalid JSON format"),
    ],
)
def test_what_is_wrong_with_the_first_message_is_said_in_the_documents_words(message: Any, told: str) -> None:
    with connected() as socket:
        socket.send_json(message)
        assert error(socket) == told


def test_a_client_may_correct_itself_a_few_times() -> None:
    with connected() as socket:
        for _ in range(4):
            socket.send_text("{")
            assert error(socket) == "Invalid JSON format"
        socket.send_json({"type": "session.init", "session_id": ID, "session_token": token()})
        assert socket.receive_json()["type"] == "connection.established"
    with connected() as socket:
        for _ in range(5):
            socket.send_bytes(b"\x00")
            assert error(socket) == "Invalid JSON format"
        assert closed(socket) == 4401


# Speaking.


@pytest.mark.parametrize("hz", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_speech_of_any_rate_is_confirmed_with_the_count_at_16_khz(hz: int) -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        socket.send_json({"type": "agent.speak", "audio": pcm(3.0, hz), "sample_rate": hz})
        assert socket.receive_json() == {"type": "agent.speak.confirmed", "audio_samples": 48_000}
    assert link.utterances[0].hz == hz
    assert link.utterances[0].num_samples == 3 * hz


def test_each_speak_has_one_confirmation_in_order_and_is_heard_as_one_utterance() -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        for seconds in (0.1, 0.2, 0.3):
            socket.send_json({"type": "agent.speak", "audio": pcm(seconds, 16_000), "sample_rate": 16_000})
        counts = [socket.receive_json()["audio_samples"] for _ in range(3)]
        socket.send_json({"type": "agent.speak_end"})
        socket.send_json({"type": "agent.interrupt"})
        assert socket.receive_json() == {"type": "agent.interrupt.confirmed"}
    assert counts == [1_600, 3_200, 4_800]
    assert [utterance.num_samples for utterance in link.utterances] == [9_600]
    assert link.utterances[0].ended


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "No audio data provided"),
        ({"audio": ""}, "No audio data provided"),
        ({"audio": "%%%", "sample_rate": 16_000}, "Failed to process audio: "),
        ({"audio": base64.b64encode(b"odd").decode()}, "Failed to process audio: "),
        ({"audio": base64.b64encode(b"RIFF\x24\x00\x00\x00WAVEfmt ").decode()}, "Failed to process audio: "),
        ({"audio": pcm(0.1, 16_000), "sample_rate": 7}, "Failed to process audio: "),
        ({"audio": pcm(0.1, 16_000), "sample_rate": "fast"}, "Failed to process audio: "),
        ({"audio": "AAAA" * (MAX_AUDIO_BYTES // 3 + 2)}, "Failed to process audio: "),
    ],
)
def test_unusable_audio_is_an_error_and_not_confirmed(fields: dict[str, Any], told: str) -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        socket.send_json({"type": "agent.speak", **fields})
        assert error(socket).startswith(told)
        socket.send_json({"type": "agent.speak", "audio": pcm(0.1, 16_000), "sample_rate": 16_000})
        assert socket.receive_json()["audio_samples"] == 1_600
    assert len(link.utterances) == 1


def test_speech_that_finds_no_room_is_refused() -> None:
    link = FakeSessionLink(ID)
    link.fail["feed"] = SpeechOverrun("expected at most 300 s", 1.0)
    with joined(link) as socket:
        socket.send_json({"type": "agent.speak", "audio": pcm(0.1, 16_000)})
        assert error(socket) == "Failed to process audio: expected at most 300 s"


def test_an_unknown_type_is_named() -> None:
    with joined(FakeSessionLink(ID)) as socket:
        socket.send_json({"type": "agent.dance"})
        assert error(socket) == "Unknown message type: agent.dance"
        socket.send_text("[")
        assert error(socket) == "Invalid JSON format"


# What the session tells.


def test_what_becomes_of_the_session_is_told() -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        link.emit(RoomChanged("joined"), RoomChanged("failed", "the token is refused"))
        assert error(socket) == "Failed to join the room: the token is refused"
        link.emit(GenerationFailed(0, 0, "model_error", "no clip"))
        assert error(socket) == "Video generation failed: no clip"
        link.emit(SessionEnding("expired", 30.0))
        assert socket.receive_json() == {"type": "session.ending", "reason": "expired", "in_s": 30.0}
        link.emit(SessionClosed("expired"))
        assert error(socket) == "Session not found: it has ended (expired)"
        assert closed(socket) == 4408


def test_a_second_socket_takes_the_session_over() -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        link.emit(None)
        assert closed(socket) == 4409


def test_a_goodbye_ends_the_session_and_a_cut_does_not() -> None:
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        socket.close(1000)
    assert link.closed.wait(5.0)
    link = FakeSessionLink(ID)
    with joined(link) as socket:
        socket.close(1001)
    assert link.detached.wait(5.0)
    assert not link.closed.is_set()


def test_a_flood_is_cut_off() -> None:
    limits = SocketLimits(messages_per_s=1, burst_messages=3)
    with joined(FakeSessionLink(ID), limits) as socket:
        for _ in range(4):
            socket.send_json({"type": "agent.dance"})
        for _ in range(3):
            assert error(socket).startswith("Unknown")
        assert error(socket).startswith("Too many messages: ")
        assert closed(socket) == 1008


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
messages = st.text(max_size=60) | st.builds(
    lambda kind, fields: json.dumps({**fields, "type": kind}),
    st.sampled_from(["session.init", "agent.speak", "agent.speak_end", "agent.interrupt"]) | json_values,
    st.dictionaries(st.sampled_from(["audio", "sample_rate", "session_id", "session_token"]), json_values),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, min_size=1, max_size=5))
def test_whatever_arrives_the_socket_lives(texts: list[str]) -> None:
    with joined(FakeSessionLink(ID)) as socket:
        for text in texts:
            socket.send_text(text)
        socket.send_json({"type": "end.of.test"})
        for _ in range(len(texts) + 1):
            event = socket.receive_json()
            if event == {"type": "error", "error": "Unknown message type: end.of.test"}:
                return
            assert event["type"] in {"error", "agent.speak.confirmed", "agent.interrupt.confirmed"}
    raise AssertionError("the last message was not answered")
