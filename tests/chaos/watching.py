"""What a fault did to those who watch."""

from __future__ import annotations

import itertools

from serve_app.client.received import VIDEO_HZ
from tests.integration.listener import Listener


def lips_still_s(listener: Listener) -> float:
    """Return the longest time without a new speaking picture, between the first and the last one."""
    shown: dict[int, int] = {}
    for picture in listener.pictures:
        if picture.index is not None:
            shown.setdefault(picture.index, picture.timestamp)
    return max(b - a for a, b in itertools.pairwise(sorted(shown.values()))) / VIDEO_HZ
