"""Whatever reaches a door's parsers, a message or one of our own errors comes out.

Most cases are valid messages with one to six faults, as parsers' mistakes lie near what they accept; a few
are any text at all. FUZZ_TIMES=20 runs twenty times as many.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.settings import check_session
from serve_app.conversation.spec import Dialect
from serve_app.errors import AvatarError, InvalidCandidate, InvalidMessage
from serve_app.gateway.a2v import messages as a2v
from serve_app.gateway.a2v.audio import A2vAudio, AudioLimits
from serve_app.gateway.avatar import messages as avatar
from serve_app.gateway.avatar.models import CreateSession, StartLink, parsed
from serve_app.gateway.navtalk import messages as navtalk
from serve_app.gateway.realtime.client_json import parse_object
from serve_app.gateway.realtime.errors import RealtimeRefused
from serve_app.gateway.whep.fragment import MAX_CANDIDATES, Fragment, parse_fragment
from serve_app.rtc.candidate import parse_candidate
from tests.fakes import FakeSessionLink

pytestmark = pytest.mark.unit

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))

SOUND = base64.b64encode(bytes(range(256)) * 8).decode()
WAV = base64.b64encode(b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + bytes(64)).decode()
SDP = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
CANDIDATE = {"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}

A2V: list[dict[str, Any]] = [
    {"type": "webrtc.offer", "session_id": "s", "sdp": SDP},
    {"type": "webrtc.ice_candidate", "session_id": "s", "candidate": CANDIDATE | {"usernameFragment": "u"}},
    {"type": "webrtc.ice_candidate", "session_id": "s", "candidate": None},
    {"type": "agent.speak", "session_id": "s", "audio": SOUND, "format": "pcm", "sample_rate": 16_000},
    {"type": "agent.speak", "session_id": "s", "audio": WAV, "chunk_index": 3, "is_final": False},
    {"type": "agent.audio.chunk", "session_id": "s", "chunk": SOUND, "chunk_index": 0, "is_first": True},
    {"type": "agent.audio.chunk", "session_id": "s", "chunk": SOUND, "chunk_index": 1, "is_final": True},
    {"type": "agent.audio.chunk", "session_id": "s", "chunk": "", "chunk_index": 1},
    {"type": "agent.speak_end", "session_id": "s"},
    {"type": "agent.interrupt", "session_id": "s"},
]
AVATAR: list[dict[str, Any]] = [
    {"type": "session.init", "session_id": "s", "session_token": "t"},
    {"type": "agent.speak", "audio": SOUND, "sample_rate": 24_000},
    {"type": "agent.interrupt"},
]
NAVTALK: list[dict[str, Any]] = [
    {
        "type": "realtime.input_config",
        "data": {"content": json.dumps({"prompt": "be kind", "tools": [TOOL]})},
    },
    {"type": "realtime.input_config", "content": {"voice": "cedar"}},
    {"type": "realtime.input_function_call", "data": {"content": [TOOL]}},
    {"type": "realtime.input_text", "data": {"content": "hello"}},
    {"type": "realtime.input_image", "data": {"content": "data:image/jpeg;base64,/9j/"}},
    {"type": "realtime.function_call_output", "data": {"call_id": "c", "output": "{}"}},
    {"type": "realtime.input_audio_buffer.append", "data": {"audio": SOUND}},
    {"type": "session.update", "session": {"instructions": "be kind", "tools": [TOOL]}},
    {"type": "conversation.item.create", "item": ITEM},
    {"type": "webrtc.signaling.answer", "data": {"sdp": {"type": "answer", "sdp": SDP}}},
    {"type": "webrtc.signaling.offer", "data": {"sdp": {"type": "offer", "sdp": SDP}}},
    {"type": "webrtc.signaling.iceCandidate", "data": {"candidate": CANDIDATE}},
]
GA_SESSION: dict[str, Any] = {
    "type": "realtime",
    "instructions": "be kind",
    "output_modalities": ["audio"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500},
            "transcription": {"model": "whisper-1", "language": "en"},
            "noise_reduction": {"type": "near_field"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.0},
    },
    "tools": [TOOL],
    "tool_choice": "auto",
    "max_output_tokens": "inf",
    "tracing": None,
}
BETA_SESSION: dict[str, Any] = {
    "modalities": ["audio", "text"],
    "instructions": "be kind",
    "voice": "alloy",
    "input_audio_format": "pcm16",
    "output_audio_format": "g711_ulaw",
    "turn_detection": {"type": "server_vad", "create_response": True, "prefix_padding_ms": 300},
    "input_audio_transcription": {"model": "whisper-1"},
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "f"},
    "temperature": 0.8,
    "max_response_output_tokens": 4096,
}
POSTED: list[dict[str, Any]] = [
    {
        "avatar_id": "default",
        "aspect_ratio": "16:9",
        "room": {"platform": "livekit", "livekit_url": "wss://example.com", "livekit_agent_token": "t"},
        "transport": "websocket",
        "metadata": {"a": [1]},
    },
    {"link_id": "lnk_1", "aspect_ratio": "1:1"},
]
FRAGMENT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\r\n"
    "a=candidate:2 1 UDP 1694498815 192.0.2.7 50001 typ srflx raddr 192.0.2.1 rport 50000\r\n"
    "a=candidate:3 1 tcp 1 2001:db8::1 9 typ host tcptype active\r\na=end-of-candidates\r\n"
)

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**53, 2**64, -(2**63) - 1, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "0",
        "null",
        "a" * 300,
        "\x00",
        "\ud800",
        "\u202eé",
        "A",
        "AA==",
        "====",
        "{}",
        "[",
        "data:;base64,",
    ),
    *([], [[]], [None], {}, {"": None}, {"type": "x"}, [1, "2"], {"a": {"a": {"a": []}}}),
]

Cases = st.tuples(st.integers(0, 2**32), st.integers(0, 6))
"""A seed and a number of faults. Drawn one by one, faults would take ten times the time."""


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Return every container and key within a JSON value."""
    found = [] if found is None else found
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found


