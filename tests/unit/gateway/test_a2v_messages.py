from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app import errors
from serve_app.gateway.a2v.messages import (
    CLIENT_TYPES,
    AgentAudioChunk,
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    ConnectionEstablished,
    ErrorCode,
    IceCandidateInit,
    ServerIceCandidate,
    VideoFormat,
    WebRtcAnswer,
    WebRtcIceCandidate,
    WebRtcOffer,
    WireModel,
    error_code,
    error_event,
    parse_message,
    server_events,
)
from serve_app.session.events import (
    GenerationFailed,
    PeerChanged,
    SessionClosed,
    SessionEvent,
    UtteranceCompleted,
    UtteranceStarted,
)

pytestmark = pytest.mark.unit

# As document 000 prints them.
DOCUMENT: dict[type[WireModel], dict[str, Any]] = {
    WebRtcOffer: {"type": "webrtc.offer", "session_id": "session-uuid", "sdp": "v=0\r\no=- ..."},
    WebRtcIceCandidate: {
        "type": "webrtc.ice_candidate",
        "session_id": "session-uuid",
        "candidate": {
            "candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host",
            "sdpMid": "0",
            "sdpMLineIndex": 0,
        },
    },
    AgentSpeak: {
        "type": "agent.speak",
        "session_id": "session-uuid",
        "audio": "base64_encoded_audio_data",
        "format": "wav",
        "sample_rate": 16000,
        "chunk_index": 0,
        "is_final": True,
    },
    AgentAudioChunk: {
        "type": "agent.audio.chunk",
        "session_id": "session-uuid",
        "chunk": "base64_encoded_chunk",
        "chunk_index": 1,
        "is_first": False,
        "is_final": False,
    },
    AgentSpeakEnd: {"type": "agent.speak_end", "session_id": "session-uuid"},
    AgentInterrupt: {"type": "agent.interrupt", "session_id": "session-uuid"},
}


def message(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, "session_id": "s", **fields})


@pytest.mark.parametrize("model", DOCUMENT)
def test_the_documents_messages_are_read(model: type[WireModel]) -> None:
    parsed = parse_message(json.dumps({**DOCUMENT[model], "unknown": 1}))
    assert type(parsed) is model
    assert parsed.model_dump(exclude_none=True) == DOCUMENT[model]


def test_the_complete_examples_speech_has_defaults() -> None:
    parsed = parse_message(message("agent.speak", audio="", format="wav", sample_rate=16_000))
    assert isinstance(parsed, AgentSpeak)
    assert (parsed.chunk_index, parsed.is_final) == (0, True)


