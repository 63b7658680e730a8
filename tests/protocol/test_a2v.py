from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import wave
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.clock import Clock
from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, GatewayConfig, IceConfig, IceServer
from serve_app.errors import (
    AdmissionRefused,
    AvatarInvalid,
    HostLost,
    InvalidCandidate,
    InvalidDescription,
    ModelNotLoaded,
    SpeechOverrun,
)
from serve_app.gateway.a2v.door import EMPTY_ANSWER, A2vDoor
from serve_app.gateway.auth import Keyring
from serve_app.gateway.door_socket import SocketLimits
from serve_app.gateway.link import OpenUtterance
from serve_app.session.events import (
    GenerationFailed,
    PeerChanged,
    RecordingFailed,
    SessionClosed,
    UtteranceCompleted,
    UtteranceStarted,
)
from serve_app.session.request import SessionRequest
from tests.clocks import SleeplessClock
from tests.fakes import ANSWER, Call, FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

ID = "session-1"
OFFER = "v=0\r\ns=-\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
CANDIDATE = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}


def b64(sound: bytes) -> str:
    return base64.b64encode(sound).decode()


def wav(seconds: float = 1.0, hz: int = 16_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(hz)
        writer.writeframes(bytes(round(seconds * hz) * 2))
    return file.getvalue()


@contextlib.contextmanager
def connected(
    opener: FakeSessionOpener,
    config: AppConfig | None = None,
    *,
    path: str = "/webrtc",
    headers: dict[str, str] | None = None,
    limits: SocketLimits | None = None,
    clock: Clock | None = None,
) -> Iterator[WebSocketTestSession]:
    config = config or AppConfig()
    door = A2vDoor(opener, Keyring(config.auth), config, limits=limits, clock=clock)
    client = TestClient(Starlette(routes=door.routes()))
    with client.websocket_connect(path, headers=dict(headers or {})) as socket:
        yield socket


@contextlib.contextmanager
def session(link: FakeSessionLink | None = None, **options: Any) -> Iterator[WebSocketTestSession]:
    with connected(FakeSessionOpener(link or FakeSessionLink()), **options) as socket:
        assert socket.receive_json()["type"] == "connection.established"
        yield socket


def send(socket: WebSocketTestSession, kind: str, **fields: Any) -> None:
    socket.send_json({"type": kind, "session_id": ID, **fields})


def error(socket: WebSocketTestSession) -> tuple[str, str]:
    """Return the code and text of the next event, which must be an error."""
    event = socket.receive_json()
    assert event["type"] == "error", event
    return event["details"]["code"], event["error"]


def settle(socket: WebSocketTestSession) -> None:
    """Return when everything sent before has been handled."""
    send(socket, "agent.nothing")
    assert error(socket)[0] == "WS_1002"


def closed(socket: WebSocketTestSession) -> int:
    with pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_json()
    return caught.value.code


# Opening.


@pytest.mark.parametrize("path", ["/webrtc", "/"])
def test_a_socket_is_told_its_session(path: str) -> None:
    config = AppConfig(
        ice=IceConfig(
            servers=[
                IceServer(urls=["stun:a"]),
                IceServer(urls=["turn:b"], username="u", credential=SecretStr("c")),
            ]
        )
    )
    with connected(FakeSessionOpener(), config, path=path) as socket:
        assert socket.receive_json() == {
            "type": "connection.established",
            "session_id": ID,
            "resume_token": "token-1",
            "resumed": False,
            "lease_s": 30.0,
            "ice_servers": [{"urls": ["stun:a"]}, {"urls": ["turn:b"], "username": "u", "credential": "c"}],
            "video": {"width": 512, "height": 512, "fps": 30},
        }


def test_the_query_names_avatar_and_model() -> None:
    opener = FakeSessionOpener()
    with connected(opener, path="/webrtc?avatar=ada&model=tracer") as socket:
        socket.receive_json()
    assert opener.calls == [Call("open", (SessionRequest("ada", "tracer"),))]


def test_without_a_query_the_defaults_are_asked_for() -> None:
    opener = FakeSessionOpener()
    with connected(opener) as socket:
        socket.receive_json()
    assert opener.calls == [Call("open", (SessionRequest(),))]


@pytest.mark.parametrize(
    ("failure", "code", "close_code"),
    [
        (AdmissionRefused("every host is full", 7.5), "SRV_5001", 1013),
        (AvatarInvalid("no avatar ada"), "GEN_4001", 4404),
        (ModelNotLoaded("no model x"), "GEN_4002", 4404),
        (HostLost("gone"), "WS_1001", 1011),
        (ZeroDivisionError("secret"), "GEN_4001", 1011),
    ],
)
def test_a_refused_session_is_told_why_and_closed(failure: Exception, code: str, close_code: int) -> None:
    opener = FakeSessionOpener()
    opener.fail = failure
    with connected(opener) as socket:
        event = socket.receive_json()
        assert (event["type"], event["session_id"], event["details"]["code"]) == ("error", None, code)
        assert event["details"].get("retry_after_s") == (7.5 if code == "SRV_5001" else None)
        assert "secret" not in event["error"]
        assert closed(socket) == close_code
    assert not opener.link.detached.is_set()


# Access.

KEYS = AppConfig(
    auth=AuthConfig(
        keys=[
            ApiKeyConfig(id=name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in ("one", "two")
        ]
    )
)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/webrtc?token=one", {}), ("/?token=two", {}), ("/webrtc", {"x-api-key": "two"})],
)
def test_a_token_opens_the_door(path: str, headers: dict[str, str]) -> None:
    with connected(FakeSessionOpener(), KEYS, path=path, headers=headers) as socket:
        assert socket.receive_json()["type"] == "connection.established"


@pytest.mark.parametrize("path", ["/webrtc", "/webrtc?token=", "/webrtc?token=three", "/webrtc?token=%C3%B6"])
def test_without_a_token_the_door_stays_shut(path: str) -> None:
    opener = FakeSessionOpener()
    with connected(opener, KEYS, path=path) as socket:
        assert error(socket)[0] == "SRV_5003"
        assert closed(socket) == 4401
    assert opener.calls == []


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ([], None),
        ([], "http://testserver"),
        ([], "http://testserver:80"),
        (["https://a.example"], None),
        (["https://a.example/"], "https://A.example"),
        (["*"], "https://b.example"),
    ],
)
def test_pages_of_allowed_origins_may_enter(allowed: list[str], origin: str | None) -> None:
    config = AppConfig(gateway=GatewayConfig(allowed_origins=allowed))
    headers = {} if origin is None else {"origin": origin}
    with connected(FakeSessionOpener(), config, headers=headers) as socket:
        assert socket.receive_json()["type"] == "connection.established"


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ([], "http://evil.example"),
        ([], "http://testserver:81"),
        ([], "https://testserver.evil.example"),
        ([], "null"),
        ([], "http://[bad"),
        ([], "http://testserver:99999"),
        (["https://a.example"], "https://b.example"),
        (["https://a.example"], "http://testserver"),
    ],
)
def test_pages_of_other_origins_may_not(allowed: list[str], origin: str) -> None:
    opener = FakeSessionOpener()
    config = AppConfig(gateway=GatewayConfig(allowed_origins=allowed))
    with connected(opener, config, headers={"origin": origin}) as socket:
        assert error(socket)[0] == "SRV_5003"
        assert closed(socket) == 4401
    assert opener.calls == []


