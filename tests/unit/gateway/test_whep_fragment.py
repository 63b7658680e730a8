from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from serve_app.config import IceServer
from serve_app.errors import InvalidCandidate
from serve_app.gateway.whep.fragment import Fragment, ice_links, parse_fragment, with_rtcp_mux_only

pytestmark = pytest.mark.unit

CANDIDATE = "candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw"

RFC_8840 = (
    "a=ice-ufrag:EsAw\r\n"
    "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"
    "a=mid:0\r\n"
    f"a={CANDIDATE}\r\n"
    "a=end-of-candidates\r\n"
)
"""The example of RFC 9725, section 4.3.2, with one candidate."""


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r"])
def test_a_fragment_is_read(ending: str) -> None:
    assert parse_fragment(RFC_8840.replace("\r\n", ending)) == Fragment(
        "EsAw", ({"candidate": CANDIDATE, "sdpMid": "0"}, None)
    )


def test_a_candidate_without_a_line_of_its_own_belongs_to_the_first() -> None:
    assert parse_fragment(f"a={CANDIDATE}\r\n") == Fragment(
        None, ({"candidate": CANDIDATE, "sdpMLineIndex": 0},)
    )


def test_a_fragment_may_hold_no_candidate() -> None:
    assert parse_fragment("a=ice-ufrag:x\r\na=ice-pwd:y\r\n") == Fragment("x", ())


@pytest.mark.parametrize("text", ["{}", "hello", "a=" + "x" * 1_024, f"a={CANDIDATE}\r\n" * 65, "A=b"])
def test_what_is_no_fragment_is_refused(text: str) -> None:
    with pytest.raises(InvalidCandidate):
        parse_fragment(text)


@given(st.text() | st.lists(st.sampled_from(RFC_8840.splitlines()) | st.text(max_size=20)).map("\n".join))
def test_whatever_arrives_is_a_fragment_or_refused(text: str) -> None:
    try:
        parse_fragment(text)
    except InvalidCandidate:
        return


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_every_line_of_an_answer_muxes_rtcp_only(ending: str) -> None:
    answer = ending.join(["v=0", "m=audio 9", "a=rtcp-mux", "m=video 9", "a=rtcp-mux", "a=sendonly", ""])

    mended = with_rtcp_mux_only(answer)

    assert mended.split(ending) == [
        "v=0",
        "m=audio 9",
        "a=rtcp-mux",
        "a=rtcp-mux-only",
        "m=video 9",
        "a=rtcp-mux",
        "a=rtcp-mux-only",
        "a=sendonly",
        "",
    ]
    assert with_rtcp_mux_only(mended) == mended


def test_ice_servers_become_links() -> None:
    stun = IceServer(urls=["stun:a.example"])
    turn = IceServer(urls=["turn:b.example", "turns:b.example"], username="u", credential=SecretStr('p"w'))

    assert ice_links(stun) == ['<stun:a.example>; rel="ice-server"']
    assert ice_links(turn) == [
        '<turn:b.example>; rel="ice-server"; username="u"; credential="p\\"w"; credential-type="password"',
        '<turns:b.example>; rel="ice-server"; username="u"; credential="p\\"w"; credential-type="password"',
    ]
