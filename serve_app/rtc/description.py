"""Session descriptions of clients: what of them this server uses, in the form aiortc understands.

aiortc answers every line of an offer or none, binds its transceivers to lines by their order, and looks for
transport attributes in each line. So an offer is read first, each of its lines gets its part, the rest is
left out, and what was left out comes back into the answer as refused (RFC 3264, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiortc.codecs import CODECS
from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import MediaDescription, SessionDescription, grouplines

from serve_app.errors import InvalidDescription
from serve_app.rtc.association import MAX_MESSAGE_BYTES
from serve_app.rtc.candidate import MALFORMED, MAX_CANDIDATES, is_usable

MAX_SDP_BYTES = 65_536
MAX_LINES = 16
"""Media lines of an offer; a conference has more, a call here needs three."""

MAX_MID_CHARS = 64
"""Longest a=mid; browsers use one to three characters, an RTP header extension has room for 255 bytes."""

DEFAULT_MESSAGE_BYTES = 65_536
"""Longest message of a client that names no limit (RFC 8841, section 6.1)."""

VIDEO_FIX = (
    "pc.addTransceiver('video',{direction:'recvonly'}) and pc.addTransceiver('audio',{direction:'recvonly'}) "
    "before createOffer()"
)
"""What a client without media lines has to add."""

CALL_FIX = "pc.addTrack(microphone) or pc.addTransceiver('audio') before createOffer()"
"""What a client that wants to talk has to add."""

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
PLAYING = frozenset({"recvonly", "sendrecv"})
"""Directions of a client that takes what is sent to it."""

SPEAKING = frozenset({"sendonly", "sendrecv"})
"""Directions of a client that sends."""

PICTURE_CODECS = frozenset({"H264", "VP8"})
SOUND_CODECS = frozenset({"OPUS"})
CHANNEL_PROFILES = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP", "DTLS/SCTP"})
TRANSPORT_ATTRIBUTES = ("ice-ufrag", "ice-pwd", "fingerprint", "setup", "rtcp-mux")
"""What bundled lines share with the first of them (RFC 8843, section 7.1.3; RFC 8859)."""

Sections = list[list[str]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an offer that this server uses.

    Attributes:
        kind: "audio" or "video".
        index: which line it is of those that aiortc gets to see.
        mid: its a=mid; empty for a lone line without one.
        direction: what this server does on it: "sendonly", "recvonly" or "sendrecv".
    """

    kind: str
    index: int
    mid: str
    direction: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A client's offer, taken apart.

    Attributes:
        sdp: for aiortc, without candidates and refused lines.
        lines: the lines that carry this server's sound or picture, or the client's microphone, in order; at
            most one video line sends, one audio line sends, one audio line receives.
        channel_bytes: longest message of the client's data channels, or None when it has none.
        candidates: what can be paired of the candidates inside.
        mids: a=mid of every line of the offer, in order.
        bundle: the mids of the BUNDLE group that are answered, its transport's line first.
        refused: position in the offer and text of the lines left out.
    """

    sdp: str
    lines: tuple[Line, ...]
    channel_bytes: int | None
    candidates: tuple[RTCIceCandidate, ...]
    mids: tuple[str, ...]
    bundle: tuple[str, ...]
    refused: tuple[tuple[int, str], ...]

    def complete(self, answer_sdp: str, *, rtcp_mux_only: bool) -> str:
        """Return the answer as the client may see it.

        Args:
            answer_sdp: aiortc's answer to `sdp`.
            rtcp_mux_only: whether to say a=rtcp-mux-only (RFC 8858), as WHEP wants.
        """
        session, sections = grouplines(answer_sdp)
        session = [line for line in session if not line.startswith("a=group:BUNDLE")]
        if self.bundle:
            session.append("a=group:BUNDLE " + " ".join(self.bundle))
        if rtcp_mux_only:
            for section in sections:
                if "a=rtcp-mux" in section:
                    section.insert(section.index("a=rtcp-mux") + 1, "a=rtcp-mux-only")
        for index, text in self.refused:
            sections.insert(index, text.split("\r\n"))
        return _joined(session, sections)


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's answer to this server's offer.

    Attributes:
        sdp: for aiortc, without candidates.
        with_sound: whether the client takes the sound.
        candidates: what can be paired of the candidates inside.
    """

    sdp: str
    with_sound: bool
    candidates: tuple[RTCIceCandidate, ...]