# Resuming.


def test_a_session_is_taken_over() -> None:
    opener = FakeSessionOpener()
    opener.resumable["old"] = FakeSessionLink("old", "t", resumed=True, open_utterance=OpenUtterance(4))
    with connected(opener, path="/webrtc?session_id=old&resume_token=t") as socket:
        established = socket.receive_json()
        assert (established["session_id"], established["resumed"]) == ("old", True)
        chunk = {"type": "agent.audio.chunk", "session_id": "old", "chunk": b64(bytes(640)), "chunk_index": 9}
        socket.send_json({**chunk, "is_final": True})
        settle_id = {"type": "agent.nothing", "session_id": "old"}
        socket.send_json(settle_id)
        assert error(socket)[0] == "WS_1002"
    (continued,) = opener.resumable["old"].utterances
    assert (continued.client_index, continued.num_samples, continued.ended) == (4, 320, True)
    assert [call.name for call in opener.calls] == ["resume"]


@pytest.mark.parametrize(
    "query", ["session_id=old&resume_token=wrong", "session_id=gone&resume_token=t", "session_id=old"]
)
def test_a_failed_resume_gives_a_new_session_on_the_same_socket(query: str) -> None:
    opener = FakeSessionOpener()
    opener.resumable["old"] = FakeSessionLink("old", "t", resumed=True)
    with connected(opener, path=f"/webrtc?{query}&avatar=ada") as socket:
        assert error(socket)[0] == "WS_1001"
        established = socket.receive_json()
        assert (established["session_id"], established["resumed"]) == (ID, False)
    assert opener.calls[-1] == Call("open", (SessionRequest("ada"),))