def damage(value: Any, shuffle: random.Random, faults: int) -> Any:
    """Return a copy of a JSON value with faults: values replaced, removed, renamed, nested or swapped."""
    root = [copy.deepcopy(value)]
    for _ in range(faults):
        where = places(root)
        holder, key = shuffle.choice(where)
        match shuffle.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(key).swapcase() + shuffle.choice(["", "_", "\x00"])] = holder.pop(key)
            case 2:
                holder[key] = shuffle.choice([[holder[key]], {"type": holder[key]}, str(holder[key])])
            case 3:
                other, place = shuffle.choice(where)
                holder[key] = copy.deepcopy(other[place])
            case 4 if isinstance(holder[key], str):
                holder[key] = damage_text(holder[key], shuffle)
            case _:
                holder[key] = copy.deepcopy(shuffle.choice(ODD))
    return root[0]


def damage_text(text: str, shuffle: random.Random) -> str:
    """Return a text with a piece cut, repeated or replaced."""
    start = shuffle.randrange(len(text) + 1)
    stop = min(len(text), start + shuffle.choice([0, 1, 3, 40]))
    middle = shuffle.choice(
        ["", text[start:stop] * 3, "\x00", "é", "\ud800", '"', "\\", "\r\n", " ", "9" * 30, "-"]
    )
    return text[:start] + middle + text[stop:]


def damaged(samples: list[dict[str, Any]], seed: int, faults: int) -> Iterator[str]:
    """Yield messages as a client's socket may bring them: faults in the value, then perhaps in the text."""
    shuffle = random.Random(seed)
    for _ in range(1 + faults % 3):
        text = json.dumps(
            damage(shuffle.choice(samples), shuffle, faults), ensure_ascii=shuffle.random() < 0.5
        )
        # A text frame is UTF-8 by then: no server passes on half of a surrogate pair.
        text = text.encode("utf-8", "replace").decode()
        yield (
            damage_text(text, shuffle).encode("utf-8", "replace").decode() if shuffle.random() < 0.2 else text
        )


def depth(levels: int) -> str:
    return '{"type":' + "[" * levels + "]" * levels + "}"


def no_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("message", A2V, ids=lambda message: message["type"])
def test_the_a2v_messages_to_damage_are_good(message: dict[str, Any]) -> None:
    assert a2v.parse_message(json.dumps(message)).type == message["type"]


@pytest.mark.parametrize("message", NAVTALK, ids=lambda message: message["type"])
def test_the_navtalk_messages_to_damage_are_good(message: dict[str, Any]) -> None:
    navtalk.parse_message(json.dumps(message), 4_096)


LIMITS = AudioLimits(
    max_chunk_bytes=4_096, max_utterance_bytes=1 << 16, min_utterance_s=0.1, pad_short_utterances=True
)


@settings(max_examples=2_000 * TIMES, deadline=None)
@given(Cases)
def test_a2v_speech_is_taken_or_answered_with_a_fault(case: tuple[int, int]) -> None:
    link = FakeSessionLink()
    audio = A2vAudio(link, LIMITS)
    for text in damaged(A2V, *case):
        message = taken_or(InvalidMessage, lambda text=text: a2v.parse_message(text))  # type: ignore[misc]
        if message is None:
            continue
        assert isinstance(message, get_args(a2v.ClientMessage))
        match message:
            case a2v.AgentSpeak():
                faults = audio.speak(message)
            case a2v.AgentAudioChunk():
                faults = audio.chunk(message)
            case a2v.AgentSpeakEnd():
                faults = audio.speak_end()
            case a2v.WebRtcIceCandidate(candidate=None):
                continue
            case a2v.WebRtcIceCandidate(candidate=init):
                assert init is not None
                taken_or(InvalidCandidate, lambda init=init: parse_candidate(init.model_dump()))  # type: ignore[misc]
                continue
            case _:
                continue
        for fault in faults:
            a2v.error_event("s", fault.error, **fault.details).model_dump_json()
    for utterance in link.utterances:
        assert utterance.num_samples
        assert 8_000 <= utterance.hz <= 192_000


