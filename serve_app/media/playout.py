"""What a session plays now: one timeline for sound and picture.

Sans-I/O and clockless. The caller asks for sound packets (20 ms) and frames by their index on the session's
timeline, whose unit is the sample at SOUND_HZ; the answers come from the utterances pushed so far. Sound is
master: it never waits for a picture. A late picture repeats the last one, then gives way to the base loop.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from serve_app.config import PlayoutConfig
from serve_app.nouns import (
    CODEC_DELAY_SAMPLES,
    PACKET_SAMPLES,
    SOUND_HZ,
    Clip,
    Int16,
    Patch,
    Picture,
    Sound,
    Window,
)

FADE_SAMPLES = SOUND_HZ // 200
"""5 ms: the ramp that ends an interrupted sound without a click."""

LATE_CLIPS, OF_CLIPS = 2, 8
"""When so many of the last clips came late, a live stream plays a little later from then on."""

LIVE_S = 0.5
"""A stream with more sound in hand is not live: its clips are late because a replica died, not by habit."""

CHUNK_SAMPLES = SOUND_HZ // 10
"""Smaller pieces are joined, so that finding a packet's sound does not walk over dozens of them."""

KEPT_SAMPLES = SOUND_HZ
"""1 s of heard sound stays at hand: the left context of windows that must be cut again."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first sound of an utterance is being played."""

    utterance: int
    client_index: int


@dataclass(frozen=True, slots=True)
class Completed:
    """An utterance was played to its end, or cut by an interrupt after `played_s` seconds."""

    utterance: int
    client_index: int
    played_s: float
    interrupted: bool


@dataclass(slots=True)
class Counters:
    """What went wrong on the timeline, in frames and events; only ever counts up."""

    speaking_frames: int = 0
    repeated_frames: int = 0
    bare_frames: int = 0
    late_frames: int = 0
    underruns: int = 0
    delays: int = 0