# Signalling.


def test_an_offer_is_answered() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, "webrtc.offer", sdp=OFFER)
        assert socket.receive_json() == {"type": "webrtc.answer", "session_id": ID, "sdp": ANSWER}
        send(socket, "webrtc.offer", sdp=OFFER)
        assert socket.receive_json()["type"] == "webrtc.answer"
    assert link.calls[:2] == [Call("answer", (OFFER,))] * 2


def test_candidates_keep_their_order_with_offers() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, "webrtc.ice_candidate", candidate=CANDIDATE)
        send(socket, "webrtc.offer", sdp=OFFER)
        send(socket, "webrtc.ice_candidate", candidate={"candidate": "", "sdpMid": "0"})
        send(socket, "webrtc.ice_candidate", candidate=None)
        send(socket, "webrtc.offer", sdp=OFFER)
        assert [socket.receive_json()["type"] for _ in range(2)] == ["webrtc.answer"] * 2
    end = Call("add_candidate", (None,))
    assert link.calls[:5] == [
        Call("add_candidate", (CANDIDATE,)),
        Call("answer", (OFFER,)),
        end,
        end,
        Call("answer", (OFFER,)),
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "failure"),
    [
        ("webrtc.offer", {"sdp": "garbage"}, ("answer", InvalidDescription("expected SDP, found garbage"))),
        ("webrtc.offer", {"sdp": OFFER}, ("answer", InvalidDescription("expected SDP, found garbage"))),
        (
            "webrtc.ice_candidate",
            {"candidate": CANDIDATE},
            ("add_candidate", InvalidCandidate("expected SDP, found garbage")),
        ),
    ],
)
def test_bad_signalling_is_reported_and_may_be_corrected(
    kind: str, fields: dict[str, Any], failure: tuple[str, Exception]
) -> None:
    link = FakeSessionLink()
    link.fail[failure[0]] = failure[1]
    with session(link) as socket:
        send(socket, kind, **fields)
        assert error(socket) == ("RTC_2001", "expected SDP, found garbage")
        send(socket, "webrtc.offer", sdp=OFFER)
        assert socket.receive_json()["type"] == "webrtc.answer"


def test_the_documents_empty_offer_is_explained_and_answered() -> None:
    link = FakeSessionLink()
    link.fail["answer"] = InvalidDescription("no video")
    with session(link) as socket:
        send(socket, "webrtc.offer", sdp="v=0\r\ns=-\r\nt=0 0\r\n")
        code, text = error(socket)
        assert code == "RTC_2001"
        assert "pc.addTransceiver('video', {direction: 'recvonly'})" in text
        assert socket.receive_json() == {"type": "webrtc.answer", "session_id": ID, "sdp": EMPTY_ANSWER}


def test_an_offer_of_sound_alone_is_explained() -> None:
    link = FakeSessionLink()
    link.fail["answer"] = InvalidDescription("no video")
    with session(link) as socket:
        send(socket, "webrtc.offer", sdp="v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n")
        assert "addTransceiver" in error(socket)[1]
        settle(socket)


def test_speech_does_not_wait_for_signalling() -> None:
    link = FakeSessionLink()
    link.hold["answer"] = asyncio.Event()
    with session(link, limits=SocketLimits(waiting_signals=1)) as socket:
        send(socket, "webrtc.offer", sdp=OFFER)
        send(socket, "agent.speak", audio=b64(wav()))
        settle(socket)
        assert len(link.utterances) == 1
        send(socket, "webrtc.ice_candidate", candidate=CANDIDATE)
        send(socket, "webrtc.ice_candidate", candidate=CANDIDATE)
        assert error(socket)[0] == "WS_1002"


# Speech.


def test_the_complete_examples_message_is_spoken() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, "agent.speak", audio=b64(wav()), format="wav", sample_rate=16_000)
        settle(socket)
    (spoken,) = link.utterances
    assert (spoken.client_index, spoken.hz, spoken.num_samples, spoken.ended) == (0, 16_000, 16_000, True)