def test_null_means_absent_but_for_a_candidate() -> None:
    speak = parse_message(message("agent.speak", audio="", format=None, sample_rate=None))
    assert isinstance(speak, AgentSpeak)
    assert speak.sample_rate == 16_000
    end = parse_message(message("webrtc.ice_candidate", candidate=None))
    assert isinstance(end, WebRtcIceCandidate)
    assert end.candidate is None


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("{}", "type"),
        ('{"type":"agent.interrupt"}', "session_id"),
        ('{"type":"agent.interrupt","session_id":null}', "session_id"),
        (message("webrtc.offer"), "sdp"),
        (message("webrtc.ice_candidate"), "candidate"),
        (message("agent.speak"), "audio"),
        (message("agent.audio.chunk", chunk_index=0), "chunk"),
        (message("agent.audio.chunk", chunk=""), "chunk_index"),
    ],
)
def test_a_missing_field_is_named(text: str, missing: str) -> None:
    with pytest.raises(errors.InvalidMessage, match=f"expected a field {missing}, found none") as caught:
        parse_message(text)
    assert caught.value.missing == missing
    assert error_code(caught.value) is ErrorCode.MISSING_FIELD


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "recursion limit"),
        ('{"type":"agent.interrupt","session_id":"\\ud800"}', "not JSON"),
        ("[]", "found an array"),
        ("null", "found null"),
        ("true", "found true"),
        ('"text"', "found a string"),
        ("1e400", "a number out of range"),
        ('{"type":"agent.sing"}', "found 'agent.sing'"),
        ('{"type":5}', "found the number 5"),
        (message("webrtc.offer", sdp={"type": "offer", "sdp": "v=0"}), "sdp: .*found an object"),
        (message("agent.speak", audio="", chunk_index=-1), "chunk_index: .*found the number -1"),
        (message("agent.speak", audio="", chunk_index=2**53), "chunk_index: "),
        (message("agent.speak", audio="", is_final="perhaps"), "is_final: .*found a string"),
        (message("agent.audio.chunk", chunk=[], chunk_index=0), "chunk: .*found an array"),
        (message("webrtc.ice_candidate", candidate="candidate:1"), "candidate: .*found a string"),
        (message("webrtc.ice_candidate", candidate={"sdpMLineIndex": -1}), "candidate.sdpMLineIndex"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(text: str, found: str) -> None:
    with pytest.raises(errors.InvalidMessage, match=found) as caught:
        parse_message(text)
    assert error_code(caught.value) is ErrorCode.INVALID_MESSAGE


def test_errors_do_not_repeat_what_a_client_sent() -> None:
    for field in ("sdp", "session_id"):
        with pytest.raises(errors.InvalidMessage) as caught:
            parse_message(
                json.dumps({"type": "webrtc.offer", "session_id": "s", "sdp": "s", field: ["secret"]})
            )
        assert "secret" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("session_id", "sdp", "candidate", "audio", "chunk", "chunk_index", "is_first", "is_final", "format")


@given(
    st.text()
    | st.builds(json.dumps, json_values)
    | st.builds(
        lambda kind, fields: json.dumps({**fields, "type": kind}),
        st.sampled_from(CLIENT_TYPES),
        st.dictionaries(st.sampled_from(FIELDS), json_values),
    )
)
def test_any_text_is_a_message_or_an_invalid_message(text: str) -> None:
    try:
        parsed = parse_message(text)
    except errors.InvalidMessage:
        return
    assert parsed.type in CLIENT_TYPES


def all_errors(kind: type[errors.AvatarError]) -> list[type[errors.AvatarError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in all_errors(child))]


def made(kind: type[errors.AvatarError]) -> errors.AvatarError:
    return kind("text", 2.5) if issubclass(kind, errors.CapacityError) else kind("text")


def test_every_error_has_its_code() -> None:
    expected = {
        errors.InvalidMessage: "WS_1002",
        errors.InvalidAudio: "AUDIO_3001",
        errors.InvalidDescription: "RTC_2001",
        errors.InvalidCandidate: "RTC_2001",
        errors.SessionNotFound: "WS_1001",
        errors.HostLost: "WS_1001",
        errors.HostUnreachable: "WS_1001",
        errors.Unauthorized: "SRV_5003",
        errors.CapacityError: "SRV_5001",
        errors.AdmissionRefused: "SRV_5001",
        errors.ConcurrencyExceeded: "SRV_5001",
        errors.QuotaExceeded: "SRV_5001",
        errors.SpeechOverrun: "SRV_5002",
        errors.IceFailed: "RTC_2002",
        errors.ModelNotLoaded: "GEN_4002",
    }
    for kind in all_errors(errors.AvatarError):
        if kind.__module__ == "serve_app.errors":
            assert error_code(made(kind)).value == expected.get(kind, "GEN_4001"), kind
    assert error_code(errors.InvalidMessage("", "sdp")).value == "WS_1003"
    assert error_code(errors.InvalidAudio("", too_short=True)).value == "AUDIO_3002"


def golden(text: str) -> Any:
    return json.loads(text)


def sent(event: WireModel) -> Any:
    return json.loads(event.model_dump_json())


def test_connection_established_on_the_wire() -> None:
    event = ConnectionEstablished(
        session_id="s",
        resume_token="t",
        resumed=False,
        lease_s=30.0,
        ice_servers=[{"urls": ["stun:a"]}],
        video=VideoFormat(width=512, height=512, fps=30),
    )
    assert sent(event) == golden(
        '{"type":"connection.established","session_id":"s","resume_token":"t","resumed":false,"lease_s":30.0,'
        '"ice_servers":[{"urls":["stun:a"]}],"video":{"width":512,"height":512,"fps":30}}'
    )


def test_signalling_on_the_wire() -> None:
    assert sent(WebRtcAnswer(session_id="s", sdp="v=0\r\n")) == golden(
        '{"type":"webrtc.answer","session_id":"s","sdp":"v=0\\r\\n"}'
    )
    candidate = IceCandidateInit(candidate="candidate:1", sdpMid="0", sdpMLineIndex=0)
    assert sent(ServerIceCandidate(session_id="s", candidate=candidate)) == golden(
        '{"type":"webrtc.ice_candidate","session_id":"s","candidate":'
        '{"candidate":"candidate:1","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":null}}'
    )


def test_an_error_on_the_wire() -> None:
    assert sent(error_event("s", errors.InvalidMessage("no sdp", "sdp"))) == golden(
        '{"type":"error","session_id":"s","error":"no sdp","details":{"code":"WS_1003","field":"sdp"}}'
    )
    assert sent(error_event(None, errors.AdmissionRefused("full", 5.0))) == golden(
        '{"type":"error","session_id":null,"error":"full","details":{"code":"SRV_5001","retry_after_s":5.0}}'
    )


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            UtteranceStarted(3, client_index=7),
            ['{"type":"generation.started","session_id":"s","chunk_index":7}'],
        ),
        (
            UtteranceCompleted(3, 7, played_s=1.2344, interrupted=False, recording=None),
            [
                '{"type":"generation.completed","session_id":"s","chunk_index":7,"video_path":null,'
                '"interrupted":false,"played_ms":1234}'
            ],
        ),
        (
            UtteranceCompleted(3, 7, played_s=0.5, interrupted=True, recording="x.mp4"),
            [
                '{"type":"generation.completed","session_id":"s","chunk_index":7,'
                '"video_path":"recordings/x.mp4","interrupted":true,"played_ms":500}'
            ],
        ),
        (
            PeerChanged("connected"),
            ['{"type":"session.peer","session_id":"s","state":"connected","detail":"","pairs":[]}'],
        ),
        (
            PeerChanged("failed", "a firewall", ["a -> b"]),
            [
                '{"type":"session.peer","session_id":"s","state":"failed","detail":"a firewall",'
                '"pairs":["a -> b"]}',
                '{"type":"error","session_id":"s","error":"a firewall",'
                '"details":{"code":"RTC_2002","pairs":["a -> b"]}}',
            ],
        ),
        (
            GenerationFailed(3, 7, "model_not_loaded", "no replica"),
            [
                '{"type":"error","session_id":"s","error":"no replica",'
                '"details":{"code":"GEN_4002","chunk_index":7}}'
            ],
        ),
        (
            GenerationFailed(3, 7, "model_error", "broken"),
            [
                '{"type":"error","session_id":"s","error":"broken",'
                '"details":{"code":"GEN_4001","chunk_index":7}}'
            ],
        ),
        (SessionClosed("client"), []),
        (
            SessionClosed("idle"),
            [
                '{"type":"error","session_id":"s","error":"the session has ended (idle); connect again for '
                'a new one","details":{"code":"WS_1001","reason":"idle"}}'
            ],
        ),
    ],
)
def test_session_events_on_the_wire(event: SessionEvent, expected: list[str]) -> None:
    assert [sent(told) for told in server_events("s", event)] == [golden(text) for text in expected]
