"""Cuts the speech of one utterance into self-contained windows.

A window carries the sound around its frames that the model needs, so any replica can animate it. Pure: it
knows samples and frames, not time, sessions or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serve_app.nouns import SPEECH_HZ, Int16, speech_index

SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """The frame grid and the context a model asks for.

    Attributes:
        fps: video frames per second.
        left_context: samples at SPEECH_HZ before the first frame.
        lookahead: samples at SPEECH_HZ after the last frame.
    """

    fps: int
    left_context: int
    lookahead: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Frames cut from an utterance: `speech` is [S] int16 at SPEECH_HZ with context on both sides."""

    first_frame: int
    num_frames: int
    speech: Int16
    is_last: bool


class Windower:
    """One utterance's speech on its way into windows.

    Frame k covers samples [speech_index(k), speech_index(k + 1)); every frame is cut exactly once, in
    order, and the last one is padded with silence.
    """

    def __init__(self, grid: WindowGrid, first_frame: int = 0) -> None:
        self._grid = grid
        self._kept = bytearray()
        self._kept_from = speech_index(first_frame, grid.fps)
        self._received = self._kept_from
        self._next_frame = first_frame
        self._ended = False

    @property
    def next_frame(self) -> int:
        """Index of the first frame that has not been cut."""
        return self._next_frame

    @property
    def is_done(self) -> bool:
        """Whether the utterance has ended and every frame has been cut."""
        return self._ended and self._next_frame >= self._total_frames()

    @property
    def uncut_samples(self) -> int:
        """Samples received that no window has covered with its frames yet."""
        return max(0, self._received - speech_index(self._next_frame, self._grid.fps))

    def push(self, speech: Int16) -> None:
        """Add [S] int16 samples at SPEECH_HZ."""
        assert not self._ended, "speech after the end of its utterance"
        self._kept += speech.tobytes()
        self._received += len(speech)

    def end(self) -> None:
        """No more speech will come; the remaining frames no longer wait for lookahead."""
        self._ended = True

    def available_frames(self) -> int:
        """Return how many frames can be cut now."""
        if self._ended:
            return max(0, self._total_frames() - self._next_frame)
        reach = self._received - self._grid.lookahead
        return max(0, self._frames_within(reach) - self._next_frame)

    def cut(self, num_frames: int) -> Cut:
        """Cut the next frames.

        Args:
            num_frames: at least 1, at most `available_frames()`.
        """
        assert 1 <= num_frames <= self.available_frames(), f"cannot cut {num_frames} frames"
        fps = self._grid.fps
        first, after = self._next_frame, self._next_frame + num_frames
        speech = self._span(
            speech_index(first, fps) - self._grid.left_context,
            speech_index(after, fps) + self._grid.lookahead,
        )
        self._next_frame = after
        self._forget(speech_index(after, fps) - self._grid.left_context)
        return Cut(first, num_frames, speech, self.is_done)

    def _span(self, start: int, stop: int) -> Int16:
        out = np.zeros(stop - start, np.int16)
        lo, hi = max(start, self._kept_from), min(stop, self._received)
        if lo < hi:
            offset = (lo - self._kept_from) * SAMPLE_BYTES
            out[lo - start : hi - start] = np.frombuffer(self._kept, np.int16, hi - lo, offset)
        return out

    def _forget(self, before: int) -> None:
        if before > self._kept_from:
            del self._kept[: (before - self._kept_from) * SAMPLE_BYTES]
            self._kept_from = before

    def _total_frames(self) -> int:
        frames = self._frames_within(self._received)
        return frames + (speech_index(frames, self._grid.fps) < self._received)

    def _frames_within(self, samples: int) -> int:
        """Return the largest k with speech_index(k) <= samples."""
        return (samples * self._grid.fps + self._grid.fps - 1) // SPEECH_HZ if samples > 0 else 0
