"""What an answer says, and which of its words were heard when it was cut."""

from __future__ import annotations

import re

import numpy as np

_WORD = re.compile(r"\S+\s*")


class Speech:
    """The words and the length of one spoken answer.

    Attributes:
        length_s: seconds of speech made so far.
        cut_s: where it was cut; None while it is whole.
    """

    def __init__(self) -> None:
        self.length_s = 0.0
        self.cut_s: float | None = None
        self._text = ""
        self._known: list[tuple[int, float]] = []  # (character, second) where a time is known

    @property
    def text(self) -> str:
        """All words, heard or not."""
        return self._text

    @property
    def heard(self) -> str:
        """The words up to the cut; all of them while there is none."""
        return self._text if self.cut_s is None else self.until(self.cut_s)

    def say(self, text: str, at_s: float | None) -> None:
        """Add words; `at_s` is when the first of them is heard, None when that is not known."""
        if at_s is not None:
            self._known.append((len(self._text), at_s))
        self._text += text

    def until(self, played_s: float) -> str:
        """Return the words whose first sound falls into the first `played_s` seconds.

        Between two known times, characters are taken to be spoken at an even pace.
        """
        if played_s <= 0:
            return ""
        starts = [word.start() for word in _WORD.finditer(self._text)]
        unheard = np.interp(starts, *self._anchors()) >= played_s
        return self._text[: starts[int(np.argmax(unheard))]].rstrip() if unheard.any() else self._text

    def _anchors(self) -> tuple[list[int], list[float]]:
        """Return characters, rising, and when they are heard, never falling."""
        times: dict[int, float] = {0: 0.0}
        latest_s = 0.0
        for character, second in [*self._known, (len(self._text), self.length_s)]:
            latest_s = max(latest_s, second)
            times[character] = latest_s
        return list(times), list(times.values())