def read_offer(sdp: str, *, hears: bool) -> Offer:
    """Take a client's offer apart.

    Args:
        sdp: the offer.
        hears: whether there is somebody to listen to a microphone; then a call without picture will do.

    Raises:
        InvalidDescription: it cannot be parsed, or has no line that this server can use.
    """
    offer = _parse(sdp, "offer")
    if len(offer.media) > MAX_LINES:
        raise InvalidDescription(f"expected at most {MAX_LINES} media lines, found {len(offer.media)}")
    session, sections = grouplines(sdp)
    _inherit(session, sections, offer.media)
    mids = _mids(offer.media)
    parts = _assign(offer.media, hears=hears)
    offered_bundle = _bundle(offer)
    kept = [index for index, media in enumerate(offer.media) if _is_kept(index, media, parts, offered_bundle)]
    bundle = tuple(mid for mid in offered_bundle if mid in {mids[index] for index in kept})
    _share_transport(sections, mids, bundle)
    session = [line for line in session if not line.startswith("a=group:BUNDLE")]
    if bundle:
        session.append("a=group:BUNDLE " + " ".join(bundle))
    for_aiortc = _joined(session, [_without_candidates(sections[index]) for index in kept])
    answered = _parse(for_aiortc, "offer").media
    lines = []
    for position, index in enumerate(kept):
        direction = parts.get(index)
        if direction is not None:
            media = answered[position]
            _check_transport(media)
            if media.kind != "application":
                lines.append(Line(media.kind, position, mids[index], direction))
    return Offer(
        sdp=for_aiortc,
        lines=tuple(lines),
        channel_bytes=next(
            (_message_bytes(media) for media in answered if media.kind == "application"), None
        ),
        candidates=_candidates(offer),
        mids=mids,
        bundle=bundle,
        refused=tuple(
            (index, _refusal(sections[index][0], mids[index]))
            for index in range(len(sections))
            if index not in kept
        ),
    )


def read_answer(sdp: str, offer_sdp: str) -> Answer:
    """Take a client's answer to this server's offer apart.

    Args:
        sdp: the answer.
        offer_sdp: the offer, as `RTCPeerConnection` made it: one audio and one video line, bundled.

    Raises:
        InvalidDescription: it cannot be parsed, does not fit the offer, or takes no picture.
    """
    answer = _parse(sdp, "answer")
    offered = SessionDescription.parse(offer_sdp).media
    expected = [(media.kind, media.rtp.muxId) for media in offered]
    found = [(media.kind, media.rtp.muxId) for media in answer.media]
    if found != expected:
        raise InvalidDescription(
            f"expected the lines of the offer in the answer, {_listed(expected)}; found "
            f"{_listed(found[:MAX_LINES]) or 'none'}"
        )
    session, sections = grouplines(sdp)
    _inherit(session, sections, answer.media)
    accepted = [
        index for index, media in enumerate(answer.media) if media.port and media.direction in PLAYING
    ]
    picture = next(index for index, media in enumerate(answer.media) if media.kind == "video")
    if picture not in accepted:
        raise InvalidDescription(
            "expected the answer to take the offered video line (a port other than 0, a=recvonly), found it "
            "refused"
        )
    for index in accepted:
        _check_codecs(answer.media[index], offered[index])
    bundle = _bundle(answer)
    mids = [media.rtp.muxId for media in answer.media]
    if len(accepted) > 1 and not {mids[index] for index in accepted} <= set(bundle):
        raise InvalidDescription(
            "expected a=group:BUNDLE with every accepted line in the answer, found lines outside of it"
        )
    tag = next((mids.index(mid) for mid in bundle if mid in mids and mids.index(mid) in accepted), picture)
    for index in range(len(sections)):
        if index not in accepted:
            sections[index] = _silent_section(offered[index])
        else:
            _replace(sections[index], DIRECTIONS, ["a=recvonly"])
        if index != tag:
            _copy_transport(sections[tag], sections[index])
    # aiortc would close the shared transport if the answer named another line first than the offer.
    session = [line for line in session if not line.startswith("a=group:BUNDLE")]
    session.append("a=group:BUNDLE " + " ".join(mids))
    for_aiortc = _joined(session, [_without_candidates(section) for section in sections])
    for media in _parse(for_aiortc, "answer").media:
        _check_transport(media)
        if media.dtls.role not in {"client", "server"}:
            raise InvalidDescription(
                "expected a=setup:active or a=setup:passive in the answer, found actpass"
            )
    sound = next((index for index, media in enumerate(offered) if media.kind == "audio"), None)
    return Answer(for_aiortc, sound in accepted, _candidates(answer))


def _parse(sdp: str, what: str) -> SessionDescription:
    if len(sdp) > MAX_SDP_BYTES:
        raise InvalidDescription(f"expected at most {MAX_SDP_BYTES} bytes of SDP, got {len(sdp)}")
    if not sdp.lstrip().startswith("v="):
        raise InvalidDescription("expected SDP that starts with v=0, found other text")
    try:
        return SessionDescription.parse(sdp)
    except MALFORMED as error:
        raise InvalidDescription(f"the {what} is not valid SDP: {error or type(error).__name__}") from error


