"""What a client sees and hears, and how it compares with what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.client.a2v import A2vClient, DoorEvent, Inbox
from serve_app.client.received import Received, Receiver
from serve_app.media.pcm import Resampler
from serve_app.models import tracer
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16
from tests.stalls import OwnStalls, own_stalls

VOICED = 700
"""Peak above which sound counts as voiced; speech here peaks at 9000."""

SEGMENT = SPEECH_HZ // 5
"""Samples of a stretch that is compared by itself: 0.2 s."""

SLACK = SPEECH_HZ // 200
"""How far from its place a stretch is looked for: 5 ms, far less than a lost packet moves it."""

ALIKE = 0.8
"""Correlation from which a stretch counts as the one that was sent; through Opus 0.95, others 0.2."""

Float = npt.NDArray[np.float64]

PIECE = SPEECH_HZ // 10
"""Samples of a stretch that may have been moved by a pause: 0.1 s."""

PIECE_ALIKE = 0.6
"""Correlation from which such a stretch counts as heard: one that a pause cuts in halves reaches 0.7."""

MAX_PAUSE = SPEECH_HZ // 2
"""Longest pause within a stream that is looked for."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A received picture; `index` is the frame of its utterance as `tracer` painted it, None when idle."""

    timestamp: int
    arrived_s: float
    index: int | None


@dataclass(frozen=True, slots=True)
class Packet:
    """A received sound packet, [S] int16 at SOUND_HZ."""

    timestamp: int
    arrived_s: float
    samples: Int16


@dataclass(frozen=True, slots=True)
class Match:
    """Where speech was found in what was heard.

    Attributes:
        start_s: when it begins, on the heard timeline.
        length_s: from its first to its last voiced sample, as heard.
        sent_s: the same of what was sent.
        alike: for each voiced 0.2 s of what was sent, its correlation with what was heard at that place.
    """

    start_s: float
    length_s: float
    sent_s: float
    alike: list[float]

    @property
    def is_whole(self) -> bool:
        """Whether every stretch was heard in its place: nothing lost, nothing paused."""
        return bool(self.alike) and min(self.alike) > ALIKE


class Listener:
    """Keeps everything a client received.

    Args:
        stalls: of the event loop that receives.
    """

    def __init__(self, stalls: OwnStalls | None = None) -> None:
        self.pictures: list[Picture] = []
        self.packets: list[Packet] = []
        self._stalls = stalls or OwnStalls()
        self._heard = asyncio.Event()

    def see(self, received: Received) -> None:
        """Keep a picture's reading."""
        reading = tracer.read(received.y_plane())
        index = None if reading is None else reading.frame_index
        self.pictures.append(Picture(received.timestamp, received.arrived_s, index))

    def hear(self, received: Received) -> None:
        """Keep a packet."""
        self.packets.append(Packet(received.timestamp, received.arrived_s, received.samples().copy()))
        if is_voiced(self.packets[-1]):
            self._heard.set()

    async def voice(self, timeout_s: float = 15.0) -> None:
        """Wait for the first voiced packet from now on."""
        self._heard.clear()
        await asyncio.wait_for(self._heard.wait(), timeout_s)

    def clear(self) -> None:
        """Forget what came so far."""
        self.pictures.clear()
        self.packets.clear()

    def sound(self) -> Int16:
        """Return all sound since the first packet, [S] int16 at SPEECH_HZ; lost packets are silence."""
        origin = self.packets[0].timestamp
        length = self.packets[-1].timestamp - origin + len(self.packets[-1].samples)
        sound = np.zeros(length, np.int16)
        for packet in self.packets:
            at = packet.timestamp - origin
            sound[at : at + len(packet.samples)] = packet.samples
        resampler = Resampler(SOUND_HZ, SPEECH_HZ)
        return np.concatenate([resampler.push(sound), resampler.flush()])

    def find(self, sent: Int16) -> Match:
        """Find speech ([S] int16 at SPEECH_HZ) in what was heard."""
        return find(sent, self.sound())

    def indices(self) -> list[int]:
        """Return the frame indices of all speaking pictures, in order of arrival."""
        return [picture.index for picture in self.pictures if picture.index is not None]

    def bare_pictures(self) -> int:
        """Return how many idle pictures stand between the first and the last speaking one."""
        places = [place for place, picture in enumerate(self.pictures) if picture.index is not None]
        return places[-1] + 1 - places[0] - len(places) if places else 0

    def worst_picture_gap_s(self, since_s: float = -math.inf, until_s: float = math.inf) -> float:
        """Return the longest time between two pictures of a while; the listener's own stalls do not count."""
        arrived = [picture.arrived_s for picture in self.pictures if since_s <= picture.arrived_s <= until_s]
        return max(b - a - self._stalls.within(a, b) for a, b in itertools.pairwise(arrived))

    def last_voiced_s(self) -> float:
        """Return when the last voiced packet arrived; 0 without one."""
        return max((packet.arrived_s for packet in self.packets if is_voiced(packet)), default=0.0)

    def last_speaking_s(self) -> float:
        """Return when the last speaking picture arrived; 0 without one."""
        return max((p.arrived_s for p in self.pictures if p.index is not None), default=0.0)


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[Listener, Receiver]]:
    """Listen to a receiver, and to how late this event loop runs meanwhile."""
    async with own_stalls() as stalls:
        listener = Listener(stalls)
        yield listener, Receiver(on_video=listener.see, on_sound=listener.hear)


