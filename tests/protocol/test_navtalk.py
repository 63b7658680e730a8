"""The NavTalk door against a client written from document 002: its page's JavaScript, in Python."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from serve_app.config import (
    ApiKeyConfig,
    AppConfig,
    AuthConfig,
    GatewayConfig,
    IceConfig,
    IceServer,
    NavTalkConfig,
)
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import (
    AdmissionRefused,
    AgentFailed,
    AvatarInvalid,
    ConcurrencyExceeded,
    HostLost,
    IceFailed,
    InvalidCandidate,
    InvalidDescription,
    ModelNotLoaded,
    QuotaExceeded,
    SpeechOverrun,
)
from serve_app.gateway.auth import Keyring
from serve_app.gateway.door_socket import SocketLimits
from serve_app.gateway.navtalk.door import SESSION, NavTalkDoor
from serve_app.session.events import (
    ConversationEvent,
    GenerationFailed,
    PeerChanged,
    SessionClosed,
    SessionEnding,
    SessionEvent,
    UtteranceCompleted,
)
from serve_app.session.request import SessionRequest
from tests.fakes import ANSWER, OFFER, Call, FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

PATH = "/wss/v2/realtime-chat"
LICENSE = "sk_navtalk_test"
CLOSED = AppConfig(
    auth=AuthConfig(
        keys=[
            ApiKeyConfig(id="shop", sha256=hashlib.sha256(LICENSE.encode()).hexdigest(), max_concurrent=5),
            ApiKeyConfig(id="lab", sha256=hashlib.sha256(b"sk_navtalk_lab").hexdigest()),
        ]
    )
)
SESSION_OBJECT = {"id": "sess_1", "object": "realtime.session", "voice": "alloy"}
CREATED = ConversationEvent({"type": "session.created", "session": SESSION_OBJECT})
CANDIDATE = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
CLIENT_ANSWER = "v=0\r\na=fingerprint:sha-256 AA\r\na=ice-ufrag:u1\r\n"


@dataclass
class Page:
    """What document 002's page keeps; `handle` is its handleReceivedMessage, followed line by line."""

    socket: WebSocketTestSession
    history: tuple[str, ...] = ()
    ice_servers: list[dict[str, Any]] = field(default_factory=list)
    session_id: str | None = None
    connections: int = 0
    remote: list[dict[str, str]] = field(default_factory=list)
    microphones: int = 0
    user: list[str] = field(default_factory=list)
    avatar: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def send(self, kind: str, **data: object) -> None:
        self.socket.send_json({"type": kind, "data": data})

    def send_bare(self, kind: str, **fields: object) -> None:
        self.socket.send_json({"type": kind, **fields})

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = self.socket.receive_json()
        self.handle(message)
        return message

    def receive_until(self, kind: str) -> dict[str, Any]:
        while (message := self.receive())["type"] != kind:
            pass
        return message

    def handle(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message.get("data")
        self.kinds.append(kind)
        assert isinstance(data, dict), "pages read fields of `data` without looking whether it is there"
        match kind:
            case "conversation.connected.success":
                self.session_id, self.ice_servers = data["sessionId"], data["iceServers"]
            case "webrtc.signaling.offer":
                assert self.session_id, "success comes before the offer"
                # handleOffer: a new RTCPeerConnection each time.
                self.connections += 1
                self.remote.append(data["sdp"])
                self.send("webrtc.signaling.answer", sdp={"type": "answer", "sdp": CLIENT_ANSWER})
                self.send("webrtc.signaling.iceCandidate", candidate=CANDIDATE)
            case "webrtc.signaling.answer":
                self.remote.append(data["sdp"])
            case "realtime.session.created":
                for text in self.history:
                    content = [{"type": "input_text", "text": text}]
                    item = {"type": "message", "role": "user", "content": content}
                    self.send_bare("conversation.item.create", item=item)
            case "realtime.session.updated":
                self.microphones += 1
            case "realtime.conversation.item.input_audio_transcription.completed":
                self.user.append(data["content"])
            case "realtime.response.audio_transcript.delta":
                self.avatar[data["id"]] = self.avatar.get(data["id"], "") + data["content"]
            case "realtime.response.audio_transcript.done":
                assert self.avatar.get(data["id"], data["content"]) == data["content"]
                self.said.append(data["content"])
            case "realtime.response.function_call_arguments.done":
                self.calls.append((message["raw_data"]["name"], data["arguments"], data["call_id"]))

    def settle(self) -> None:
        """Return when everything sent before has been handled."""
        self.send("realtime.nothing")
        self.receive_until("error")


@contextlib.contextmanager
def connected(
    opener: FakeSessionOpener,
    config: AppConfig | None = None,
    *,
    query: str = "",
    headers: dict[str, str] | None = None,
    limits: SocketLimits | None = None,
) -> Iterator[Page]:
    config = config or AppConfig()
    door = NavTalkDoor(opener, Keyring(config.auth), config, limits=limits)
    client = TestClient(Starlette(routes=door.routes()))
    with client.websocket_connect(f"{PATH}?{query}", headers=dict(headers or {})) as socket:
        yield Page(socket)


@contextlib.contextmanager
def session(link: FakeSessionLink, *, query: str = "name=Mara", **options: Any) -> Iterator[Page]:
    """Connect up to the server's offer and the page's answer."""
    with connected(FakeSessionOpener(link), query=query, **options) as page:
        page.receive_until("webrtc.signaling.offer")
        page.settle()
        yield page


def closed(page: Page) -> tuple[int, str]:
    with pytest.raises(WebSocketDisconnect) as caught:
        page.receive_until("nothing that is ever sent")
    return caught.value.code, caught.value.reason or ""


def request_of(opener: FakeSessionOpener) -> SessionRequest:
    [call] = [call for call in opener.calls if call.name == "open"]
    [request] = call.args
    assert isinstance(request, SessionRequest)
    return request


# Opening.


def test_the_events_of_the_beginning_come_in_the_documented_order() -> None:
    config = AppConfig(
        ice=IceConfig(
            servers=[
                IceServer(urls=["stun:a"]),
                IceServer(urls=["turn:b"], username="u", credential=SecretStr("c")),
            ]
        )
    )
    link = FakeSessionLink("sess_1")
    link.emit(CREATED)

    with connected(FakeSessionOpener(link), config, query="name=Mara") as page:
        assert [page.receive() for _ in range(4)] == [
            {
                "type": "conversation.connected.success",
                "data": {
                    "sessionId": "sess_1",
                    "iceServers": [
                        {"urls": ["stun:a"]},
                        {"urls": ["turn:b"], "username": "u", "credential": "c"},
                    ],
                },
            },
            {"type": "webrtc.signaling.offer", "data": {"sdp": {"type": "offer", "sdp": OFFER}}},
            {"type": "realtime.session.created", "data": {"session": SESSION_OBJECT}},
            {"type": "realtime.session.updated", "data": {"session": SESSION_OBJECT}},
        ]
        page.settle()
        assert page.microphones == 1
        assert page.connections == 1
        assert link.calls == [
            Call("offer"),
            Call("accept", (CLIENT_ANSWER,)),
            Call("add_candidate", (CANDIDATE,)),
        ]
    assert link.closed.wait(5), "the session ends with its socket"


def test_a_session_holds_a_conversation_in_the_beta_dialect() -> None:
    opener = FakeSessionOpener()
    with connected(opener, query="name=Mara&model=gpt-realtime-mini") as page:
        page.receive()

    assert request_of(opener) == SessionRequest(
        avatar_id="default",
        conversation=ConversationSpec(
            dialect="beta",
            session=SESSION,
            model="gpt-realtime-mini",
            sound_in="events",
            sound_out="media",
        ),
    )


def test_the_answers_sound_is_asked_for_where_it_is_configured() -> None:
    opener = FakeSessionOpener()
    config = AppConfig(navtalk=NavTalkConfig(sends_sound=True))
    with connected(opener, config) as page:
        page.receive()

    spec = request_of(opener).conversation
    assert spec is not None
    assert spec.sound_out == "events"


def test_the_id_of_an_avatar_decides_over_its_name() -> None:
    opener = FakeSessionOpener()
    with connected(opener, query="name=Nobody&avatarId=default") as page:
        assert page.receive()["type"] == "conversation.connected.success"
        assert page.receive()["type"] == "webrtc.signaling.offer"
    assert request_of(opener).avatar_id == "default"


def test_a_character_of_navtalks_own_is_played_by_the_default_with_a_warning() -> None:
    with connected(FakeSessionOpener(), query="name=navtalk.Alex") as page:
        assert page.receive()["type"] == "conversation.connected.success"
        message = "no avatar has this name here; the default was selected: default"
        assert page.receive() == {
            "type": "conversation.connected.warning",
            "data": {"message": message, "avatarId": "default"},
            "message": message,
        }
        assert page.receive()["type"] == "webrtc.signaling.offer"


def test_what_is_sent_before_the_beginning_is_not_lost() -> None:
    link = FakeSessionLink()
    with connected(FakeSessionOpener(link)) as page:
        content = json.dumps({"voice": "cedar", "prompt": "be kind", "tools": []})
        page.send("realtime.input_config", content=content)
        page.receive_until("webrtc.signaling.offer")
        link.emit(CREATED, ConversationEvent({"type": "session.updated", "session": SESSION_OBJECT}))
        page.receive_until("realtime.session.updated")
        page.settle()

        assert page.microphones == 1
        assert link.conversed == [
            {
                "type": "session.update",
                "session": {"voice": "cedar", "instructions": "be kind", "tools": []},
                "event_id": "navtalk_update_1",
            }
        ]


def test_history_is_given_when_the_session_is_created() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        page.history = ("good day", "how are you")
        link.emit(CREATED)
        page.receive_until("realtime.session.updated")
        page.settle()

    assert [event["item"]["content"][0]["text"] for event in link.conversed] == ["good day", "how are you"]  # type: ignore[index]


# Refusals.


@pytest.mark.parametrize(
    ("error", "event", "code", "reason"),
    [
        (
            QuotaExceeded("the key's minutes are used up"),
            {
                "type": "conversation.connected.insufficient_balance",
                "data": {},
                "message": "the key's minutes are used up",
            },
            1008,
            "Insufficient points",
        ),
        (
            AdmissionRefused("every host is full", 5.0),
            {"type": "conversation.connected.gpu_full", "data": {}, "message": "every host is full"},
            1013,
            "",
        ),
        (
            ConcurrencyExceeded("5 sessions run", 5.0),
            {
                "type": "conversation.connected.connection_limit_exceeded",
                "data": {},
                "message": "Maximum concurrent connections (5) exceeded. "
                "Please close other connections and try again.",
            },
            1013,
            "",
        ),
        (
            AvatarInvalid("no such avatar"),
            {"type": "conversation.connected.fail", "data": {}, "message": "no such avatar"},
            4404,
            "",
        ),
        (
            ModelNotLoaded("no such model"),
            {"type": "conversation.connected.fail", "data": {}, "message": "no such model"},
            4404,
            "",
        ),
        (
            AgentFailed("no upstream"),
            {"type": "conversation.connected.backend_error", "data": {}, "message": "no upstream"},
            1011,
            "",
        ),
        (
            RuntimeError("secret"),
            {
                "type": "conversation.connected.backend_error",
                "data": {},
                "message": "the server failed at this (RuntimeError); its log says more",
            },
            1011,
            "",
        ),
    ],
)
def test_a_refused_socket_is_told_why(
    error: Exception, event: dict[str, Any], code: int, reason: str
) -> None:
    opener = FakeSessionOpener()
    opener.fail = error
    with connected(opener, CLOSED, query=f"license={LICENSE}") as page:
        assert page.receive() == event
        assert closed(page) == (code, reason)


def test_a_limit_that_is_not_configured_is_not_named() -> None:
    opener = FakeSessionOpener()
    opener.fail = ConcurrencyExceeded("they run", 5.0)
    with connected(opener, CLOSED, query="license=sk_navtalk_lab") as page:
        assert page.receive()["message"].startswith("Maximum concurrent connections exceeded.")


@pytest.mark.parametrize("query", ["", "license=wrong", "name=Mara&license="])
def test_a_socket_without_a_known_licence_is_refused(query: str) -> None:
    opener = FakeSessionOpener()
    with connected(opener, CLOSED, query=query) as page:
        event = page.receive()
        assert event["type"] == "conversation.connected.fail"
        assert "wrong" not in event["message"]
        assert closed(page) == (4401, "")
    assert opener.calls == []


@pytest.mark.parametrize(
    ("query", "headers"),
    [(f"license={LICENSE}", {}), ("", {"license": LICENSE}), ("", {"x-api-key": LICENSE})],
)
def test_a_licence_opens_sessions_that_are_counted_against_it(query: str, headers: dict[str, str]) -> None:
    opener = FakeSessionOpener()
    with connected(opener, CLOSED, query=query, headers=headers) as page:
        assert page.receive()["type"] == "conversation.connected.success"
    assert request_of(opener).key_id == "shop"


def test_an_unknown_name_is_refused() -> None:
    with connected(FakeSessionOpener(), query="name=Nobody") as page:
        event = page.receive()
        assert event["type"] == "conversation.connected.fail"
        assert event["message"] == "expected the name of an avatar of: collins, default; found another"
        assert closed(page)[0] == 4404


@pytest.mark.parametrize(
    ("config", "is_let_in"),
    [
        (AppConfig(), False),
        (AppConfig(gateway=GatewayConfig(allowed_origins=["https://shop.example"])), True),
        (CLOSED, True),
        (CLOSED.model_copy(update={"gateway": GatewayConfig(allowed_origins=["https://a.example"])}), False),
    ],
)
def test_a_page_of_another_origin_needs_a_licence_or_a_place_in_the_list(
    config: AppConfig, is_let_in: bool
) -> None:
    headers = {"origin": "https://shop.example"}
    with connected(FakeSessionOpener(), config, query=f"license={LICENSE}", headers=headers) as page:
        assert (page.receive()["type"] == "conversation.connected.success") is is_let_in


@pytest.mark.parametrize("error", [IceFailed("no port is free"), RuntimeError("secret")])
def test_a_server_that_cannot_offer_says_so(error: Exception) -> None:
    link = FakeSessionLink()
    link.fail["offer"] = error
    with connected(FakeSessionOpener(link)) as page:
        assert page.receive()["type"] == "conversation.connected.success"
        event = page.receive()
        assert event["type"] == "conversation.connected.backend_error"
        assert "secret" not in event["message"]
        assert closed(page)[0] == 1011
    assert link.closed.wait(5)


# Talking.


def test_a_spoken_turn_is_told_as_the_page_reads_it() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        place = {"response_id": "resp_1", "item_id": "item_2"}
        for event in (
            {"type": "session.created", "session": SESSION_OBJECT},
            {"type": "input_audio_buffer.speech_started", "item_id": "item_1"},
            {"type": "input_audio_buffer.speech_stopped", "item_id": "item_1"},
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": "item_1",
                "transcript": "good day",
            },
            {"type": "response.created", "response": {"id": "resp_1"}},
            {"type": "response.audio_transcript.delta", **place, "delta": "And a "},
            {"type": "response.audio_transcript.delta", **place, "delta": "good day to you"},
            {"type": "response.audio.done", **place},
            {"type": "response.audio_transcript.done", **place, "transcript": "And a good day to you"},
            {"type": "response.done", "response": {"id": "resp_1", "status": "completed"}},
        ):
            link.emit(ConversationEvent(event))
        page.receive_until("realtime.response.audio_transcript.done")

        assert (page.user, page.said) == (["good day"], ["And a good day to you"])
        assert page.kinds[-8:] == [
            "realtime.session.updated",
            "realtime.input_audio_buffer.speech_started",
            "realtime.input_audio_buffer.speech_stopped",
            "realtime.conversation.item.input_audio_transcription.completed",
            "realtime.response.audio_transcript.delta",
            "realtime.response.audio_transcript.delta",
            "realtime.response.audio.done",
            "realtime.response.audio_transcript.done",
        ]