def test_streamed_chunks_are_spoken() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        for index in range(3):
            send(
                socket,
                "agent.audio.chunk",
                chunk=b64(bytes(640)),
                chunk_index=index,
                is_first=index == 0,
                is_final=False,
            )
        send(socket, "agent.speak_end")
        settle(socket)
    (spoken,) = link.utterances
    assert (spoken.num_samples, spoken.ended) == (960, True)


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("agent.speak", {"audio": b64(wav(0.5))}, "AUDIO_3002"),
        ("agent.speak", {"audio": b64(wav()[:-10])}, "AUDIO_3001"),
        ("agent.speak", {"audio": "?"}, "AUDIO_3001"),
        ("agent.speak", {"audio": b64(wav()), "format": "flac"}, "AUDIO_3001"),
        ("agent.speak", {"audio": b64(bytes(32_000)), "sample_rate": 1}, "AUDIO_3001"),
        ("agent.audio.chunk", {"chunk": b64(bytes(1_048_578)), "chunk_index": 0}, "AUDIO_3001"),
        ("agent.speak_end", {}, "WS_1002"),
        ("agent.audio.chunk", {"chunk_index": 0}, "WS_1003"),
        ("agent.speak", {}, "WS_1003"),
        ("webrtc.offer", {}, "WS_1003"),
        ("agent.speak", {"audio": b64(wav()), "session_id": "other"}, "WS_1001"),
        ("agent.interrupt", {"session_id": ""}, "WS_1001"),
        ("agent.interrupt", {"session_id": 5}, "WS_1002"),
    ],
)
def test_bad_messages_are_reported_and_the_socket_lives_on(
    kind: str, fields: dict[str, Any], code: str
) -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, kind, **fields)
        found, text = error(socket)
        assert found == code
        assert text
        assert link.utterances == []
        send(socket, "agent.speak", audio=b64(wav()))
        settle(socket)
    assert len(link.utterances) == 1


def test_a_missing_field_stands_in_the_details() -> None:
    with session() as socket:
        socket.send_json({"type": "agent.interrupt"})
        event = socket.receive_json()
        assert event["details"] == {"code": "WS_1003", "field": "session_id"}
        assert event["session_id"] == ID


def test_text_that_is_no_message_and_binary_frames_are_reported() -> None:
    with session() as socket:
        for text in ("", "{", "[]", "null", '{"type":"agent.sing"}'):
            socket.send_text(text)
            assert error(socket)[0] == "WS_1002"
        socket.send_bytes(bytes(10))
        assert error(socket) == (
            "WS_1002",
            "expected a text frame with a JSON object, found a binary frame",
        )
        settle(socket)


def test_a_session_without_room_says_when_to_try_again() -> None:
    link = FakeSessionLink()
    link.fail["feed"] = SpeechOverrun("too much unplayed speech", 12.0)
    with session(link) as socket:
        send(socket, "agent.speak", audio=b64(wav()), chunk_index=5)
        event = socket.receive_json()
        assert event["details"] == {"code": "SRV_5002", "retry_after_s": 12.0, "chunk_index": 5}
        settle(socket)


def test_an_interrupt_reaches_the_session_and_drops_the_rest_of_the_stream() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, "agent.interrupt")
        send(socket, "agent.audio.chunk", chunk=b64(bytes(640)), chunk_index=0, is_first=True)
        send(socket, "agent.interrupt")
        send(socket, "agent.audio.chunk", chunk=b64(bytes(640)), chunk_index=1, is_final=True)
        send(socket, "agent.speak", audio=b64(wav()), chunk_index=2)
        settle(socket)
    assert link.names()[:2] == ["interrupt"] * 2
    assert [(spoken.client_index, spoken.num_samples) for spoken in link.utterances] == [
        (0, 320),
        (2, 16_000),
    ]


# Events.


def test_a_recording_that_failed_is_told_before_its_utterance_ends() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(
            RecordingFailed(0, 3, "No space left on device"),
            UtteranceCompleted(0, 3, 1.5, interrupted=False, recording=None),
        )
        assert socket.receive_json() == {
            "type": "recording.failed",
            "session_id": ID,
            "chunk_index": 3,
            "detail": "No space left on device",
        }
        assert socket.receive_json()["video_path"] is None