def taken_or(error: type[AvatarError], parse: Callable[[], Any]) -> Any:
    """Return what `parse` does; None where it refuses with `error`, in words."""
    try:
        return parse()
    except error as refused:
        words = str(refused)
    assert words
    return None


@settings(max_examples=1_500 * TIMES, deadline=None)
@given(Cases)
def test_avatar_messages_are_read_or_refused(case: tuple[int, int]) -> None:
    for text in damaged(AVATAR, *case):
        message = taken_or(avatar.DocumentError, lambda text=text: avatar.parse(text))  # type: ignore[misc]
        if message is None:
            continue
        assert len(avatar.type_of(message)) <= 64
        taken_or(avatar.DocumentError, lambda message=message: avatar.init_of(message))  # type: ignore[misc]
        speech = taken_or(avatar.DocumentError, lambda message=message: avatar.speech_of(message))  # type: ignore[misc]
        if speech is not None:
            samples, hz = speech
            assert len(samples)
            assert 8_000 <= hz <= 192_000


@settings(max_examples=2_000 * TIMES, deadline=None)
@given(Cases)
def test_navtalk_messages_are_read_or_refused(case: tuple[int, int]) -> None:
    for text in damaged(NAVTALK, *case):
        message = taken_or(InvalidMessage, lambda text=text: navtalk.parse_message(text, 4_096))  # type: ignore[misc]
        match message:
            case navtalk.Candidate(init=dict() as init):
                taken_or(InvalidCandidate, lambda init=init: parse_candidate(init))  # type: ignore[misc]
            case navtalk.Answer(sdp=sdp) | navtalk.Offer(sdp=sdp):
                assert isinstance(sdp, str)
            case navtalk.ClientEvent():
                assert message.kind in navtalk.PASSED_ON
            case navtalk.Settings() as found:
                taken_or(RealtimeFault, lambda found=found: check_session("beta", found.session))  # type: ignore[misc]


@pytest.mark.parametrize(("dialect", "session"), [("ga", GA_SESSION), ("beta", BETA_SESSION)])
def test_the_sessions_to_damage_are_good(dialect: Dialect, session: dict[str, Any]) -> None:
    assert check_session(dialect, session) == session


@pytest.mark.parametrize(("dialect", "session"), [("ga", GA_SESSION), ("beta", BETA_SESSION)])
@settings(max_examples=1_000 * TIMES, deadline=None)
@given(case=Cases)
def test_sessions_are_taken_or_refused(
    dialect: Dialect, session: dict[str, Any], case: tuple[int, int]
) -> None:
    for text in damaged([session], *case):
        for given_ in (text, text.encode()):
            found = taken_or(RealtimeRefused, lambda given_=given_: parse_object(given_))  # type: ignore[misc]
            if found is not None:
                taken_or(RealtimeFault, lambda found=found: check_session(dialect, found))  # type: ignore[misc]


@settings(max_examples=500 * TIMES, deadline=None)
@given(Cases)
def test_posted_bodies_are_read_or_refused(case: tuple[int, int]) -> None:
    for text in damaged(POSTED, *case):
        for model in (CreateSession, StartLink):
            taken_or(InvalidMessage, lambda model=model, text=text: parsed(model, text.encode()))  # type: ignore[misc]


@settings(max_examples=1_500 * TIMES, deadline=None)
@given(Cases)
def test_fragments_are_read_or_refused(case: tuple[int, int]) -> None:
    shuffle = random.Random(case[0])
    text = FRAGMENT
    for _ in range(case[1]):
        text = damage_text(text, shuffle)
    found: Fragment | None = taken_or(InvalidCandidate, lambda: parse_fragment(text))
    if found is not None:
        assert len(found.candidates) <= MAX_CANDIDATES
        for init in found.candidates:
            taken_or(InvalidCandidate, lambda init=init: parse_candidate(init))  # type: ignore[misc]


PARSERS: list[tuple[type[AvatarError], Callable[[str], object]]] = [
    (InvalidMessage, a2v.parse_message),
    (avatar.DocumentError, avatar.parse),
    (InvalidMessage, lambda text: navtalk.parse_message(text, 4_096)),
    (RealtimeRefused, parse_object),
    (RealtimeRefused, lambda text: parse_object(text.encode())),
    (InvalidMessage, lambda text: parsed(CreateSession, text.encode())),
    (InvalidCandidate, parse_fragment),
]


@settings(max_examples=1_000 * TIMES, deadline=None)
@given(
    st.text().map(no_surrogates)
    | st.binary().map(lambda data: data.decode(errors="replace"))
    | st.integers(1, 20_000).map(depth)
)
def test_any_text_is_read_or_refused_by_every_parser(text: str) -> None:
    for error, parse in PARSERS:
        taken_or(error, lambda parse=parse: parse(text))  # type: ignore[misc]


@settings(max_examples=300 * TIMES, deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused_as_json(data: bytes) -> None:
    taken_or(RealtimeRefused, lambda: parse_object(data))
    taken_or(InvalidMessage, lambda: parsed(StartLink, data))
