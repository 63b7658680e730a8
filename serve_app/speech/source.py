"""One session's speech: what arrives at any rate leaves as sound for listeners and windows for the model.

Sans-I/O. Doors begin, feed and end utterances; a dispatcher takes what is due and reports the host's credit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from serve_app.config import SpeechConfig
from serve_app.errors import SpeechOverrun
from serve_app.media.pcm import Resampler
from serve_app.media.windower import Windower, WindowGrid
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Credit, Int16, Sound, Window

LEAD_FRAMES = 2
"""Frames between a window's cut and its showing that the base loop runs on, as measured on one machine."""

SLICE_S = 2.0
"""Speech resampled at once: about 10 ms of work."""


@dataclass(slots=True)
class _Utterance:
    number: int
    client_index: int
    first_sample: int
    windower: Windower | None
    to_speech: Resampler | None = None
    to_sound: Resampler | None = None
    hz: int = 0
    raw: deque[tuple[Int16, int]] = field(default_factory=deque)
    raw_s: float = 0.0
    is_closed: bool = False
    sounds: deque[Int16] = field(default_factory=deque)
    ended: bool = False
    ending_sent: bool = False
    base_frame: int | None = None
    window_frames: int = 0


class SpeechSource:
    """The speech of one session, in order, on its way to an Animator and a host.

    Args:
        session_id: whose speech.
        avatar_id: whose face the windows ask for.
        grid: the model's frame grid and context.
        config: sizes and limits.
        generation: the session's present generation.
        next_utterance: number of the next utterance; a resumed session goes on counting.
    """

    def __init__(
        self,
        session_id: str,
        avatar_id: str,
        grid: WindowGrid,
        config: SpeechConfig,
        *,
        generation: int = 0,
        next_utterance: int = 0,
    ) -> None:
        self.session_id = session_id
        self._avatar_id = avatar_id
        self._grid = grid
        self._config = config
        self._generation = generation
        self._next_utterance = next_utterance
        self._queue: deque[_Utterance] = deque()
        self._open: _Utterance | None = None
        self._ahead_frames = 0.0
        self._ahead_at_s = 0.0
        self._base_frame = 0
        self._base_at_s: float | None = None
        self._in_flight = 0

    # --- doors -------------------------------------------------------------------------------------

    def begin(self, client_index: int) -> None:
        """Open an utterance behind those before it; an open one is ended first."""
        self.end()
        self._open = _Utterance(self._next_utterance, client_index, 0, Windower(self._grid))
        self._next_utterance += 1
        self._queue.append(self._open)

    def go_on(self, utterance: int, client_index: int, received: int) -> None:
        """Continue an utterance that another source began: `received` samples at SOUND_HZ are at the host.

        Only its sound leaves here; the host, which holds all of it, cuts the windows.
        """
        self._open = _Utterance(utterance, client_index, received, None)
        self._next_utterance = utterance + 1
        self._queue.append(self._open)

    def feed(self, samples: Int16, hz: int) -> None:
        """Add [S] int16 mono samples at `hz` to the open utterance.

        Raises:
            SpeechOverrun: too much of the session's speech has not been played; nothing was taken.
        """
        open_ = self._open
        assert open_ is not None, "feed without begin"
        buffered_s = self.buffered_s() + len(samples) / hz
        if buffered_s > self._config.max_buffered_s:
            raise SpeechOverrun(
                f"expected at most {self._config.max_buffered_s:.0f} s of unplayed speech, "
                f"got {buffered_s:.0f} s; send more when some has been played",
                retry_after_s=buffered_s - self._config.max_buffered_s,
            )
        open_.raw.append((samples, hz))
        open_.raw_s += len(samples) / hz
        self.advance()

    def end(self) -> None:
        """End the open utterance, if there is one; one that nothing was fed to never was."""
        if self._open is None:
            return
        if not self._open.hz and not self._open.raw and not self._open.first_sample:
            self._queue.remove(self._open)
        self._open.is_closed = True
        self._open = None
        self.advance()

    def advance(self) -> bool:
        """Resample up to SLICE_S of what was fed; return whether more waits.

        A long utterance is worked off in slices, so that it never keeps the loop from other sessions.
        """
        budget_s = SLICE_S
        for utterance in self._queue:
            while utterance.raw and budget_s > 0:
                budget_s -= self._resample_next(utterance, budget_s)
            if utterance.raw:
                return True
            if utterance.is_closed and not utterance.ended:
                self._flush(utterance)
                if utterance.windower is not None:
                    utterance.windower.end()
                utterance.ended = True
        return False

    def interrupt(self) -> None:
        """Forget everything that has not been sent."""
        self._generation += 1
        self._queue.clear()
        self._open = None
        self._ahead_frames = 0.0

    def buffered_s(self) -> float:
        """Return seconds of speech that wait here, and of clips that wait at the host."""
        uncut = sum(u.windower.uncut_samples for u in self._queue if u.windower is not None)
        raw_s = sum(u.raw_s for u in self._queue)
        return raw_s + uncut / SPEECH_HZ + self._ahead_frames / self._grid.fps

    # --- dispatcher --------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The session's generation, as far as this source knows."""
        return self._generation

    @property
    def has_work(self) -> bool:
        """Whether something is left to send."""
        return bool(self._queue)

    @property
    def has_sound(self) -> bool:
        """Whether sound waits to be sent."""
        return any(u.raw or u.sounds or (u.is_closed and not u.ending_sent) for u in self._queue)

    def is_first(self) -> bool:
        """Return whether the next window is the first of its utterance and can be cut now."""
        utterance = self._cutting()
        return (
            utterance is not None
            and utterance.windower is not None
            and utterance.windower.next_frame == 0
            and utterance.windower.available_frames() > 0
        )

    def is_urgent(self, now_s: float) -> bool:
        """Return whether a window that can be cut now would be late at the next tick."""
        utterance = self._cutting()
        if utterance is None or utterance.windower is None or not utterance.windower.available_frames():
            return False
        return self.ahead_frames(now_s) < self._config.tick_s * self._grid.fps + LEAD_FRAMES

    def ahead_frames(self, now_s: float) -> float:
        """Return how many frames the host still has to show, as far as can be told now."""
        return max(0.0, self._ahead_frames - (now_s - self._ahead_at_s) * self._grid.fps)

    def take_sounds(self) -> list[Sound]:
        """Take all sound that waits, in order."""
        sounds: list[Sound] = []
        for utterance in self._queue:
            is_last = utterance.ended and not utterance.ending_sent
            if not utterance.sounds and not is_last:
                continue
            samples = np.concatenate(utterance.sounds) if utterance.sounds else np.zeros(0, np.int16)
            utterance.sounds.clear()
            utterance.ending_sent = utterance.ending_sent or is_last
            sounds.append(
                Sound(
                    self.session_id,
                    self._generation,
                    utterance.number,
                    utterance.first_sample,
                    samples,
                    is_last,
                    utterance.client_index,
                )
            )
            utterance.first_sample += len(samples)
        self._drop_finished()
        return sounds

    def take_window(self, now_s: float) -> Window | None:
        """Cut the next window if the host has credit for it and waiting for a longer one gains nothing."""
        utterance = self._cutting()
        if utterance is None or utterance.windower is None:
            return None
        if self._in_flight >= self._config.max_windows_in_flight:
            return None
        num_frames = self._window_frames(utterance, self.ahead_frames(now_s))
        if num_frames == 0:
            return None
        base_frame = self._base_for(utterance, now_s)
        cut = utterance.windower.cut(num_frames)
        utterance.window_frames = num_frames
        self._ahead_frames = self.ahead_frames(now_s) + num_frames
        self._ahead_at_s = now_s
        self._in_flight += 1
        self._drop_finished()
        return Window(
            session_id=self.session_id,
            generation=self._generation,
            utterance=utterance.number,
            avatar_id=self._avatar_id,
            first_frame=cut.first_frame,
            num_frames=cut.num_frames,
            base_frame=base_frame + cut.first_frame,
            speech=cut.speech,
            left_context=self._grid.left_context,
            is_last=cut.is_last,
        )

    def landed(self, windows: int) -> None:
        """Note that the host has answered, or lost, `windows` of this session."""
        self._in_flight = max(0, self._in_flight - windows)

    def credit(self, credit: Credit, now_s: float) -> None:
        """Take the host's own count in place of the estimate."""
        self._base_frame = credit.base_frame
        self._base_at_s = now_s
        if credit.generation == self._generation and not self._in_flight:
            self._ahead_frames = float(credit.ahead_frames)
            self._ahead_at_s = now_s

    # --- inside ------------------------------------------------------------------------------------

    def _resample_next(self, utterance: _Utterance, budget_s: float) -> float:
        """Resample at most `budget_s` of the first piece that waits; return the seconds taken."""
        samples, hz = utterance.raw.popleft()
        count = max(1, min(len(samples), int(budget_s * hz)))
        if count < len(samples):
            utterance.raw.appendleft((samples[count:], hz))
        if utterance.to_sound is None or utterance.to_speech is None or utterance.hz != hz:
            self._flush(utterance)
            utterance.hz = hz
            utterance.to_sound, utterance.to_speech = Resampler(hz, SOUND_HZ), Resampler(hz, SPEECH_HZ)
        self._add(
            utterance, utterance.to_sound.push(samples[:count]), utterance.to_speech.push(samples[:count])
        )
        utterance.raw_s -= count / hz
        return count / hz

    def _add(self, utterance: _Utterance, sound: Int16, speech: Int16) -> None:
        if len(sound):
            utterance.sounds.append(sound)
        if len(speech) and utterance.windower is not None:
            utterance.windower.push(speech)

    def _flush(self, utterance: _Utterance) -> None:
        if utterance.to_sound is not None and utterance.to_speech is not None:
            self._add(utterance, utterance.to_sound.flush(), utterance.to_speech.flush())

    def _cutting(self) -> _Utterance | None:
        """Return the utterance whose window is next: they are cut strictly in order."""
        return next((u for u in self._queue if u.windower is not None and not u.windower.is_done), None)

    def _drop_finished(self) -> None:
        while self._queue:
            head = self._queue[0]
            is_cut = head.windower is None or head.windower.is_done
            if not (head.ended and head.ending_sent and is_cut):
                return
            self._queue.popleft()

    def _window_frames(self, utterance: _Utterance, ahead: float) -> int:
        """Return how long the next window should be; 0 to wait.

        The first is short, so that the picture starts at once. While the host has little to show,
        whatever is there goes; once it is ahead, windows grow to `max_window_frames`.
        """
        assert utterance.windower is not None
        available = utterance.windower.available_frames()
        room = int(self._config.max_ahead_s * self._grid.fps - ahead)
        if available == 0 or room <= 0:
            return 0
        if utterance.window_frames == 0:
            return min(available, self._config.first_window_frames, room)
        longest = min(self._config.max_window_frames, 2 * max(utterance.window_frames, 2))
        if ahead < self._config.tick_s * self._grid.fps + LEAD_FRAMES:
            return min(available, longest)
        wanted = min(longest, int(ahead))
        if available < wanted and not utterance.ended:
            return 0
        return min(available, longest) if room >= min(available, longest) else 0

    def _base_for(self, utterance: _Utterance, now_s: float) -> int:
        """Return the base frame under the utterance's first frame, guessed once."""
        if utterance.base_frame is None:
            since = 0.0 if self._base_at_s is None else (now_s - self._base_at_s) * self._grid.fps
            ahead = self.ahead_frames(now_s)
            utterance.base_frame = self._base_frame + round(since + ahead) + (0 if ahead else LEAD_FRAMES)
        return utterance.base_frame
