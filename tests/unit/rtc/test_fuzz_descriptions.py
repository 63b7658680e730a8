"""Whatever a client calls SDP or a candidate is read or refused in words; aiortc understands what is read.

Cases are descriptions as browsers make them, with up to eight faults; FUZZ_TIMES=20 makes 20 times as many.
"""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import InvalidCandidate, InvalidDescription
from serve_app.rtc.candidate import MAX_CANDIDATES, parse_candidate
from serve_app.rtc.description import MAX_SDP_BYTES, read_answer, read_offer
from tests.unit.rtc.test_description import ANSWER_LINES, H264, ODD, OURS, VP8, audio, data, offer, video

pytestmark = pytest.mark.unit

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))

BROWSER_LINES = (
    "a=extmap-allow-mixed",
    "a=msid-semantic: WMS *",
    "a=rtcp:9 IN IP4 0.0.0.0",
    "a=ice-options:trickle",
    "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=extmap:14/recvonly urn:ietf:params:rtp-hdrext:toffset",
    "a=rtcp-rsize",
    "a=rtcp-fb:96 nack pli",
    "a=rtcp-fb:* transport-cc",
    "a=rtpmap:98 rtx/90000",
    "a=fmtp:98 apt=96",
    "a=rtpmap:63 red/48000/2",
    "a=fmtp:63 111/111",
    "a=fmtp:111 minptime=10;useinbandfec=1",
    "a=ssrc:1001 cname:x",
    "a=ssrc-group:FID 1001 1002",
    "a=rid:hi send",
    "a=simulcast:send hi;lo",
    "a=max-message-size:262144",
    "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host generation 0 ufrag abcd network-id 1",
    "a=candidate:2 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active",
    "a=candidate:3 2 udp 1 2001:db8::1 50001 typ srflx raddr :: rport 9",
    "a=candidate:4 1 udp 1 0e5a4c6e-0000-4000-8000-000000000000.local 5000 typ host",
    "a=end-of-candidates",
)
WORDS = ("0", "-1", "65536", "4294967296", "9" * 400, "\x00", "é", "*", "x", "", " ", ":", "/", "=", ";")

OFFERS = (
    offer(audio("a"), video("v", codecs=H264 + VP8), data("d")).splitlines(),
    offer(audio("0", "sendonly"), audio("1", "recvonly"), video("2", "sendrecv")).splitlines(),
    offer(video("0"), bundle=False, session="a=ice-lite\r\na=sendrecv\r\n").splitlines(),
)
Cases = st.tuples(st.integers(0, 2**32), st.integers(0, 8))


def damaged(lines: list[str], seed: int, faults: int) -> str:
    """Return a description with lines lost, doubled, moved, foreign or changed in one word."""
    shuffle = random.Random(seed)
    odd: tuple[str, ...] = (*BROWSER_LINES, *ODD.elements)  # type: ignore[attr-defined]
    text = list(lines)
    for _ in range(faults):
        place = shuffle.randrange(len(text))
        match shuffle.randrange(6):
            case 0 if len(text) > 1:
                del text[place]
            case 1:
                text.insert(place, shuffle.choice(odd))
            case 2:
                text.insert(place, shuffle.choice(lines))
            case 3:
                words = text[place].replace(":", " : ").replace("/", " / ").split(" ")
                words[shuffle.randrange(len(words))] = shuffle.choice(WORDS)
                text[place] = " ".join(words).replace(" : ", ":").replace(" / ", "/")
            case 4:
                other = shuffle.randrange(len(text))
                text[place], text[other] = text[other], text[place]
            case _:
                cut = shuffle.randrange(len(text[place]) + 1)
                text[place] = text[place][:cut] + shuffle.choice(WORDS)
    ending = shuffle.choice(["\r\n", "\r\n", "\r\n", "\n", "\r"])
    return ending.join(text) + ending


@settings(max_examples=2_000 * TIMES, deadline=None)
@given(Cases, st.integers(0, len(OFFERS) - 1), st.booleans())
def test_offers_are_read_or_refused(case: tuple[int, int], kind: int, hears: bool) -> None:
    try:
        found = read_offer(damaged(OFFERS[kind], *case), hears=hears)
    except InvalidDescription:
        return
    assert found.lines
    assert len(found.candidates) <= MAX_CANDIDATES
    seen = SessionDescription.parse(found.sdp).media
    assert len(seen) + len(found.refused) == len(found.mids)
    assert all(seen[line.index].kind == line.kind for line in found.lines)
    complete = SessionDescription.parse(found.complete(found.sdp, rtcp_mux_only=True)).media
    assert [str(media.rtp.muxId) for media in complete] == list(found.mids)


@settings(max_examples=1_000 * TIMES, deadline=None)
@given(Cases)
def test_answers_are_read_or_refused(case: tuple[int, int]) -> None:
    try:
        answer = read_answer(damaged(ANSWER_LINES, *case), OURS)
    except InvalidDescription:
        return
    sound, picture = SessionDescription.parse(answer.sdp).media
    assert (sound.direction, picture.direction) == (
        "recvonly" if answer.with_sound else "inactive",
        "recvonly",
    )
    assert picture.dtls is not None
    assert picture.dtls.role in {"client", "server"}


@settings(max_examples=500 * TIMES, deadline=None)
@given(st.text() | st.text().map(lambda text: "v=0\r\n" + text), st.booleans())
def test_any_text_is_read_or_refused(text: str, hears: bool) -> None:
    with pytest.raises(InvalidDescription):
        read_offer(text, hears=hears)
    with pytest.raises(InvalidDescription):
        read_answer(text, OURS)


def test_a_description_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(InvalidDescription, match=str(MAX_SDP_BYTES)):
        read_offer("\r\n".join(OFFERS[0]) + "\r\na=x" * MAX_SDP_BYTES, hears=True)


def candidate_text(seed: int, faults: int) -> str:
    shuffle = random.Random(seed)
    known = [line.removeprefix("a=") for line in BROWSER_LINES if line.startswith("a=candidate")]
    words = shuffle.choice(known).split(" ")
    for _ in range(faults):
        place = shuffle.randrange(len(words)) if words else 0
        match shuffle.randrange(3):
            case 0:
                del words[place : place + 1]
            case 1:
                words.insert(place, shuffle.choice(WORDS))
            case _:
                words[place : place + 1] = [shuffle.choice([*WORDS, "typ", "raddr", "rport", "tcptype"])]
    return " ".join(words)


MIDS: st.SearchStrategy[Any] = st.sampled_from(["0", "", None, 0, -1, [], True, "x" * 70, 1.5])


@settings(max_examples=2_000 * TIMES, deadline=None)
@given(Cases, MIDS, MIDS)
def test_candidates_are_read_or_refused(case: tuple[int, int], mid: object, line: object) -> None:
    init = {"candidate": candidate_text(*case), "sdpMid": mid, "sdpMLineIndex": line}
    try:
        found = parse_candidate(init)
    except InvalidCandidate:
        return
    if found is not None:
        assert 0 < found.port <= 65535
        assert found.component == 1
        assert isinstance(found.sdpMid, str | None)
        assert isinstance(found.sdpMLineIndex, int | None)


@settings(max_examples=500 * TIMES, deadline=None)
@given(st.dictionaries(st.sampled_from(["candidate", "sdpMid", "sdpMLineIndex", "x"]), st.text() | MIDS))
def test_any_candidate_object_is_read_or_refused(init: dict[str, object]) -> None:
    with contextlib.suppress(InvalidCandidate):
        parse_candidate(init)
