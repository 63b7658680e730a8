import random

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import InvalidDescription
from serve_app.rtc.description import MAX_LINES, Offer, read_answer, read_offer

pytestmark = pytest.mark.unit

TRANSPORT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n"
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\na=setup:actpass\r\na=rtcp-mux\r\n"
)
OPUS = "a=rtpmap:111 opus/48000/2\r\n"
H264 = "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id=42e01f\r\n"
VP8 = "a=rtpmap:97 VP8/90000\r\n"


def audio(mid: str, direction: str = "sendrecv", *, port: int = 9, more: str = TRANSPORT) -> str:
    head = f"m=audio {port} UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n"
    return head + (f"a={direction}\r\n" if direction else "") + OPUS + more


def video(
    mid: str, direction: str = "recvonly", *, codecs: str = H264, port: int = 9, more: str = TRANSPORT
) -> str:
    numbers = " ".join(line.split(":")[1].split()[0] for line in codecs.splitlines() if "rtpmap" in line)
    head = f"m=video {port} UDP/TLS/RTP/SAVPF {numbers}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n"
    return head + (f"a={direction}\r\n" if direction else "") + codecs + more


def data(
    mid: str, *, rest: str = "a=sctp-port:5000\r\na=max-message-size:1000\r\n", more: str = TRANSPORT
) -> str:
    return f"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:{mid}\r\n" + rest + more


def offer(*lines: str, session: str = "", bundle: bool = True) -> str:
    mids = [part.split("\r\n")[0] for line in lines for part in line.split("a=mid:")[1:]]
    group = "a=group:BUNDLE " + " ".join(mids) + "\r\n" if bundle and mids else ""
    return "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n" + group + session + "".join(lines)


def parts(found: Offer) -> dict[str, str]:
    return {line.mid: line.direction for line in found.lines}


@pytest.mark.parametrize(
    ("lines", "hears", "expected"),
    [
        ([video("v"), audio("a")], False, {"v": "sendonly", "a": "sendonly"}),
        ([video("v", "sendrecv"), audio("a")], True, {"v": "sendonly", "a": "sendrecv"}),
        ([audio("a")], True, {"a": "sendrecv"}),
        ([audio("a", "sendonly")], True, {"a": "recvonly"}),
        ([audio("a", "recvonly")], True, {"a": "sendonly"}),
        ([audio("a", "recvonly"), audio("b", "sendonly")], True, {"a": "sendonly", "b": "recvonly"}),
        ([audio("a"), audio("b")], True, {"a": "sendrecv"}),
        ([audio("a", "sendonly"), video("v")], False, {"v": "sendonly"}),
        ([video("c", "sendonly"), video("v")], False, {"v": "sendonly"}),
        ([video("x", codecs="a=rtpmap:99 AV1/90000\r\n"), video("v")], False, {"v": "sendonly"}),
        ([video("v", "sendonly"), audio("a")], True, {"a": "sendrecv"}),
        ([video("v", ""), audio("a", "")], True, {"v": "sendonly", "a": "sendrecv"}),
        ([audio("a", "inactive"), video("v")], True, {"v": "sendonly"}),
        ([audio("a"), data("d")], True, {"a": "sendrecv"}),
    ],
)
def test_each_line_gets_its_part(lines: list[str], hears: bool, expected: dict[str, str]) -> None:
    assert parts(read_offer(offer(*lines), hears=hears)) == expected


def test_lines_keep_their_places_when_one_is_left_out() -> None:
    found = read_offer(
        offer("m=text 9 RTP/AVP 98\r\na=mid:t\r\n" + TRANSPORT, audio("a"), video("v"), data("d")), hears=True
    )
    assert [(line.mid, line.index) for line in found.lines] == [("a", 0), ("v", 1)]
    assert found.mids == ("t", "a", "v", "d")
    assert found.bundle == ("a", "v", "d")
    assert found.refused == ((0, "m=text 0 RTP/AVP 98\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\na=mid:t"),)
    answer = found.complete(offer(audio("a"), video("v"), data("d")), rtcp_mux_only=True)
    assert [media.rtp.muxId for media in SessionDescription.parse(answer).media] == ["t", "a", "v", "d"]
    assert answer.count("a=group:BUNDLE a v d\r\n") == 1
    assert answer.count("a=rtcp-mux\r\na=rtcp-mux-only\r\n") == 3
    assert "rtcp-mux-only" not in found.complete(offer(audio("a")), rtcp_mux_only=False)


def test_a_camera_in_the_bundle_stays_and_one_outside_is_refused() -> None:
    kept = read_offer(offer(video("c", "sendonly"), video("v")), hears=False)
    assert not kept.refused
    assert "a=mid:c" in kept.sdp
    refused = read_offer(offer(video("c", "sendonly"), video("v"), bundle=False), hears=False)
    assert [index for index, _ in refused.refused] == [0]
    assert "BUNDLE" not in refused.complete(offer(video("v")), rtcp_mux_only=False)