def test_a_microphone_is_heard_slice_by_slice() -> None:
    link = FakeSessionLink()
    sound = base64.b64encode(np.arange(8_192, dtype="<i2").tobytes()).decode()
    slices = [sound[start : start + 4_096] for start in range(0, len(sound), 4_096)]
    with session(link) as page:
        for piece in slices:
            page.send("realtime.input_audio_buffer.append", audio=piece)
        page.send_bare("input_audio_buffer.append", audio=slices[0])
        page.settle()

    assert link.conversed == [
        {"type": "input_audio_buffer.append", "audio": piece} for piece in [*slices, slices[0]]
    ]


def test_a_function_is_called_and_answered() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(
            ConversationEvent(
                {
                    "type": "response.function_call_arguments.done",
                    "response_id": "resp_1",
                    "item_id": "item_1",
                    "output_index": 0,
                    "call_id": "call_1",
                    "name": "weather",
                    "arguments": '{"city":"Ulm"}',
                }
            )
        )
        page.receive_until("realtime.response.function_call_arguments.done")
        [(name, arguments, call_id)] = page.calls
        item = {"type": "function_call_output", "call_id": call_id, "output": "rain"}
        page.send_bare("conversation.item.create", item=item)
        page.send_bare("response.create")
        page.settle()

    assert (name, arguments) == ("weather", '{"city":"Ulm"}')
    assert link.conversed == [{"type": "conversation.item.create", "item": item}, {"type": "response.create"}]


