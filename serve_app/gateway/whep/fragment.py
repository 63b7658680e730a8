"""Texts of WHEP: fragments of SDP that trickle candidates, the answer, and ICE servers as links. Sans-I/O.

Fragments are those of RFC 8840, section 9 (`application/trickle-ice-sdpfrag`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serve_app.config import IceServer
from serve_app.errors import InvalidCandidate

MAX_LINE_CHARS = 1024
MAX_CANDIDATES = 64

_UFRAG = re.compile(r"^a=ice-ufrag:[ \t]*(\S+)", re.MULTILINE)
_LINE = re.compile(r"[a-z]=.*")


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a player trickles.

    Attributes:
        ufrag: ICE's user name of the candidates' generation; None when the fragment names none.
        candidates: W3C RTCIceCandidateInit each; None says that no more will come.
    """

    ufrag: str | None
    candidates: tuple[dict[str, object] | None, ...]


def parse_fragment(text: str) -> Fragment:
    """Read a fragment.

    Raises:
        InvalidCandidate: it is no SDP fragment, or holds too much.
    """
    mid: str | None = None
    candidates: list[dict[str, object] | None] = []
    for line in filter(None, re.split(r"\r\n|\r|\n", text)):
        if len(line) > MAX_LINE_CHARS or not _LINE.fullmatch(line):
            raise InvalidCandidate(
                f"expected lines of SDP of at most {MAX_LINE_CHARS} characters, found another"
            )
        if line.startswith("m="):
            mid = None
        elif line.startswith("a=mid:"):
            mid = line.removeprefix("a=mid:").strip()
        elif line.startswith("a=candidate:"):
            # Everything is bundled (a MUST of the draft), so the first line stands for one without a name.
            place: dict[str, object] = {"sdpMLineIndex": 0} if mid is None else {"sdpMid": mid}
            candidates.append({"candidate": line.removeprefix("a=")} | place)
        elif line.startswith("a=end-of-candidates"):
            candidates.append(None)
        if len(candidates) > MAX_CANDIDATES:
            raise InvalidCandidate(f"expected at most {MAX_CANDIDATES} candidates, found more")
    return Fragment(ufrag_of(text), tuple(candidates))


def ufrag_of(sdp: str) -> str | None:
    """Return the first a=ice-ufrag of a description or fragment, or None."""
    found = _UFRAG.search(sdp)
    return None if found is None else found[1]


def with_rtcp_mux_only(sdp: str) -> str:
    """Return an answer that says a=rtcp-mux-only wherever it says a=rtcp-mux (RFC 8858; a MUST of WHEP)."""
    if "a=rtcp-mux-only" in sdp:
        return sdp
    return re.sub(r"(?m)^a=rtcp-mux(\r?)$", r"a=rtcp-mux\1\na=rtcp-mux-only\1", sdp)


def ice_links(server: IceServer) -> list[str]:
    """Return a server's addresses as values of the header Link (RFC 9725, section 4.6)."""
    shape = server.for_client()
    attributes = 'rel="ice-server"'
    if "username" in shape and "credential" in shape:
        attributes += f"; username={_quoted(str(shape['username']))}"
        attributes += f'; credential={_quoted(str(shape["credential"]))}; credential-type="password"'
    return [f"<{url}>; {attributes}" for url in server.urls]


def _quoted(text: str) -> str:
    """Return a quoted-string (RFC 9110, section 5.6.4)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
