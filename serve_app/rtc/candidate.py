"""ICE candidates as clients send them (W3C RTCIceCandidateInit, RFC 8839)."""

from __future__ import annotations

from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.sdp import candidate_from_sdp

from serve_app.errors import InvalidCandidate

MAX_CANDIDATES = 64
"""Remote candidates of one peer, and those inside one description."""

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, StopIteration)
"""What aiortc's SDP code raises at text that is almost SDP."""

CandidateInit = dict[str, object]
"""W3C RTCIceCandidateInit."""


def parse_candidate(init: CandidateInit | None) -> RTCIceCandidate | None:
    """Return a candidate; None for the end of candidates, and for one that cannot be paired here.

    Raises:
        InvalidCandidate: it cannot be parsed.
    """
    if init is None:
        return None
    text, mid, line = init.get("candidate"), init.get("sdpMid"), init.get("sdpMLineIndex")
    if not isinstance(text, str):
        raise InvalidCandidate(f"expected candidate to be a string, found {type(text).__name__}")
    text = text.strip().removeprefix("a=").removeprefix("candidate:")
    if not text:
        return None
    if not isinstance(mid, str | None) or not isinstance(line, int | None) or (mid is None and line is None):
        raise InvalidCandidate("expected sdpMid (string) or sdpMLineIndex (number) with the candidate")
    try:
        candidate = candidate_from_sdp(text[:1024])
    except MALFORMED as error:
        raise InvalidCandidate("expected an ICE candidate as in RFC 8839, found other text") from error
    if not 0 <= candidate.port <= 65535:
        raise InvalidCandidate(f"expected a port from 0 to 65535 in the candidate, found {candidate.port}")
    candidate.sdpMid, candidate.sdpMLineIndex = mid, line
    return candidate if is_usable(candidate) else None


def is_usable(candidate: RTCIceCandidate) -> bool:
    """Return whether aioice can pair it: RTCP shares the port of RTP (component 1), and there is no TCP."""
    return candidate.component == 1 and candidate.protocol.lower() == "udp" and 0 < candidate.port <= 65535