def test_text_is_answered() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        page.send("realtime.input_text", content="good day")
        page.settle()

    assert [event["type"] for event in link.conversed] == [
        "response.cancel",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "response.create",
    ]


def test_what_the_session_has_no_room_for_is_told() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.fail["converse"] = SpeechOverrun("expected fewer events", 1.0)
        page.send("realtime.input_audio_buffer.append", audio="AAAA")
        event = page.receive()

    assert event["data"] == {"message": "expected fewer events", "code": "speech_overrun"}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("{", "expected a JSON object, found text that is not JSON"),
        ("[]", "expected a JSON object, found an array"),
        (b"\x00", "expected a text frame with a JSON object, found a binary frame"),
    ],
)
def test_a_message_that_cannot_be_used_is_told_and_the_socket_stays_open(
    frame: str | bytes, message: str
) -> None:
    with session(FakeSessionLink()) as page:
        if isinstance(frame, bytes):
            page.socket.send_bytes(frame)
        else:
            page.socket.send_text(frame)
        event = page.receive()
        assert event["type"] == "error"
        assert event["message"] == event["data"]["message"] == event["error"]["message"] == message
        page.settle()


def test_a_flood_is_ended() -> None:
    limits = SocketLimits(messages_per_s=1.0, burst_messages=8)
    with connected(FakeSessionOpener(), limits=limits) as page:
        page.receive_until("webrtc.signaling.offer")
        for _ in range(20):
            page.send("realtime.nothing")
        page.receive_until("error")
        assert closed(page)[0] == 1008