def test_events_of_the_session_are_told_in_order() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(
            PeerChanged("connected"),
            UtteranceStarted(0, 3),
            UtteranceCompleted(0, 3, 1.5, interrupted=False, recording="a.mp4"),
            GenerationFailed(1, 4, "model_error", "broken"),
            PeerChanged("failed", "a firewall", ["a -> b"]),
        )
        assert [socket.receive_json() for _ in range(6)] == [
            {"type": "session.peer", "session_id": ID, "state": "connected", "detail": "", "pairs": []},
            {"type": "generation.started", "session_id": ID, "chunk_index": 3},
            {
                "type": "generation.completed",
                "session_id": ID,
                "chunk_index": 3,
                "video_path": "recordings/a.mp4",
                "interrupted": False,
                "played_ms": 1500,
            },
            {
                "type": "error",
                "session_id": ID,
                "error": "broken",
                "details": {"code": "GEN_4001", "chunk_index": 4},
            },
            {
                "type": "session.peer",
                "session_id": ID,
                "state": "failed",
                "detail": "a firewall",
                "pairs": ["a -> b"],
            },
            {
                "type": "error",
                "session_id": ID,
                "error": "a firewall",
                "details": {"code": "RTC_2002", "pairs": ["a -> b"]},
            },
        ]
        settle(socket)


@pytest.mark.parametrize(
    ("reason", "close_code"),
    [("expired", 4408), ("idle", 4408), ("host_lost", 1012), ("shutdown", 1012), ("unheard of", 1011)],
)
def test_a_session_that_ends_closes_its_socket(reason: str, close_code: int) -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(SessionClosed(reason))
        assert error(socket)[0] == "WS_1001"
        assert closed(socket) == close_code


def test_a_session_its_client_ended_closes_without_an_error() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(SessionClosed("client"))
        assert closed(socket) == 1000


@pytest.mark.parametrize(
    ("end", "code", "close_code"),
    [(HostLost("gone"), "WS_1001", 1012), (ValueError("secret"), "GEN_4001", 1011)],
)
def test_events_that_fail_close_the_socket(end: Exception, code: str, close_code: int) -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(end)
        found, text = error(socket)
        assert found == code
        assert "secret" not in text
        assert closed(socket) == close_code
    assert link.detached.wait(5)


def test_a_session_that_another_socket_took_closes_this_one() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        link.emit(None)
        assert closed(socket) == 4409


# Ends, faults and limits.


@pytest.mark.parametrize("code", [1001, 1006])
def test_a_session_outlives_its_socket(code: int) -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        send(socket, "agent.speak", audio=b64(wav()))
        settle(socket)
        socket.close(code)
        assert link.detached.wait(5)
    assert link.names() == ["detach"]


def test_a_client_that_says_goodbye_ends_its_session() -> None:
    link = FakeSessionLink()
    with session(link) as socket:
        socket.close(1000)
    assert link.closed.wait(5)
    assert link.names() == ["close"]


def test_an_unexpected_failure_is_logged_without_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeSessionLink()
    link.fail["interrupt"] = ZeroDivisionError("secret")
    with session(link) as socket, caplog.at_level(logging.ERROR):
        send(socket, "agent.interrupt")
        found, text = error(socket)
        assert found == "GEN_4001"
        assert "secret" not in text
        settle(socket)
    assert f"session {ID}: a message failed" in caplog.text


async def test_a_failing_detach_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    link, socket = FakeSessionLink(), RawSocket()
    link.fail["detach"] = ZeroDivisionError()
    socket.inbound.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(socket.serve(FakeSessionOpener(link)), 5)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert f"session {ID}: could not be let go" in caplog.text


def test_logs_hold_no_speech_sdp_or_token(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeSessionLink()
    with caplog.at_level(logging.DEBUG, "serve_app"), session(link) as socket:
        send(socket, "webrtc.offer", sdp=OFFER)
        socket.receive_json()
        send(socket, "agent.speak", audio="UklGR" * 8)
        error(socket)
    for secret in ("token-1", "m=video", "UklGR"):
        assert secret not in caplog.text


def test_a_flood_is_told_once_and_closed() -> None:
    clock = SleeplessClock(0.0)
    limits = SocketLimits(messages_per_s=10, burst_messages=5)
    link = FakeSessionLink()
    with session(link, limits=limits, clock=clock) as socket:
        for _ in range(5):
            settle(socket)
        clock.s += 0.1
        settle(socket)
        for _ in range(3):
            send(socket, "agent.interrupt")
        assert error(socket) == ("WS_1002", "expected at most 10 messages a second, found more")
        assert closed(socket) == 1008
    assert link.detached.wait(5)
    assert "interrupt" not in link.names()


class RawSocket:
    """An ASGI WebSocket in the test's own loop, whose client may stop reading."""

    def __init__(self, path: str = "/webrtc") -> None:
        self.scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
        }
        self.inbound: asyncio.Queue[Message] = asyncio.Queue()
        self.inbound.put_nowait({"type": "websocket.connect"})
        self.outbound: list[Message] = []
        self.breaks_after: int | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = asyncio.Condition()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if self.breaks_after is not None and len(self.outbound) >= self.breaks_after:
            raise BrokenPipeError
        async with self.sent:
            self.outbound.append(message)
            self.sent.notify_all()

    async def until_sent(self, count: int) -> None:
        async with self.sent:
            await self.sent.wait_for(lambda: len(self.outbound) >= count)

    def serve(self, opener: FakeSessionOpener, limits: SocketLimits | None = None) -> asyncio.Task[None]:
        door = A2vDoor(opener, Keyring(AuthConfig()), AppConfig(), limits=limits)
        websocket = WebSocket(self.scope, self.inbound.get, self.send)
        return asyncio.create_task(door(websocket))