@contextlib.asynccontextmanager
async def session(
    url: str, *, media: Receiver | None = None
) -> AsyncIterator[tuple[A2vClient, Listener, Inbox]]:
    """Open a session that is listened to; the inbox gets the door's messages from the first offer on."""
    async with (
        listening() as (listener, receiver),
        A2vClient(url, media=media or receiver, timeout_s=30) as client,
    ):
        with client.inbox() as inbox:
            yield client, listener, inbox


async def next_event(inbox: Inbox, kind: str, timeout_s: float = 30.0) -> DoorEvent:
    """Wait for a message of a kind, passing over those of other kinds but errors."""

    async def wait() -> DoorEvent:
        while (event := await inbox.get()) is not None:
            if event.type == kind:
                return event
            assert event.type != "error", f"expected {kind}, found {event.message}"
        raise AssertionError(f"expected {kind}, found the session ended")

    return await asyncio.wait_for(wait(), timeout_s)


def is_voiced(packet: Packet) -> bool:
    """Return whether a packet holds speech."""
    return bool(np.abs(packet.samples.astype(np.int32)).max(initial=0) > VOICED)


def speech(seconds: float, seed: int = 0) -> Int16:
    """Return sound as loud and as syllabic as speech, [S] int16 at SPEECH_HZ.

    It is noise from 100 to 1000 Hz: Opus keeps its waveform, and no stretch of it is like any other.
    """
    size = round(seconds * SPEECH_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=size))
    pitch_hz = np.fft.rfftfreq(size, 1 / SPEECH_HZ)
    spectrum[(pitch_hz < 100) | (pitch_hz > 1000)] = 0
    syllables = 0.65 + 0.35 * np.sin(2 * np.pi * 4 * np.arange(size) / SPEECH_HZ)
    voice = syllables * np.fft.irfft(spectrum, size)
    return np.asarray(9000 * voice / np.abs(voice).max()).astype(np.int16)


def find(sent: Int16, heard: Int16) -> Match:
    """Find `sent` in `heard`, both [S] int16 at SPEECH_HZ."""
    start = _lag(sent, heard)
    alike = []
    for at in range(0, len(sent) - SEGMENT + 1, SEGMENT):
        stretch = sent[at : at + SEGMENT]
        if np.abs(stretch.astype(np.int32)).max() > VOICED:
            place = max(0, start + at - SLACK)
            alike.append(_alike(stretch, heard[place : place + SEGMENT + 2 * SLACK]))
    around = heard[max(0, start - SPEECH_HZ) : start + len(sent) + SPEECH_HZ]
    return Match(start / SPEECH_HZ, _voiced_s(around), _voiced_s(sent), alike)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A live stream as it was heard: in order, with pauses where it ran dry.

    Attributes:
        alike: for each 0.1 s of what was sent, its correlation with what was heard.
        paused_s: how much later the last piece was heard than the first one's place says.
    """

    alike: list[float]
    paused_s: float

    @property
    def is_whole(self) -> bool:
        """Whether every piece was heard, in order."""
        return min(self.alike) > PIECE_ALIKE


def find_pieces(sent: Int16, heard: Int16) -> Pieces:
    """Follow `sent` through `heard`, both [S] int16 at SPEECH_HZ; pauses may lie between its pieces."""
    start = max(0, _lag(sent[:PIECE], heard))
    shift = 0
    alike = []
    for at in range(0, len(sent) - PIECE + 1, PIECE):
        piece = sent[at : at + PIECE].astype(float)
        place = max(0, start + at + shift - SLACK)
        correlation = _correlation(piece, heard[place : place + PIECE + MAX_PAUSE].astype(float))
        best = int(np.argmax(correlation)) if len(correlation) else 0
        alike.append(float(correlation[best]) if len(correlation) else 0.0)
        shift = max(shift, place + best - start - at)
    return Pieces(alike, shift / SPEECH_HZ)


def _lag(sent: Int16, heard: Int16) -> int:
    """Return where `sent` fits best, by cross-correlation."""
    size = 1 << (len(sent) + len(heard)).bit_length()
    spectrum = np.fft.rfft(heard.astype(float), size) * np.conj(np.fft.rfft(sent.astype(float), size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    return lag if lag < len(heard) else lag - size


def _alike(one: Int16, other: Int16) -> float:
    """Return the best correlation of `one` with a stretch of `other`."""
    return float(_correlation(one.astype(float), other.astype(float)).max(initial=0.0))


def _correlation(one: Float, other: Float) -> Float:
    """Return the correlation of `one` with the stretch of `other` that begins at each of its samples."""
    if len(other) < len(one):
        return np.zeros(0)
    energy = np.convolve(other * other, np.ones(len(one)), "valid")
    return np.correlate(other, one, "valid") / (np.linalg.norm(one) * np.sqrt(energy) + 1e-6)


def _voiced_s(sound: Int16) -> float:
    voiced = np.flatnonzero(np.abs(sound.astype(np.int32)) > VOICED)
    return 0.0 if not len(voiced) else float(voiced[-1] + 1 - voiced[0]) / SPEECH_HZ


def in_order(indices: Sequence[int]) -> bool:
    """Return whether frame indices never go back."""
    return all(a <= b for a, b in itertools.pairwise(indices))