def test_frames_that_could_not_be_made_are_told() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(GenerationFailed(0, 0, "model_error", "the model failed"))
        assert page.receive()["data"] == {"message": "the model failed", "code": "model_error"}


# Signalling.


def test_a_failed_peer_is_followed_by_a_new_offer_that_the_page_answers() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(PeerChanged("failed", "no pair worked"))
        page.receive_until("webrtc.signaling.offer")
        page.settle()

        assert page.connections == 2
        assert [name for name in link.names() if name != "add_candidate"] == [
            "offer",
            "accept",
            "offer",
            "accept",
        ]


def test_a_page_that_renegotiates_is_answered() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        page.send("webrtc.signaling.offer", sdp={"type": "offer", "sdp": CLIENT_ANSWER + "m=video 9\r\n"})

        assert page.receive() == {
            "type": "webrtc.signaling.answer",
            "data": {"sdp": {"type": "answer", "sdp": ANSWER}},
        }


def test_a_page_that_restarts_ice_gets_a_new_offer() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        page.send("webrtc.signaling.offer", sdp={"type": "offer", "sdp": CLIENT_ANSWER.replace("u1", "u2")})
        page.receive_until("webrtc.signaling.offer")
        page.settle()

        assert page.connections == 2


def test_candidates_that_come_before_the_answer_reach_the_session() -> None:
    link = FakeSessionLink()
    with connected(FakeSessionOpener(link)) as page:
        page.send("webrtc.signaling.iceCandidate", candidate=CANDIDATE)
        page.receive_until("webrtc.signaling.offer")
        page.settle()

    assert link.names()[:3] == ["offer", "add_candidate", "accept"]


