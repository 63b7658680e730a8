from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.config import PlayoutConfig
from serve_app.media.playout import Completed, Playout, Started
from serve_app.nouns import CODEC_DELAY_SAMPLES, PACKET_SAMPLES, SOUND_HZ, Clip, Int16, Picture, Sound, Window

pytestmark = pytest.mark.unit

FPS = 30
SPF = SOUND_HZ // FPS


def sound(utterance: int, first: int, samples: Int16, *, last: bool = False, generation: int = 0) -> Sound:
    return Sound("s", generation, utterance, first, samples, last, client_index=utterance + 10)


def clip(utterance: int, first: int, frames: int, *, base: int = 0, generation: int = 0) -> Clip:
    patches = np.zeros((frames, 6), np.uint8)
    patches[:, 0] = np.arange(first, first + frames) % 256
    return Clip("s", generation, utterance, first, base + first, 0, 0, 2, 2, patches)


def window(utterance: int, first: int, frames: int, generation: int = 0) -> Window:
    return Window("s", generation, utterance, "a", first, frames, 0, np.zeros(1, np.int16), 0, False)


def ones(samples: int) -> Int16:
    return np.full(samples, 1000, np.int16)


class Listener:
    """Asks for sound and pictures in the order of the clock, as tracks do."""

    def __init__(self, playout: Playout) -> None:
        self.playout = playout
        self.packet = 0
        self.frame = 0
        self.heard: list[tuple[int, Int16 | None]] = []
        self.seen: list[tuple[int, Picture]] = []
        self.events: list[Started | Completed] = []

    def run(self, seconds: float) -> None:
        until = self.now + round(seconds * SOUND_HZ)
        while self.now < until:
            if self.frame * SPF <= self.packet * PACKET_SAMPLES:
                self.seen.append((self.frame, self.playout.picture(self.frame)))
                self.frame += 1
            else:
                self.heard.append((self.packet, self.playout.sound(self.packet)))
                self.packet += 1
            self.events += self.playout.drain_events()

    @property
    def now(self) -> int:
        return min(self.frame * SPF, self.packet * PACKET_SAMPLES)

    def samples(self) -> Int16:
        silence = np.zeros(PACKET_SAMPLES, np.int16)
        return np.concatenate([silence if s is None else s for _, s in self.heard])

    def mouth(self) -> list[tuple[int, int]]:
        """Return (session frame, clip frame) of the frames that showed a patch."""
        return [(n, int(p.patch.pixels[0])) for n, p in self.seen if p.patch is not None]


@pytest.fixture
def playout() -> Playout:
    return Playout(FPS, PlayoutConfig())


@pytest.fixture
def listener(playout: Playout) -> Listener:
    return Listener(playout)


def speak(playout: Playout, utterance: int, frames: int, base: int = 0) -> None:
    playout.push_sound(sound(utterance, 0, ones(frames * SPF), last=True))
    playout.expect(window(utterance, 0, frames))
    playout.push_clip(clip(utterance, 0, frames, base=base))


def test_idle_shows_the_base_loop_in_order(listener: Listener) -> None:
    listener.run(1.0)
    assert [p.base_frame for _, p in listener.seen] == list(range(len(listener.seen)))
    assert all(p.patch is None for _, p in listener.seen)
    assert all(s is None for _, s in listener.heard)


def test_sound_and_picture_start_together_and_end_together(playout: Playout, listener: Listener) -> None:
    listener.run(0.5)
    speak(playout, 0, 30, base=15)
    listener.run(2.0)
    samples = listener.samples()
    (voiced,) = np.nonzero(samples)
    first, last = voiced[0], voiced[-1]
    assert last - first + 1 == 30 * SPF
    mouth = listener.mouth()
    assert [k for _, k in mouth] == list(range(30))
    assert abs(mouth[0][0] * SPF - first - CODEC_DELAY_SAMPLES) <= SPF / 2
    assert listener.events == [Started(0, 10), Completed(0, 10, 1.0, interrupted=False)]