# --- what each line of an offer is for ------------------------------------------------------------------


def _assign(lines: list[MediaDescription], *, hears: bool) -> dict[int, str]:
    """Return what this server does on each line it uses; "" for the data channels."""
    picture = _first(lines, "video", lambda media: _plays(media, PICTURE_CODECS))
    sound = _first(lines, "audio", lambda media: _plays(media, SOUND_CODECS))
    speech = None
    if hears:
        if sound is not None and lines[sound].direction in SPEAKING:
            speech = sound
        else:
            speech = _first(lines, "audio", lambda media: _speaks(media, SOUND_CODECS))
    if picture is None and not (hears and (sound is not None or speech is not None)):
        raise InvalidDescription(_why_unusable(lines, hears=hears))
    parts = {index: "sendonly" for index in (picture, sound) if index is not None}
    if speech is not None:
        parts[speech] = "sendrecv" if speech in parts else "recvonly"
    channel = _first(lines, "application", _is_channel)
    if channel is not None:
        parts[channel] = ""
    return parts


def _first(lines: list[MediaDescription], kind: str, fits: Callable[[MediaDescription], bool]) -> int | None:
    return next(
        (index for index, media in enumerate(lines) if media.kind == kind and media.port and fits(media)),
        None,
    )


def _plays(media: MediaDescription, codecs: frozenset[str]) -> bool:
    return media.direction in PLAYING and bool(_codecs(media) & codecs)


def _speaks(media: MediaDescription, codecs: frozenset[str]) -> bool:
    return media.direction in SPEAKING and bool(_codecs(media) & codecs)


def _codecs(media: MediaDescription) -> set[str]:
    try:
        return {codec.name.upper() for codec in find_common_codecs(CODECS[media.kind], media.rtp.codecs)}
    except MALFORMED:
        return set()


def _is_channel(media: MediaDescription) -> bool:
    port = media.sctp_port
    if media.profile == "DTLS/SCTP":
        port = int(media.fmt[0]) if str(media.fmt[0]).isdecimal() else None
    return (
        media.profile in CHANNEL_PROFILES
        and port is not None
        and 0 < port <= 65535
        and _message_bytes(media) > 0
    )


def _message_bytes(media: MediaDescription) -> int:
    if media.sctpCapabilities is None:
        return DEFAULT_MESSAGE_BYTES
    limit = int(media.sctpCapabilities.maxMessageSize)
    return MAX_MESSAGE_BYTES if limit == 0 else limit


def _is_kept(index: int, media: MediaDescription, parts: dict[int, str], bundle: tuple[str, ...]) -> bool:
    """Return whether aiortc shall see a line: those in use, and what it can answer as inactive at no cost."""
    if index in parts:
        return True
    return bool(
        media.kind in CODECS and media.port and media.rtp.muxId in bundle and _codecs(media) - {"RTX"}
    )


def _why_unusable(lines: list[MediaDescription], *, hears: bool) -> str:
    fix = CALL_FIX if hears else VIDEO_FIX
    wanted = "an audio or video line" if hears else "a video line"
    video = next((media for media in lines if media.kind == "video" and media.port), None)
    audio = next((media for media in lines if media.kind == "audio" and media.port), None)
    if not lines:
        return f"expected {wanted} in the offer, found no media at all; add {fix}"
    if video is None and (audio is None or not hears):
        return f"expected {wanted} in the offer, found none; add {fix}"
    if video is None or hears:
        return f"expected {wanted} with Opus, H264 or VP8 that is not inactive, found none; add {fix}"
    if video.direction not in PLAYING:
        return f"expected a video line that is recvonly or sendrecv, found {video.direction}; use {VIDEO_FIX}"
    names = sorted({codec.name for codec in video.rtp.codecs})
    return (
        "expected H264 (baseline, packetization-mode 1) or VP8 in the video line, found "
        f"{', '.join(names) or 'none'}"
    )


def _mids(lines: list[MediaDescription]) -> tuple[str, ...]:
    mids = tuple(str(media.rtp.muxId) for media in lines)
    if len(mids) > 1 and (len(set(mids)) < len(mids) or "" in mids):
        raise InvalidDescription("expected an a=mid of its own on every media line")
    if any(len(mid.encode()) > MAX_MID_CHARS for mid in mids):
        raise InvalidDescription(f"expected a=mid of at most {MAX_MID_CHARS} bytes")
    return mids


def _bundle(description: SessionDescription) -> tuple[str, ...]:
    groups = (group for group in description.group if group.semantic == "BUNDLE")
    items: list[int | str] = next((group.items for group in groups), [])
    return tuple(dict.fromkeys(str(item) for item in items))