@pytest.mark.parametrize(
    ("call", "error"),
    [("add_candidate", InvalidCandidate("no candidate")), ("answer", InvalidDescription("no description"))],
)
def test_a_signal_that_cannot_be_used_is_told(call: str, error: Exception) -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.fail[call] = error
        page.send("webrtc.signaling.offer", sdp={"type": "offer", "sdp": "v=0"})
        page.send("webrtc.signaling.iceCandidate", candidate=CANDIDATE)

        assert page.receive_until("error")["message"] == str(error)


def test_speech_does_not_wait_for_signalling() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.hold["answer"] = asyncio.Event()
        page.send("webrtc.signaling.offer", sdp={"type": "offer", "sdp": "v=0"})
        page.send("realtime.input_audio_buffer.append", audio="AAAA")
        page.settle()

        assert link.conversed == [{"type": "input_audio_buffer.append", "audio": "AAAA"}]


# Transparency.


@contextlib.contextmanager
def mirror(link: FakeSessionLink, silence_s: float = 0.05) -> Iterator[Page]:
    config = AppConfig(navtalk=NavTalkConfig(silence_s=silence_s))
    with connected(FakeSessionOpener(link), config, query="model=transparency") as page:
        page.receive_until("realtime.session.updated")
        yield page


def test_transparency_needs_no_conversation_and_opens_the_microphone() -> None:
    opener = FakeSessionOpener()
    with connected(opener, query="avatarId=default&model=transparency") as page:
        page.receive_until("realtime.session.updated")
        assert page.kinds == [
            "conversation.connected.success",
            "webrtc.signaling.offer",
            "realtime.session.created",
            "realtime.session.updated",
        ]
    assert request_of(opener) == SessionRequest(avatar_id="default")


