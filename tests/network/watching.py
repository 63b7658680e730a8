"""What a client saw of a call, in figures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.network.internet import Internet

PACKETS_HZ = 50
SOON_S = 10.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What arrived in a span of time.

    Attributes:
        picture_share: right pictures, of those that were sent, 0 to 1.
        pictures_hz: right pictures a second.
        sound_share: sound packets, of those that were due, 0 to 1.
        bitrate_bps: of the picture's packets, retransmitted ones included.
        longest_gap_s: between right pictures.
    """

    picture_share: float
    pictures_hz: float
    sound_share: float
    bitrate_bps: float
    longest_gap_s: float


def watch(internet: Internet, duration_s: float) -> Watched:
    """Look on for a while and return what arrived."""
    start_s = time.monotonic()
    time.sleep(duration_s)
    seen = internet.client.ask("seen")
    end_s = start_s + duration_s

    def within(items: list[list[Any]]) -> list[list[Any]]:
        return [item for item in items if start_s < item[0] <= end_s]

    sent = within(internet.server.ask("figures")["sent"])
    right_s = [start_s, *(at_s for at_s, is_right, _ in within(seen["frames"]) if is_right), end_s]
    return Watched(
        (len(right_s) - 2) / max(1, len(sent)),
        (len(right_s) - 2) / duration_s,
        len(within(seen["sound"])) / (duration_s * PACKETS_HZ),
        8 * sum(size for _, size in within(seen["received"])) / duration_s,
        max(later - earlier for earlier, later in pairwise(right_s)),
    )


def until_right(internet: Internet, since_s: float, *, count: int = 3) -> float:
    """Return how long after `since_s` the picture was back: the first of `count` right ones in a row.

    Raises:
        AssertionError: it did not come back in SOON_S.
    """
    while True:
        seen = internet.client.ask("seen")
        frames = [frame for frame in seen["frames"] if frame[0] > since_s]
        for first in range(len(frames) - count + 1):
            if all(is_right for _, is_right, _ in frames[first : first + count]):
                return float(frames[first][0] - since_s)
        assert time.monotonic() < since_s + SOON_S, (
            f"no right picture within {SOON_S:g} s: {len(seen['received'])} packets, {len(frames)} pictures, "
            f"{seen['keyframe_requests']} keyframes asked for, server's peer {internet.server.ask('states')}"
        )
        time.sleep(0.05)


def connect(internet: Internet, ice: dict[str, Any] | None = None, **call: Any) -> float:
    """Call, and return how long it took from the offer to the picture."""
    start_s = time.monotonic()
    internet.call(ice, **call)
    return until_right(internet, start_s)


def candidates(sdp: str) -> list[tuple[str, int, str]]:
    """Return address, port and type of each candidate of a description (RFC 8839)."""
    found = []
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            words = line.split()
            found.append((words[4], int(words[5]), words[7]))
    return found