@given(start=st.integers(0, 200), fps=st.sampled_from([24, 25, 30, 50]))
@settings(max_examples=60, deadline=None)
def test_every_frame_is_within_half_a_frame_of_its_sound(start: int, fps: int) -> None:
    playout = Playout(fps, PlayoutConfig())
    at_packet = start
    frame = 0
    for packet in range(at_packet):
        while frame * SOUND_HZ // fps <= packet * PACKET_SAMPLES:
            playout.picture(frame)
            frame += 1
        playout.sound(packet)
    frames = fps
    playout.push_sound(sound(0, 0, ones(SOUND_HZ), last=True))
    playout.push_clip(clip(0, 0, frames))
    first_sample: int | None = None
    offsets = []
    for packet in range(at_packet, at_packet + 80):
        while frame * SOUND_HZ // fps <= packet * PACKET_SAMPLES:
            picture = playout.picture(frame)
            if picture.patch is not None:
                offsets.append((frame * SOUND_HZ // fps, int(picture.patch.pixels[0])))
            frame += 1
        samples = playout.sound(packet)
        if samples is not None and first_sample is None:
            first_sample = packet * PACKET_SAMPLES + int(np.nonzero(samples)[0][0])
    assert first_sample is not None
    for shown_at, index in offsets:
        heard_at = first_sample + CODEC_DELAY_SAMPLES + index * SOUND_HZ / fps
        assert abs(shown_at - heard_at) <= SOUND_HZ / fps / 2 + 1


def test_base_loop_goes_on_under_speech_from_where_the_clip_was_painted(
    playout: Playout, listener: Listener
) -> None:
    listener.run(0.5)
    speak(playout, 0, 10, base=17)
    listener.run(1.0)
    bases = [p.base_frame for _, p in listener.seen]
    first = next(i for i, (_, p) in enumerate(listener.seen) if p.patch is not None)
    assert bases[first : first + 15] == list(range(17, 32))


def test_utterances_queue_without_a_gap(playout: Playout, listener: Listener) -> None:
    speak(playout, 0, 15)
    speak(playout, 1, 15, base=15)
    listener.run(1.5)
    (voiced,) = np.nonzero(listener.samples())
    assert len(voiced) == 30 * SPF
    assert voiced[-1] - voiced[0] + 1 == 30 * SPF
    assert [k for _, k in listener.mouth()] == [*range(15), *range(15)]
    assert [type(e) for e in listener.events] == [Started, Completed, Started, Completed]


def test_late_picture_repeats_then_gives_way_and_sound_never_waits(
    playout: Playout, listener: Listener
) -> None:
    playout.push_sound(sound(0, 0, ones(60 * SPF), last=True))
    playout.push_clip(clip(0, 0, 5))
    listener.run(1.0)
    playout.push_clip(clip(0, 5, 55))
    listener.run(1.5)
    (voiced,) = np.nonzero(listener.samples())
    assert voiced[-1] - voiced[0] + 1 == 60 * SPF, "sound has no gap"
    mouth = [k for _, k in listener.mouth()]
    assert mouth[:5] == [0, 1, 2, 3, 4]
    assert mouth[5:11] == [4] * 6, "200 ms of the last picture"
    assert mouth[11] > 25, "then the clip goes on where the sound is"
    assert mouth[-1] == 59
    assert playout.counters.repeated_frames == 6
    assert playout.counters.late_frames == mouth[11] - 5


def test_sound_starts_without_pictures_after_the_deadline(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(30 * SPF), last=True))
    listener.run(2.0)
    (voiced,) = np.nonzero(listener.samples())
    assert len(voiced) == 30 * SPF
    assert 0.4 <= voiced[0] / SOUND_HZ <= 0.46
    assert playout.counters.bare_frames == 30


def test_stream_that_runs_dry_pauses_and_goes_on_in_step(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(10 * SPF)))
    playout.push_clip(clip(0, 0, 10))
    listener.run(1.0)
    assert playout.counters.underruns == 1
    playout.push_sound(sound(0, 10 * SPF, ones(20 * SPF), last=True))
    playout.push_clip(clip(0, 10, 20))
    listener.run(1.0)
    samples = listener.samples()
    (voiced,) = np.nonzero(samples)
    assert len(voiced) == 30 * SPF, "nothing is lost"
    resumed = voiced[np.argmax(np.diff(voiced)) + 1]
    mouth = listener.mouth()
    shown = [k for _, k in mouth]
    assert shown in ([*range(30)], [*range(10), *range(11, 30)]), "at most the frame of the gap is missing"
    session_frame, index = mouth[15]
    assert abs(session_frame * SPF - resumed - CODEC_DELAY_SAMPLES - (index - 10) * SPF) <= SPF / 2 + 1