@dataclass(slots=True)
class _Utterance:
    number: int
    client_index: int
    fps: int
    chunks: deque[Int16] = field(default_factory=deque)
    kept_from: int = 0
    received: int = 0
    heard: int = 0
    ended: bool = False
    clips: deque[Clip] = field(default_factory=deque)
    promised: int = 0
    shown: int = 0
    asked: int = -1
    lateness: deque[int] = field(default_factory=lambda: deque(maxlen=OF_CLIPS))
    hold: int = 0
    delayed: int = 0
    origin: int | None = None
    waiting_since: int | None = None
    paused: bool = False

    @property
    def frames(self) -> int:
        """Frames of the sound received so far, the last one perhaps not full."""
        return -(-self.received * self.fps // SOUND_HZ)

    def push(self, sound: Sound) -> None:
        if (lost := sound.first_sample - self.received) > 0:
            self._append(np.zeros(lost, np.int16))
        self._append(sound.samples[max(0, self.received - sound.first_sample) :])
        self.ended = self.ended or sound.is_last

    def _append(self, new: Int16) -> None:
        if len(new):
            if self.chunks and len(self.chunks[-1]) < CHUNK_SAMPLES:
                self.chunks[-1] = np.concatenate([self.chunks[-1], new])
            else:
                self.chunks.append(new)
            self.received += len(new)

    def span(self, start: int, stop: int) -> Int16:
        """Return [stop - start] samples; zeros where nothing is kept."""
        out = np.zeros(max(0, stop - start), np.int16)
        at = self.kept_from
        for chunk in self.chunks:
            lo, hi = max(start, at), min(stop, at + len(chunk))
            if lo < hi:
                out[lo - start : hi - start] = chunk[lo - at : hi - at]
            at += len(chunk)
            if at >= stop:
                break
        return out

    def forget(self, before: int) -> None:
        while self.chunks and self.kept_from + len(self.chunks[0]) <= before:
            self.kept_from += len(self.chunks.popleft())

    def patch(self, frame: int) -> tuple[Patch, int] | None:
        """Return the patch of `frame` and the base frame it was painted for."""
        while self.clips and self.clips[0].first_frame + len(self.clips[0].patches) <= frame:
            self.clips.popleft()
        if not self.clips or self.clips[0].first_frame > frame:
            return None
        clip = self.clips[0]
        index = frame - clip.first_frame
        return Patch(clip.x, clip.y, clip.w, clip.h, clip.patches[index]), clip.base_frame + index


class Playout:
    """One session's timeline.

    Frames and packets are asked for in rising order; indices may be skipped.
    """

    def __init__(self, fps: int, config: PlayoutConfig) -> None:
        self._fps = fps
        self._config = config
        self._generation = 0
        self._queue: deque[_Utterance] = deque()
        self._newest = -1
        self._events: list[Started | Completed] = []
        self._tail: Int16 | None = None
        self._next_packet = 0
        self._begin_from = 0
        self._last_frame = -1
        self._base = -1
        self._last = Picture(0, None)
        self._held = 0
        self.counters = Counters()

    # --- what comes in -----------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The present generation: what carries an older one is dropped."""
        return self._generation

    def push_sound(self, sound: Sound) -> None:
        """Queue sound; what was already received is ignored, so a resend does no harm, however late.

        Sound that was lost on the way is silence: what follows keeps its place.
        """
        if sound.generation != self._generation:
            return
        utterance = self._find(sound.utterance)
        if utterance is None:
            if sound.utterance <= self._newest:
                return
            self._newest = sound.utterance
            utterance = _Utterance(sound.utterance, sound.client_index, self._fps)
            self._queue.append(utterance)
        utterance.push(sound)

    def expect(self, window: Window) -> bool:
        """Note that a clip was asked for; False when the window is old, unknown or already promised."""
        utterance = self._find(window.utterance)
        if window.generation != self._generation or utterance is None:
            return False
        if window.first_frame < utterance.promised:
            return False
        utterance.promised = window.first_frame + window.num_frames
        return True

    def push_clip(self, clip: Clip) -> bool:
        """Queue the frames of a window; False when they are too old to be shown."""
        utterance = self._find(clip.utterance)
        after = clip.first_frame + len(clip.patches)
        if clip.generation != self._generation or utterance is None or after <= utterance.shown:
            return False
        self._note_lateness(utterance, clip)
        position = len(utterance.clips)
        while position and utterance.clips[position - 1].first_frame > clip.first_frame:
            position -= 1
        utterance.clips.insert(position, clip)
        return True

    def interrupt(self) -> int:
        """Drop everything queued and playing; return the new generation."""
        self._generation += 1
        for utterance in self._queue:
            if utterance.origin is not None and not utterance.paused and utterance.heard < utterance.received:
                ramp = np.linspace(1.0, 0.0, FADE_SAMPLES, dtype=np.float32)
                rest = utterance.span(utterance.heard, utterance.heard + FADE_SAMPLES)
                self._tail = (rest * ramp).astype(np.int16)
            self._complete(utterance, interrupted=True)
        self._queue.clear()
        return self._generation

    def shift(self, samples: int) -> None:
        """Move what is playing later by `samples` at SOUND_HZ: nobody listened for so long."""
        for utterance in self._queue:
            utterance.waiting_since = None
            if utterance.origin is not None:
                utterance.origin += samples

    def begin_from(self, sample: int) -> None:
        """Begin no utterance before `sample` of the timeline."""
        self._begin_from = sample

    # --- what goes out -----------------------------------------------------------------------------

    def sound(self, packet: int) -> Int16 | None:
        """Return [PACKET_SAMPLES] int16 for packet `packet`, or None for silence."""
        start = packet * PACKET_SAMPLES
        self._next_packet = packet + 1
        parts: list[tuple[int, Int16]] = []
        if self._tail is not None:
            parts.append((0, self._tail))
            self._tail = None
        at = start
        while at < start + PACKET_SAMPLES:
            utterance = self._speaking(at)
            if utterance is None:
                break
            samples = self._hear(utterance, at, start + PACKET_SAMPLES)
            if samples is None:
                break
            parts.append((at - start, samples))
            at += len(samples)
            if utterance.heard < utterance.received or not utterance.ended:
                break
        if not parts:
            return None
        out = np.zeros(PACKET_SAMPLES, np.int16)
        for offset, samples in parts:
            out[offset : offset + len(samples)] = samples
        return out

    def picture(self, frame: int) -> Picture:
        """Return what frame `frame` shows."""
        step, self._last_frame = max(1, frame - self._last_frame), frame
        self._base += step
        now = self._sample_of(frame)
        self._begin(now)
        owner = self._owner(now)
        if owner is None:
            return self._show(Picture(self._base, None))
        utterance, index = owner
        utterance.asked = index
        self.counters.speaking_frames += 1
        # A delay moves the sound to later; what was shown before it stays, and is not gone through again.
        index = max(index, utterance.shown - 1)
        found = utterance.patch(index)
        if found is None:
            return self._late()
        patch, base = found
        self.counters.late_frames += max(0, index - utterance.shown)
        utterance.shown = index + 1
        self._base = base
        self._held = 0
        return self._show(Picture(base, patch))

    def drain_events(self) -> list[Started | Completed]:
        """Return and forget what happened since the last call."""
        events, self._events = self._events, []
        return events

    # --- what others ask ---------------------------------------------------------------------------

    @property
    def is_speaking(self) -> bool:
        """Whether an utterance is playing or queued."""
        return bool(self._queue)

    @property
    def base_frame(self) -> int:
        """Base loop frame on show now."""
        return max(0, self._base)

    def ahead_frames(self) -> int:
        """Return how many promised frames have not been shown."""
        return sum(max(0, u.promised - u.shown) for u in self._queue)

    def buffered_s(self) -> float:
        """Return seconds of speech that have not been heard."""
        return sum(u.received - u.heard for u in self._queue) / SOUND_HZ

    def open_utterance(self) -> tuple[int, int, int] | None:
        """Return (utterance, client_index, samples received) of the one that has not ended, if any."""
        if self._queue and not self._queue[-1].ended:
            last = self._queue[-1]
            return last.number, last.client_index, last.received
        return None

    def unpromised(self, max_frames: int, lookahead_s: float) -> tuple[int, int, int] | None:
        """Return (utterance, first frame, frames) whose sound is here and whose clips nobody asked for."""
        for utterance in self._queue:
            lookahead = 0 if utterance.ended else round(lookahead_s * SOUND_HZ)
            reach = (
                utterance.frames
                if utterance.ended
                else (utterance.received - lookahead) * self._fps // SOUND_HZ
            )
            first = max(utterance.promised, utterance.shown)
            if reach > first:
                return utterance.number, first, min(max_frames, reach - first)
        return None

    def is_ended(self, number: int) -> bool:
        """Return whether all sound of an utterance has been received."""
        utterance = self._find(number)
        return utterance is not None and utterance.ended

    def frames_of(self, number: int) -> int:
        """Return how many frames the received sound of an utterance makes."""
        utterance = self._find(number)
        return 0 if utterance is None else utterance.frames

    def sound_of(self, number: int, start: int, stop: int) -> Int16:
        """Return sound [start, stop) of an utterance at SOUND_HZ; zeros where it has none."""
        utterance = self._find(number)
        return np.zeros(stop - start, np.int16) if utterance is None else utterance.span(start, stop)

    def base_frame_at(self, number: int, frame: int) -> int:
        """Return the base frame that will be under `frame` of an utterance, as far as can be told now."""
        base = self.base_frame
        for utterance in self._queue:
            if utterance.number == number:
                return base + max(0, frame - utterance.shown)
            base += max(0, utterance.frames - utterance.shown)
        return base

    # --- inside ------------------------------------------------------------------------------------

    def _sample_of(self, frame: int) -> int:
        return frame * SOUND_HZ // self._fps

    def _find(self, number: int) -> _Utterance | None:
        return next((u for u in self._queue if u.number == number), None)

    def _owner(self, now: int) -> tuple[_Utterance, int] | None:
        """Return the utterance whose sound is nearest to `now`, and its frame there."""
        self._line_up()
        for utterance in self._queue:
            if utterance.origin is None or utterance.paused:
                return None
            heard = now - utterance.origin - CODEC_DELAY_SAMPLES
            index = (heard * self._fps * 2 + SOUND_HZ) // (2 * SOUND_HZ)
            if index < 0:
                return None
            if not utterance.ended or index < utterance.frames:
                return utterance, index
        return None

    def _line_up(self) -> None:
        """Put what is ready right behind an utterance whose end is known."""
        if len(self._queue) < 2:
            return
        head, following = self._queue[0], self._queue[1]
        is_settled = head.origin is not None and head.ended and not head.paused
        if is_settled and following.origin is None and following.clips and following.received:
            assert head.origin is not None
            following.origin = head.origin + head.frames * SOUND_HZ // self._fps

    def _begin(self, now: int) -> None:
        """Put the head of the queue on the timeline when it is ready and nothing plays."""
        if not self._queue or self._queue[0].origin is not None or now < self._begin_from:
            return
        head = self._queue[0]
        if not head.received:
            if head.ended:
                self._queue.popleft()
                self._complete(head, interrupted=False)
            return
        if head.waiting_since is None:
            head.waiting_since = now
        patient = now - head.waiting_since < self._config.start_deadline_s * SOUND_HZ
        if (not head.clips or head.clips[0].first_frame > 0) and patient:
            return
        head.origin = max(now, self._next_packet * PACKET_SAMPLES)
        self._events.append(Started(head.number, head.client_index))

    def _speaking(self, at: int) -> _Utterance | None:
        """Return the utterance that owns sample `at`, moving on when one has been heard to its end."""
        while self._queue and self._queue[0].origin is not None:
            head = self._queue[0]
            if not head.ended or head.heard < head.received:
                return head
            self._line_up()
            self._queue.popleft()
            self._complete(head, interrupted=False)
            if self._queue and (following := self._queue[0]).origin is not None:
                following.origin = max(following.origin, at)
                self._events.append(Started(following.number, following.client_index))
        return None

    def _hear(self, utterance: _Utterance, at: int, stop: int) -> Int16 | None:
        """Return sound of `utterance` for [at, stop), at most what is there; None when there is none."""
        assert utterance.origin is not None
        if utterance.paused:
            ready = utterance.received - utterance.heard
            if ready < self._config.resume_margin_s * SOUND_HZ and not utterance.ended:
                return None
            utterance.paused = False
            utterance.origin = at - utterance.heard
        if utterance.hold:
            held = min(utterance.hold, stop - at)
            utterance.hold -= held
            utterance.origin += held
            return self._hear_after(held, utterance, at, stop)
        offset = at - utterance.origin
        if offset < 0:
            return self._hear_after(min(stop - at, -offset), utterance, at, stop)
        if offset > utterance.heard:
            utterance.heard = min(offset, utterance.received)
        end = min(offset + stop - at, utterance.received)
        samples = utterance.span(offset, end)
        utterance.heard = max(utterance.heard, end)
        utterance.forget(utterance.heard - KEPT_SAMPLES)
        if end < offset + stop - at and not utterance.ended:
            utterance.paused = True
            self.counters.underruns += 1
        return samples if len(samples) else None

    def _hear_after(self, silence: int, utterance: _Utterance, at: int, stop: int) -> Int16 | None:
        """Return `silence` samples of silence and the sound behind them, or None when that is all."""
        rest = self._hear(utterance, at + silence, stop) if at + silence < stop else None
        return None if rest is None else np.concatenate([np.zeros(silence, np.int16), rest])

    def _note_lateness(self, utterance: _Utterance, clip: Clip) -> None:
        """Give a stream whose clips keep coming late the time they need, once, as a jitter buffer does.

        A live stream has no frames in hand, so without this a constant delay would hide every picture.
        The delay is bounded: when the model is slower than speech, sound goes on alone.
        """
        if utterance.ended or utterance.received - utterance.heard > LIVE_S * SOUND_HZ:
            return
        utterance.lateness.append(max(0, utterance.asked + 1 - clip.first_frame))
        if sum(late > 0 for late in utterance.lateness) < LATE_CLIPS:
            return
        frames = min(max(utterance.lateness), round(self._config.max_delay_s * self._fps) - utterance.delayed)
        utterance.lateness.clear()
        if frames > 0:
            utterance.delayed += frames
            utterance.hold += frames * SOUND_HZ // self._fps
            self.counters.delays += 1

    def _late(self) -> Picture:
        self._held += 1
        if self._held <= self._config.hold_picture_s * self._fps and self._last.patch is not None:
            self.counters.repeated_frames += 1
            return self._last
        self.counters.bare_frames += 1
        return self._show(Picture(self._base, None))

    def _show(self, picture: Picture) -> Picture:
        self._last = picture
        return picture

    def _complete(self, utterance: _Utterance, *, interrupted: bool) -> None:
        self._events.append(
            Completed(utterance.number, utterance.client_index, utterance.heard / SOUND_HZ, interrupted)
        )