def test_bundled_lines_share_the_transport_of_the_first() -> None:
    # RFC 8843: a bundle-only line has port 0 and no transport of its own.
    lonely = video("v", port=0, more="a=bundle-only\r\n")
    found = read_offer(offer(audio("a"), lonely, data("d", more="")), hears=True)
    assert parts(found) == {"a": "sendrecv", "v": "sendonly"}
    media = SessionDescription.parse(found.sdp).media
    assert {line.ice.usernameFragment for line in media} == {"abcd"}
    assert all(line.dtls.fingerprints and line.dtls.role == "auto" and line.port for line in media)
    assert found.channel_bytes == 1000


def test_a_direction_of_the_session_holds_for_lines_without_one() -> None:
    assert parts(read_offer(offer(video("v", ""), session="a=recvonly\r\n"), hears=False)) == {
        "v": "sendonly"
    }
    with pytest.raises(InvalidDescription, match="sendonly"):
        read_offer(offer(video("v", ""), session="a=sendonly\r\n"), hears=False)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("a=sctp-port:5000\r\n", 65_536),
        ("a=sctp-port:5000\r\na=max-message-size:0\r\n", 262_144),
        ("a=sctp-port:5000\r\na=max-message-size:100\r\n", 100),
        ("a=sctp-port:5000\r\na=max-message-size:-1\r\n", None),
        ("a=sctp-port:70000\r\n", None),
        ("", None),
    ],
)
def test_data_channels_are_taken_when_they_can_be(rest: str, expected: int | None) -> None:
    found = read_offer(offer(audio("a"), data("d", rest=rest)), hears=True)
    assert found.channel_bytes == expected
    assert bool(found.refused) == (expected is None)


def test_candidates_are_named_by_their_line() -> None:
    lines = "".join(
        f"a=candidate:1 {component} {protocol} 1 192.0.2.1 {port} typ host\r\n"
        for component, protocol, port in [(1, "udp", 5), (2, "udp", 6), (1, "tcp", 9), (1, "UDP", 7)]
    )
    found = read_offer(offer(audio("a"), video("v") + lines), hears=True)
    assert [(one.sdpMid, one.port) for one in found.candidates] == [("v", 5), ("v", 7)]
    assert "candidate" not in found.sdp


@pytest.mark.parametrize(
    ("text", "hears", "match"),
    [
        (offer(data("d")), True, "an audio or video line"),
        (offer(), True, "no media at all; add pc.addTrack"),
        (offer(audio("a", "inactive")), True, "not inactive"),
        (offer(audio("a").replace("opus/48000", "speex/16000")), True, "with Opus"),
        (offer(audio("a")), False, "a video line"),
        (offer(audio("x"), video("x")), True, "a=mid of its own"),
        (offer(audio("x" * 65)), True, "at most 64"),
        (offer(*[audio(str(n)) for n in range(MAX_LINES + 1)]), True, f"at most {MAX_LINES} media lines"),
        (offer(audio("a").replace("a=rtcp-mux\r\n", "")), True, "a=rtcp-mux"),
        (offer(audio("a").replace("a=setup:actpass\r\n", "")), True, "a=fingerprint"),
        (offer(video("v").replace("42e01f", "640032")), False, "baseline"),
    ],
)
def test_an_offer_without_use_is_refused_in_words(text: str, hears: bool, match: str) -> None:
    with pytest.raises(InvalidDescription, match=match):
        read_offer(text, hears=hears)


# --- answers -----------------------------------------------------------------------------------------------

OURS = offer(
    audio("0", "sendonly").replace("111", "96"),
    video("1", "sendonly", codecs=H264.replace("96", "99") + VP8),
)
ACTIVE = TRANSPORT.replace("actpass", "active")


def taken(sound: str, picture: str, bundle: bool = True) -> str:
    return offer(sound, picture, bundle=bundle)


GOOD_SOUND = audio("0", "recvonly", more=ACTIVE).replace("111", "96")
GOOD_PICTURE = video("1", "recvonly", codecs=H264.replace("96", "99"), more=ACTIVE)


def test_a_plain_answer_is_taken() -> None:
    answer = read_answer(taken(GOOD_SOUND, GOOD_PICTURE), OURS)
    assert answer.with_sound
    assert [media.direction for media in SessionDescription.parse(answer.sdp).media] == [
        "recvonly",
        "recvonly",
    ]


def test_more_than_was_offered_is_not_received() -> None:
    wide = taken(GOOD_SOUND, GOOD_PICTURE).replace("a=recvonly", "a=sendrecv")
    assert "sendrecv" not in read_answer(wide, OURS).sdp