def test_interrupt_fades_within_5_ms_and_shows_the_base_loop(playout: Playout, listener: Listener) -> None:
    speak(playout, 0, 60)
    speak(playout, 1, 60)
    listener.run(0.5)
    at = listener.packet * PACKET_SAMPLES
    assert playout.interrupt() == 1
    listener.run(0.5)
    tail = listener.samples()[at:]
    assert np.nonzero(tail)[0][-1] < 0.005 * SOUND_HZ
    assert np.all(np.diff(tail[:240].astype(int)) <= 0)
    assert max(n for n, _ in listener.mouth()) * SPF <= at
    ends = [e for e in listener.events if isinstance(e, Completed)]
    assert [e.interrupted for e in ends] == [True, True]
    assert 0.4 < ends[0].played_s < 0.6
    assert ends[1].played_s == 0.0


def test_what_carries_an_older_generation_is_dropped(playout: Playout, listener: Listener) -> None:
    playout.interrupt()
    playout.push_sound(sound(0, 0, ones(SPF), last=True))
    assert not playout.push_clip(clip(0, 0, 1))
    assert not playout.expect(window(0, 0, 1))
    listener.run(0.5)
    assert not listener.samples().any()


def test_resent_sound_is_heard_once(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(10 * SPF)))
    playout.push_sound(sound(0, 0, ones(10 * SPF)))
    playout.push_sound(sound(0, 5 * SPF, ones(10 * SPF), last=True))
    playout.push_clip(clip(0, 0, 15))
    listener.run(1.0)
    assert np.count_nonzero(listener.samples()) == 15 * SPF


def test_clips_may_come_out_of_order(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(10 * SPF), last=True))
    playout.push_clip(clip(0, 5, 5))
    playout.push_clip(clip(0, 0, 5))
    listener.run(0.6)
    assert [k for _, k in listener.mouth()] == list(range(10))


def test_promised_frames_are_not_asked_for_twice(playout: Playout) -> None:
    playout.push_sound(sound(0, 0, ones(30 * SPF)))
    assert playout.expect(window(0, 0, 12))
    assert not playout.expect(window(0, 0, 12))
    assert playout.ahead_frames() == 12
    assert playout.unpromised(100, 0.1) == (0, 12, 15)


def test_time_without_a_listener_loses_nothing(playout: Playout, listener: Listener) -> None:
    speak(playout, 0, 30)
    listener.run(0.5)
    heard = np.count_nonzero(listener.samples())
    gap = 10 * SOUND_HZ
    playout.shift(gap)
    listener.packet += gap // PACKET_SAMPLES
    listener.frame += gap // SPF
    listener.run(1.0)
    assert np.count_nonzero(listener.samples()) == 30 * SPF
    assert heard < 30 * SPF


def test_sound_that_was_lost_on_the_way_is_silence(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(PACKET_SAMPLES * 5)))
    playout.push_sound(sound(0, PACKET_SAMPLES * 7, ones(PACKET_SAMPLES * 5), last=True))
    playout.push_sound(sound(1, 0, ones(PACKET_SAMPLES * 5), last=True))
    playout.push_clip(clip(0, 0, 8))
    playout.push_clip(clip(1, 0, 4))
    listener.run(1.0)
    voiced = [heard is not None and bool(heard.any()) for _, heard in listener.heard]
    first = voiced.index(True)
    assert voiced[first : first + 12] == [True] * 5 + [False] * 2 + [True] * 5
    ends = [event for event in listener.events if isinstance(event, Completed)]
    assert [event.utterance for event in ends] == [0, 1]
    assert ends[0].played_s == pytest.approx(12 * PACKET_SAMPLES / SOUND_HZ)


def test_sound_that_comes_again_after_its_utterance_was_heard_begins_nothing(
    playout: Playout, listener: Listener
) -> None:
    speak(playout, 0, 30)
    listener.run(2.0)
    playout.push_sound(sound(0, PACKET_SAMPLES * 2, ones(PACKET_SAMPLES)))
    speak(playout, 1, 30)
    listener.run(2.0)
    ends = [event for event in listener.events if isinstance(event, Completed)]
    assert [event.utterance for event in ends] == [0, 1]
    assert not playout.is_speaking


