"""Several guests of a room heard as one: their microphones are mixed, as a telephone conference is."""

from __future__ import annotations

import numpy as np

from serve_app.nouns import Int16
from serve_app.rooms.base import OnSound

HEARD_HZ = 24_000
"""What conversations work with; both SDKs convert to it."""

FRAME_MS = 20
"""Sound the SDKs hand over at once: what one packet of Opus holds."""

MAX_GUESTS = 8
"""Microphones heard at once; more are let in when one of these leaves."""

MAX_WAITING = HEARD_HZ // 10
"""Samples of one guest that wait for those of another."""


class Guests:
    """Mixes what comes from microphones that keep no common time.

    One guest sets the pace: what it says goes on at once, with what the others have said meanwhile. Somebody
    alone is therefore never delayed. When the one who sets the pace falls silent without a packet, the others
    wait MAX_WAITING samples, then one of them takes over.

    Args:
        on_sound: takes the mix.
    """

    def __init__(self, on_sound: OnSound) -> None:
        self._on_sound = on_sound
        self._waiting: dict[str, Int16] = {}
        self._pace: str | None = None

    def push(self, guest: str, samples: Int16) -> None:
        """Take what a guest says next, [S] int16 mono at HEARD_HZ; of more than MAX_GUESTS it is dropped."""
        if guest not in self._waiting and len(self._waiting) >= MAX_GUESTS:
            return
        before = self._waiting.get(guest)
        waiting = samples if before is None else np.concatenate([before, samples])
        self._waiting[guest] = waiting
        if self._pace is None or len(waiting) > MAX_WAITING:
            self._pace = guest
        if guest == self._pace:
            self._mix(len(waiting))

    def remove(self, guest: str) -> None:
        """A guest's microphone is gone; does nothing when it was not heard."""
        self._waiting.pop(guest, None)
        if self._pace == guest:
            self._pace = None

    def _mix(self, count: int) -> None:
        mixed = np.zeros(count, np.int32)
        for guest, waiting in self._waiting.items():
            part = waiting[:count]
            mixed[: len(part)] += part
            self._waiting[guest] = waiting[count:]
        self._on_sound(np.clip(mixed, -32_768, 32_767).astype(np.int16), HEARD_HZ)