# --- checks --------------------------------------------------------------------------------------------


def _check_transport(media: MediaDescription) -> None:
    line = f"the {media.kind} line"
    if media.dtls is None or not media.dtls.fingerprints:
        raise InvalidDescription(f"expected a DTLS fingerprint (a=fingerprint) for {line}, found none")
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise InvalidDescription(f"expected a=ice-ufrag and a=ice-pwd for {line}, found none")
    if media.kind != "application" and not media.rtcp_mux:
        raise InvalidDescription(
            f"expected a=rtcp-mux for {line}, found none: RTCP has no port of its own here"
        )


def _check_codecs(media: MediaDescription, offered: MediaDescription) -> None:
    known = {(codec.payloadType, codec.name.upper()) for codec in offered.rtp.codecs}
    wanted = PICTURE_CODECS if media.kind == "video" else SOUND_CODECS
    taken = [codec for codec in media.rtp.codecs if codec.name.upper() in wanted]
    is_offered = all((codec.payloadType, codec.name.upper()) in known for codec in taken)
    if not (is_offered and _codecs(media) & wanted):
        names = ", ".join(sorted({f"{codec.name} ({codec.payloadType})" for codec in media.rtp.codecs}))
        raise InvalidDescription(
            f"expected a codec of the offer's {media.kind} line in the answer, found {names or 'none'}"
        )


# --- text ----------------------------------------------------------------------------------------------


def _inherit(session: list[str], sections: Sections, lines: list[MediaDescription]) -> None:
    """Give each line what it has by default: a direction, and a port when only the bundle has one."""
    default = next((line[2:] for line in session if line[2:] in DIRECTIONS), "sendrecv")
    for section, media in zip(sections, lines, strict=True):
        if media.port == 0 and "a=bundle-only" in section:
            # RFC 8843, section 6: such a line is offered, though its port is 0.
            kind, _, rest = section[0].split(" ", 2)
            section[0] = f"{kind} 9 {rest}"
            media.port = 9
        if media.kind in CODECS and media.direction is None:
            media.direction = default
            section.append(f"a={default}")
        section[1:] = [line for line in section[1:] if _is_possible(line)]


def _is_possible(line: str) -> bool:
    """Return whether aiortc can write what it read: an extension's number has eight bits (RFC 8285)."""
    if not line.startswith("a=extmap:"):
        return True
    number = line.removeprefix("a=extmap:").split()[0].split("/")[0]
    return number.isdecimal() and 0 < int(number) < 256


def _share_transport(sections: Sections, mids: tuple[str, ...], bundle: tuple[str, ...]) -> None:
    for mid in bundle[1:]:
        _copy_transport(sections[mids.index(bundle[0])], sections[mids.index(mid)])


def _copy_transport(source: list[str], target: list[str]) -> None:
    shared = [line for line in source if _name(line) in TRANSPORT_ATTRIBUTES]
    _replace(target, TRANSPORT_ATTRIBUTES, shared)


def _replace(section: list[str], names: Iterable[str], lines: list[str]) -> None:
    section[1:] = [line for line in section[1:] if _name(line) not in names] + lines


def _name(line: str) -> str:
    return line[2:].split(":", 1)[0] if line.startswith("a=") else ""


def _silent_section(offered: MediaDescription) -> list[str]:
    """Return a line of an answer that takes nothing, in words that aiortc accepts."""
    codec = offered.rtp.codecs[0]
    return [
        f"m={offered.kind} 9 {offered.profile} {codec.payloadType}",
        "a=inactive",
        f"a=mid:{offered.rtp.muxId}",
        f"a=rtpmap:{codec.payloadType} {codec}",
    ]


def _refusal(line: str, mid: str) -> str:
    kind, _, rest = line.split(" ", 2)
    lines = [f"{kind} 0 {rest}", "c=IN IP4 0.0.0.0", "a=inactive"]
    return "\r\n".join([*lines, f"a=mid:{mid}"] if mid else lines)


def _without_candidates(section: list[str]) -> list[str]:
    return [line for line in section if not line.startswith(("a=candidate:", "a=end-of-candidates"))]


def _candidates(description: SessionDescription) -> tuple[RTCIceCandidate, ...]:
    candidates = []
    for media in description.media:
        for candidate in media.ice_candidates:
            candidate.sdpMid = media.rtp.muxId
            if is_usable(candidate):
                candidates.append(candidate)
    return tuple(candidates[:MAX_CANDIDATES])


def _joined(session: list[str], sections: Sections) -> str:
    return "\r\n".join([*session, *(line for section in sections for line in section)]) + "\r\n"


def _listed(lines: list[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} (mid {mid or 'missing'})" for kind, mid in lines)