async def told_too_much(link: FakeSessionLink, socket: RawSocket, *, closing_s: float) -> asyncio.Task[None]:
    """Serve a client that stops reading, and tell it more than may wait."""
    limits = SocketLimits(waiting_events=4, patience_s=0.02, closing_s=closing_s)
    task = socket.serve(FakeSessionOpener(link), limits)
    await socket.until_sent(2)
    socket.reads.clear()
    for index in range(10):
        link.emit(UtteranceStarted(index, index))
    return task


async def test_a_reader_that_is_too_slow_is_closed() -> None:
    link, socket = FakeSessionLink(), RawSocket()
    task = await told_too_much(link, socket, closing_s=0.02)
    await asyncio.wait_for(task, 5)
    assert len(socket.outbound) == 2
    assert await asyncio.to_thread(link.detached.wait, 5)


async def test_a_slow_reader_that_wakes_up_is_told_the_close_code() -> None:
    link, socket = FakeSessionLink(), RawSocket()
    task = await told_too_much(link, socket, closing_s=5)
    await asyncio.sleep(0.1)
    socket.reads.set()
    await asyncio.wait_for(task, 5)
    assert socket.outbound[-1]["type"] == "websocket.close"
    assert socket.outbound[-1]["code"] == 1013
    told = [json.loads(message["text"]) for message in socket.outbound[2:-1]]
    assert [event["chunk_index"] for event in told] == list(range(len(told)))


async def test_a_cancelled_socket_lets_its_session_go() -> None:
    link, socket = FakeSessionLink(), RawSocket()
    task = socket.serve(FakeSessionOpener(link))
    await socket.until_sent(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(link.detached.wait, 5)
    assert not [other for other in asyncio.all_tasks() if other is not asyncio.current_task()]


async def test_a_client_that_leaves_while_it_waits_is_let_go() -> None:
    link, socket = FakeSessionLink(), RawSocket()
    socket.inbound.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(socket.serve(FakeSessionOpener(link)), 5)
    assert await asyncio.to_thread(link.detached.wait, 5)


async def test_a_client_that_breaks_off_while_it_is_written_to_is_let_go() -> None:
    link, socket = FakeSessionLink(), RawSocket()
    socket.breaks_after = 2
    link.emit(UtteranceStarted(0, 0))
    await asyncio.wait_for(socket.serve(FakeSessionOpener(link)), 5)
    assert await asyncio.to_thread(link.detached.wait, 5)


async def test_a_client_that_breaks_off_while_it_is_refused_is_forgotten() -> None:
    opener, socket = FakeSessionOpener(), RawSocket()
    opener.fail = AdmissionRefused("full", 1.0)
    socket.breaks_after = 1
    await asyncio.wait_for(socket.serve(opener), 5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.text()
        | st.binary()
        | st.builds(
            json.dumps,
            st.fixed_dictionaries(
                {"type": st.sampled_from(["agent.speak", "agent.audio.chunk", "webrtc.offer"])},
                optional={
                    "session_id": st.just(ID),
                    "audio": st.text() | st.binary().map(b64),
                    "chunk": st.text() | st.binary().map(b64),
                    "chunk_index": st.integers(-1, 5),
                    "is_final": st.booleans(),
                    "sdp": st.text(),
                },
            ),
        ),
        max_size=8,
    )
)
def test_whatever_is_sent_the_socket_lives_on(frames: list[str | bytes]) -> None:
    with session() as socket:
        for frame in frames:
            if isinstance(frame, bytes):
                socket.send_bytes(frame)
            else:
                socket.send_text(frame)
        socket.send_json({"type": "the end", "session_id": ID})
        while True:
            event = socket.receive_json()
            assert event["type"] in ("error", "webrtc.answer")
            if "'the end'" in event.get("error", ""):
                break