@pytest.mark.parametrize(
    "sound",
    [
        GOOD_SOUND.replace("m=audio 9", "m=audio 0"),
        GOOD_SOUND.replace("a=recvonly", "a=inactive"),
        "m=audio 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n",
    ],
)
def test_sound_may_be_refused(sound: str) -> None:
    answer = read_answer(taken(sound, GOOD_PICTURE), OURS)
    assert not answer.with_sound
    silent, picture = SessionDescription.parse(answer.sdp).media
    assert silent.direction == "inactive"
    assert silent.ice.usernameFragment == picture.ice.usernameFragment == "abcd"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "starts with v=0"),
        ("v=0\r\nm=audio nonsense", "the answer is not valid SDP"),
        (offer(GOOD_PICTURE), "lines of the offer"),
        (offer(GOOD_PICTURE, GOOD_SOUND), "lines of the offer"),
        (taken(GOOD_SOUND, GOOD_PICTURE).replace("a=mid:1", "a=mid:7"), "mid 7"),
        (taken(GOOD_SOUND, GOOD_PICTURE.replace("m=video 9", "m=video 0")), "refused"),
        (taken(GOOD_SOUND, GOOD_PICTURE.replace("recvonly", "inactive")), "refused"),
        (taken(GOOD_SOUND, GOOD_PICTURE.replace("recvonly", "sendonly")), "refused"),
        (taken(GOOD_SOUND, GOOD_PICTURE.replace("H264", "VP9")), "VP9"),
        (taken(GOOD_SOUND, GOOD_PICTURE.replace("99", "120")), "H264 \\(120\\)"),
        (taken(GOOD_SOUND.replace("opus", "speex"), GOOD_PICTURE), "speex"),
        (taken(GOOD_SOUND, GOOD_PICTURE, bundle=False), "a=group:BUNDLE"),
        (taken(GOOD_SOUND, GOOD_PICTURE).replace("a=fingerprint", "a=x"), "a=fingerprint"),
        (taken(GOOD_SOUND, GOOD_PICTURE).replace("a=ice-pwd", "a=x"), "a=ice-pwd"),
        (taken(GOOD_SOUND, GOOD_PICTURE).replace("setup:active", "setup:actpass"), "a=setup:active"),
        (taken(GOOD_SOUND, GOOD_PICTURE) + "a=x\r\n" * 20_000, "65536"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_in_words(text: str, match: str) -> None:
    with pytest.raises(InvalidDescription, match=match):
        read_answer(text, OURS)


# --- whatever arrives --------------------------------------------------------------------------------------

OFFER_LINES = offer(audio("a"), video("v", codecs=H264 + VP8), data("d")).splitlines()
ANSWER_LINES = taken(GOOD_SOUND, GOOD_PICTURE).splitlines()
ODD = st.sampled_from(
    [
        "a=mid:",
        "a=mid:a",
        "a=group:BUNDLE",
        "a=group:BUNDLE v v x",
        "m=video 0 X 0",
        "a=setup:passive",
        "a=inactive",
        "a=rtpmap:96 H264",
        "a=fmtp:96 profile-level-id=zz",
        "a=extmap:300 urn:x",
        "a=sctp-port:0",
        "a=candidate:1",
        "m=application 9 DTLS/SCTP x",
        "m=audio 9 UDP/TLS/RTP/SAVPF 300",
        "a=bundle-only",
        "c=IN IP9 x",
        "a=rtcp:",
        "a=ssrc:x",
        "a=max-message-size:9999999999999999999999",
        "",
        "\x00",
        "a=ice-lite",
        "a=group",
        "a=rtcp-fb:* nack",
    ]
)


@st.composite
def damaged(draw: st.DrawFn, lines: list[str]) -> str:
    text = list(lines)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(text) - 1)) if text else 0
        match draw(st.integers(0, 4)):
            case 0:
                del text[place : place + draw(st.integers(1, 4))]
            case 1:
                text.insert(place, draw(ODD))
            case 2:
                text.insert(place, draw(st.sampled_from(lines)))
            case 3 if text:
                cut = draw(st.integers(0, len(text[place])))
                text[place] = text[place][:cut] + draw(st.text(max_size=4))
            case _:
                random.Random(draw(st.integers(0, 99))).shuffle(text)
    return "\r\n".join(["v=0", *text]) + "\r\n"


@settings(max_examples=300, deadline=None)
@given(damaged(OFFER_LINES), st.booleans())
def test_any_offer_is_read_or_refused(text: str, hears: bool) -> None:
    try:
        found = read_offer(text, hears=hears)
    except InvalidDescription:
        return
    assert found.lines
    assert found.complete(found.sdp, rtcp_mux_only=True)


@settings(max_examples=300, deadline=None)
@given(damaged(ANSWER_LINES))
def test_any_answer_is_read_or_refused(text: str) -> None:
    try:
        answer = read_answer(text, OURS)
    except InvalidDescription:
        return
    assert len(SessionDescription.parse(answer.sdp).media) == 2
