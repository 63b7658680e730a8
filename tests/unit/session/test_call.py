"""What a call passes on, to whom, and when its conversation begins."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import numpy as np
import pytest

from serve_app.conversation.engine import Conversation
from serve_app.errors import ClientError
from serve_app.nouns import Int16
from serve_app.rtc.peer import Peer
from serve_app.session.call import Call
from serve_app.session.events import ConversationEvent, SessionEvent

pytestmark = pytest.mark.unit


class Talk:
    """A conversation that writes down what it is given."""

    def __init__(self) -> None:
        self.starts = 0
        self.received: list[object] = []
        self.heard: list[tuple[int, int]] = []

    def start(self) -> None:
        self.starts += 1

    def receive(self, event: object) -> None:
        self.received.append(event)

    def hear(self, samples: Int16, hz: int) -> None:
        self.heard.append((len(samples), hz))


class Wire:
    """A peer that writes down what is sent; `refusal` is raised instead."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.refusal: ClientError | None = None

    def send(self, text: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.sent.append(json.loads(text))


class Scene:
    """A call, its conversation, its sockets and its peer."""

    def __init__(self, *, begins_when_followed: bool = False, holds: bool = True) -> None:
        self.talk = Talk()
        self.told: list[SessionEvent] = []
        self.peer: Wire | None = Wire()
        self.call = Call("sess_1", self.told.append, lambda: cast("Peer | None", self.peer))
        if holds:
            self.call.hold(cast("Conversation", self.talk), begins_when_followed=begins_when_followed)

    @property
    def sent(self) -> list[dict[str, Any]]:
        assert self.peer is not None
        return self.peer.sent


def test_an_event_goes_to_sockets_and_to_the_peer() -> None:
    scene = Scene()
    scene.call.emit({"type": "session.created"})
    assert scene.told == [ConversationEvent({"type": "session.created"})]
    assert scene.sent == [{"type": "session.created"}]


def test_without_a_peer_sockets_are_told_all_the_same() -> None:
    scene = Scene()
    scene.peer = None
    scene.call.emit({"type": "session.created"})
    assert len(scene.told) == 1


def test_an_event_that_the_peer_does_not_take_is_logged_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    assert scene.peer is not None
    scene.peer.refusal = ClientError("expected at most 10 bytes")
    with caplog.at_level(logging.WARNING):
        scene.call.emit({"type": "response.done", "words": "a secret sentence"})
    assert len(scene.told) == 1
    assert "session sess_1: an event was not sent: expected at most 10 bytes" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("begins_when_followed", "moment", "begins"),
    [
        (True, "followed", True),
        (True, "connected", False),
        (False, "followed", False),
        (False, "connected", True),
        (True, "channel_opened", True),
        (False, "channel_opened", True),
    ],
)
def test_a_conversation_begins_when_its_client_listens(
    *, begins_when_followed: bool, moment: str, begins: bool
) -> None:
    scene = Scene(begins_when_followed=begins_when_followed)
    getattr(scene.call, moment)()
    assert scene.talk.starts == int(begins)


def test_client_events_of_sockets_and_of_the_channel_reach_the_conversation_in_order() -> None:
    scene = Scene()
    scene.call.receive([{"type": "a"}, {"type": "b"}])
    scene.call.channel_message('{"type": "c"}')
    assert scene.talk.received == [{"type": "a"}, {"type": "b"}, {"type": "c"}]


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "[1", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 1_000_000]
)
def test_what_is_no_json_is_answered_by_the_conversation(text: str) -> None:
    scene = Scene()
    scene.call.channel_message(text)
    assert scene.talk.received == [None]


def test_the_microphone_is_heard() -> None:
    scene = Scene()
    scene.call.sound(np.zeros(960, np.int16), 48_000)
    assert scene.talk.heard == [(960, 48_000)]


def test_nothing_happens_before_there_is_a_conversation() -> None:
    scene = Scene(holds=False)
    scene.call.connected()
    scene.call.followed()
    scene.call.receive([{"type": "a"}])
    scene.call.channel_message("{}")
    scene.call.sound(np.zeros(960, np.int16), 48_000)
    scene.call.channel_closed()
    assert scene.told == []


def test_the_peer_is_told_of_the_end_in_openais_words_and_sockets_are_not() -> None:
    scene = Scene()
    scene.call.warn_of_end("expired", 12.3456)
    scene.call.expired(1800.0)
    warning, error = scene.sent
    assert warning.pop("event_id").startswith("event_")
    assert warning == {"type": "session.ending", "reason": "expired", "ends_in_ms": 12_346}
    assert error["error"] == {
        "type": "invalid_request_error",
        "code": "session_expired",
        "message": "Your session hit the maximum duration of 30 minutes.",
        "param": None,
        "event_id": None,
    }
    assert scene.told == []
