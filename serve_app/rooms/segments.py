"""Speech segments of a LiveKit agent: what to speak next, and what to report of each.

Sans-I/O. A segment is one byte stream of the agent's. Whatever happens to it, the agent gets exactly one
report of its end, in the order the segments began: the agent counts them, and waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from serve_app.nouns import Int16

MAX_SEGMENTS = 64
"""Segments at once; one more is refused, and reported as cut before it was heard."""

PIECE_S = 1.0
"""Speech that is handed over at once: no more than any session takes."""

MAX_WAITING_S = 300.0
"""Speech that may wait here for the session to have room; what is beyond it is dropped."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What the speaker is to be told next.

    Attributes:
        tag: the segment's.
        samples: [S] int16 mono to feed, or None when the segment's last was fed and it is to be ended.
        hz: their rate.
    """

    tag: int
    samples: Int16 | None
    hz: int

    @property
    def seconds(self) -> float:
        """How long it sounds."""
        return 0.0 if self.samples is None else len(self.samples) / self.hz


@dataclass(frozen=True, slots=True)
class Started:
    """The first sound of a segment is being heard."""

    tag: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A segment was heard to its end, or cut after `position_s` seconds of it were heard."""

    tag: int
    position_s: float
    interrupted: bool


@dataclass(slots=True)
class _Segment:
    tag: int
    is_open: bool = True
    is_spoken: bool = False
    is_told: bool = False
    is_cut: bool = False
    pieces: deque[Piece] = field(default_factory=deque)
    outcome: Finished | None = None


class Segments:
    """The segments of one agent that are not reported yet, in order."""

    def __init__(self) -> None:
        self._next_tag = 0
        self._segments: deque[_Segment] = deque()
        self._reports: list[Started | Finished] = []
        self._waiting_s = 0.0

    # --- streams -----------------------------------------------------------------------------------

    def begin(self) -> int:
        """A stream opened; return its tag."""
        segment = _Segment(self._next_tag)
        self._next_tag += 1
        is_refused = len(self._segments) >= MAX_SEGMENTS
        self._segments.append(segment)
        if is_refused:
            self._conclude(segment, 0.0, interrupted=True)
        return segment.tag

    def push(self, tag: int, samples: Int16, hz: int) -> bool:
        """Add [S] int16 mono at `hz` to a segment.

        Returns:
            Whether more of the stream is wanted: False once its segment is over, or too much waits.
        """
        segment = self._find(tag)
        if segment is None or not segment.is_open:
            return False
        if self._waiting_s + len(samples) / hz > MAX_WAITING_S:
            self.end(tag)
            return False
        step = max(1, int(PIECE_S * hz))
        segment.pieces.extend(Piece(tag, samples[at : at + step], hz) for at in range(0, len(samples), step))
        self._waiting_s += len(samples) / hz
        return True

    def end(self, tag: int) -> None:
        """A stream ended, was superseded, or went quiet; does nothing when its segment is over."""
        segment = self._find(tag)
        if segment is None or not segment.is_open:
            return
        segment.is_open = False
        if segment.is_spoken or segment.pieces:
            segment.pieces.append(Piece(tag, None, 0))
        else:
            self._conclude(segment, 0.0, interrupted=False)

    def refuse(self, tag: int) -> None:
        """A stream cannot be used: its segment counts as cut before it was heard."""
        segment = self._find(tag)
        if segment is not None:
            self._conclude(segment, 0.0, interrupted=True)

    def is_wanted(self, tag: int) -> bool:
        """Return whether a stream is still to be read."""
        segment = self._find(tag)
        return segment is not None and segment.is_open

    # --- speaker -----------------------------------------------------------------------------------

    @property
    def is_speaking(self) -> bool:
        """Whether the speaker has something of a segment that it has not told the end of."""
        return any(segment.is_spoken and segment.outcome is None for segment in self._segments)

    def peek(self) -> Piece | None:
        """Return what the speaker is to be told next, or None when nothing is due.

        The same piece comes until it is taken or its segment is over. A segment is spoken only when all
        before it have been handed over whole.
        """
        for segment in self._segments:
            if segment.pieces:
                return segment.pieces[0]
            if segment.is_open:
                return None
        return None

    def take(self, piece: Piece) -> None:
        """The speaker was told a piece; does nothing when that ended its segment."""
        segment = self._find(piece.tag)
        if segment is not None and segment.pieces and segment.pieces[0] is piece:
            segment.pieces.popleft()
            segment.is_spoken = True
            self._waiting_s -= piece.seconds

    def cut(self) -> None:
        """The agent interrupts: nothing that it has sent so far is to be heard any more.

        Segments that no part of was spoken are over. Of the others the speaker tells when it is interrupted;
        `settle` must follow.
        """
        for segment in list(self._segments):
            if segment.outcome is not None:
                continue
            self._drop(segment)
            segment.is_cut = True
            if not segment.is_spoken:
                self._conclude(segment, 0.0, interrupted=True)

    def settle(self) -> None:
        """The speaker has been interrupted: what it did not tell of was not heard."""
        for segment in list(self._segments):
            if segment.is_cut and segment.outcome is None:
                self._conclude(segment, 0.0, interrupted=True)

    def playback_started(self, tag: int) -> None:
        """The first sound of a segment is being heard."""
        segment = self._find(tag)
        if segment is not None and segment.outcome is None and not segment.is_told:
            segment.is_told = True
            self._reports.append(Started(tag))

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """A segment was heard to its end, or cut; the rest of its stream is of no use."""
        segment = self._find(tag)
        if segment is not None:
            self._conclude(segment, played_s, interrupted=interrupted)

    # --- agent -------------------------------------------------------------------------------------

    def take_reports(self) -> list[Started | Finished]:
        """Return what the agent is to be told, in order, once."""
        reports, self._reports = self._reports, []
        return reports

    # --- inside ------------------------------------------------------------------------------------

    def _find(self, tag: int) -> _Segment | None:
        return next((segment for segment in self._segments if segment.tag == tag), None)

    def _drop(self, segment: _Segment) -> None:
        self._waiting_s -= sum(piece.seconds for piece in segment.pieces)
        segment.pieces.clear()
        segment.is_open = False

    def _conclude(self, segment: _Segment, position_s: float, *, interrupted: bool) -> None:
        if segment.outcome is not None:
            return
        self._drop(segment)
        segment.outcome = Finished(segment.tag, max(0.0, position_s), interrupted)
        while self._segments and (outcome := self._segments[0].outcome) is not None:
            self._segments.popleft()
            self._reports.append(outcome)