def test_nothing_begins_before_the_listener_is_said_to_be_ready(playout: Playout, listener: Listener) -> None:
    playout.begin_from(SOUND_HZ // 10)
    speak(playout, 0, 15)
    listener.run(1.0)
    (voiced,) = np.nonzero(listener.samples())
    assert SOUND_HZ // 10 <= voiced[0] < SOUND_HZ // 10 + SPF
    assert len(voiced) == 15 * SPF


@given(
    frames=st.integers(1, 90),
    chunk=st.integers(200, 5000),
    clip_frames=st.integers(1, 12),
    delays=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_every_sample_is_heard_once_and_in_order_whatever_the_arrival(
    frames: int, chunk: int, clip_frames: int, delays: list[int]
) -> None:
    playout = Playout(FPS, PlayoutConfig())
    listener = Listener(playout)
    total = frames * SPF
    voice = (np.arange(total) % 20_000 + 1).astype(np.int16)
    at = frame = turn = 0
    while at < total:
        playout.push_sound(sound(0, at, voice[at : at + chunk], last=at + chunk >= total))
        at += chunk
        while frame + clip_frames <= min(at, total) // SPF:
            playout.push_clip(clip(0, frame, clip_frames))
            frame += clip_frames
        listener.run(0.02 * delays[turn % len(delays)])
        turn += 1
    listener.run(frames / FPS + 2.0)
    samples = listener.samples()
    assert np.array_equal(samples[samples != 0], voice)
    shown = [n for n, _ in listener.seen]
    assert shown == sorted(set(shown))


def live(playout: Playout, listener: Listener, frames: int, late_s: float, every: int = 1) -> None:
    """Stream sound in real time; clips of `every` frames arrive `late_s` after their sound."""
    waiting: list[tuple[float, Clip]] = []
    for frame in range(frames):
        playout.push_sound(sound(0, frame * SPF, ones(SPF), last=frame == frames - 1))
        if (frame + 1) % every == 0:
            waiting.append((listener.now / SOUND_HZ + late_s, clip(0, frame + 1 - every, every)))
        while waiting and waiting[0][0] <= listener.now / SOUND_HZ:
            playout.push_clip(waiting.pop(0)[1])
        listener.run(1 / FPS)


@pytest.mark.parametrize("late_s", [0.05, 0.1, 0.2])
def test_live_stream_whose_clips_always_come_late_plays_a_little_later(
    playout: Playout, listener: Listener, late_s: float
) -> None:
    playout.push_sound(sound(0, 0, ones(0)))
    playout.push_clip(clip(0, 0, 1))
    live(playout, listener, 90, late_s)
    listener.run(1.0)
    assert playout.counters.delays + playout.counters.underruns >= 1
    mouth = listener.mouth()
    settled = [k for _, k in mouth if k >= 30]
    assert len(settled) >= 57, "once it is delayed, nearly every picture is in time"
    samples = listener.samples()
    assert np.count_nonzero(samples) == 90 * SPF, "nothing is lost"


@given(
    late_s=st.lists(st.sampled_from([0.03, 0.1, 0.2]), min_size=30, max_size=30),
    dry_s=st.lists(st.sampled_from([0.0, 0.0, 0.03, 0.1]), min_size=30, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_live_stream_that_is_delayed_shows_no_picture_before_one_that_was_seen(
    late_s: list[float], dry_s: list[float]
) -> None:
    playout = Playout(FPS, PlayoutConfig())
    listener = Listener(playout)
    for turn, (late, dry) in enumerate(zip(late_s, dry_s, strict=True)):
        frame = 3 * turn
        playout.push_sound(sound(0, frame * SPF, ones(3 * SPF), last=turn == 29))
        listener.run(late)
        playout.push_clip(clip(0, frame, 3))
        listener.run(max(0.0, 3 / FPS - late) + dry)
    listener.run(1.0)
    shown = [k for _, k in listener.mouth()]
    assert shown
    assert shown == sorted(shown)


def test_model_slower_than_speech_does_not_hold_the_sound_up(playout: Playout, listener: Listener) -> None:
    playout.push_sound(sound(0, 0, ones(300 * SPF), last=True))
    playout.push_clip(clip(0, 0, 3))
    for number in range(1, 50):
        listener.run(0.2)
        playout.push_clip(clip(0, number * 3, 3))
    listener.run(2.0)
    (voiced,) = np.nonzero(listener.samples())
    assert len(voiced) == 300 * SPF
    assert voiced[-1] - voiced[0] == 300 * SPF - 1