def test_transparency_speaks_exactly_the_sound_it_is_sent() -> None:
    link = FakeSessionLink()
    samples = np.arange(-4_096, 4_096, dtype="<i2")
    sound = base64.b64encode(samples.tobytes()).decode()
    with mirror(link) as page:
        page.send_bare("input_audio_buffer.append", audio=sound[:4_096])
        page.send("realtime.input_audio_buffer.append", audio=sound[4_096:])
        page.settle()
        [utterance] = link.utterances
        link.emit(UtteranceCompleted(0, 1, 1.0, interrupted=False, recording=None))
        page.receive_until("realtime.response.audio.done")

        assert utterance.hz == 24_000
        assert np.array_equal(np.concatenate(utterance.pieces), samples)
        assert link.conversed == []


class EndingLink(FakeSessionLink):
    """Tells when an utterance ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def end(self) -> None:
        if self.utterances and self.utterances[-1].pieces:
            self.ended.set()
        super().end()


def test_transparency_ends_an_utterance_when_no_sound_comes() -> None:
    link = EndingLink()
    with mirror(link) as page:
        page.send_bare("input_audio_buffer.append", audio="AAAA")

        assert link.ended.wait(5)
    assert [utterance.ended for utterance in link.utterances] == [True]


def test_transparency_is_interrupted() -> None:
    link = FakeSessionLink()
    with mirror(link, silence_s=60.0) as page:
        page.send_bare("input_audio_buffer.append", audio="AAAA")
        page.send_bare("input_audio_buffer.clear")
        page.settle()

    assert "interrupt" in link.names()


# Endings.


@pytest.mark.parametrize(
    ("reason", "event", "code", "close_reason"),
    [
        (
            "expired",
            {
                "type": "conversation.connected.close",
                "data": {},
                "message": "Session timeout: its longest time is over",
            },
            4408,
            "Session timeout: its longest time is over",
        ),
        (
            "idle",
            {
                "type": "conversation.connected.close",
                "data": {},
                "message": "Session timeout: nobody was watching",
            },
            4408,
            "Session timeout: nobody was watching",
        ),
        (
            "quota",
            {
                "type": "conversation.connected.insufficient_balance",
                "data": {},
                "message": "Insufficient balance to continue service",
            },
            1008,
            "Insufficient points",
        ),
        (
            "host_lost",
            {
                "type": "conversation.connected.backend_error",
                "data": {},
                "message": "The session's host is gone; connect again",
            },
            1012,
            "The session's host is gone; connect again",
        ),
        (
            "shutdown",
            {
                "type": "conversation.connected.backend_error",
                "data": {},
                "message": "The server is shutting down; connect again",
            },
            1012,
            "The server is shutting down; connect again",
        ),
        (
            "client",
            {
                "type": "conversation.connected.close",
                "data": {},
                "message": "Connection closed by server",
            },
            1000,
            "Connection closed by server",
        ),
    ],
)
def test_the_end_of_a_session_is_told_with_its_reason(
    reason: str, event: dict[str, Any], code: int, close_reason: str
) -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(SessionClosed(reason))
        assert page.receive() == event
        assert closed(page) == (code, close_reason)


@pytest.mark.parametrize(
    ("event", "code"), [(None, 4409), (HostLost("gone"), 1012), (RuntimeError("secret"), 1011)]
)
def test_a_session_whose_events_end_is_closed(event: Exception | None, code: int) -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(event)
        assert page.receive()["type"].startswith("conversation.connected.")
        assert closed(page)[0] == code


def test_the_end_is_announced() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(SessionEnding("expired", 30.0))
        assert page.receive() == {
            "type": "conversation.connected.warning",
            "message": "The session ends in 30 seconds (expired)",
            "data": {
                "message": "The session ends in 30 seconds (expired)",
                "reason": "expired",
                "inSeconds": 30,
            },
        }


# Whatever arrives.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(
    (
        "realtime.input_config",
        "realtime.input_function_call",
        "realtime.input_audio_buffer.append",
        "realtime.input_text",
        "realtime.input_image",
        "realtime.function_call_output",
        "webrtc.signaling.answer",
        "webrtc.signaling.offer",
        "webrtc.signaling.iceCandidate",
        "conversation.item.create",
        "response.create",
        "session.update",
    )
)
NAMES = st.sampled_from(
    ("content", "audio", "sdp", "candidate", "reply", "call_id", "output", "item", "session")
)
FRAMES = (
    st.text(max_size=40)
    | JSON.map(json.dumps)
    | st.builds(
        lambda kind, beside, data: json.dumps({"type": kind, **beside, "data": data}),
        KINDS,
        st.dictionaries(NAMES, JSON, max_size=3),
        st.dictionaries(NAMES, JSON, max_size=3) | JSON,
    )
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAMES, max_size=12), st.booleans())
def test_whatever_arrives_is_answered_by_the_doors_own_error(frames: list[str], is_mirror: bool) -> None:
    query = "model=transparency" if is_mirror else ""
    with session(FakeSessionLink(), query=query) as page:
        for frame in frames:
            page.socket.send_text(frame)
        page.send("realtime.nothing")
        while "type: expected one of" not in str((event := page.receive()).get("message")):
            assert event["type"] in {"error", "webrtc.signaling.offer", "webrtc.signaling.answer"} or (
                event["type"].startswith("realtime.session.")
            )
            assert "Traceback" not in str(event)


EVENTS: list[SessionEvent] = [CREATED, PeerChanged("connected"), SessionEnding("idle", 1.0)]


def test_every_event_is_an_object_with_data() -> None:
    link = FakeSessionLink()
    with session(link) as page:
        link.emit(*EVENTS)
        # Page.handle asserts the shape of every one.
        page.receive_until("conversation.connected.warning")
