"""Latencies and synchrony as a client sees them, read off decoded pictures and sound.

The model `tracer` paints the frame's index and loudness into its pictures, so a speaking frame is told from
an idle one by its pixels. Times are taken at this client: when a message was handed to the socket, when a
picture had been decoded, when a sound packet had arrived.

    python -m tests.benchmarks.bench_latency --url ws://127.0.0.1:8765/webrtc --sync-s 60
    python -m tests.benchmarks.bench_latency --plain        # the baseline
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from serve_app.client.a2v import A2vClient, Inbox
from serve_app.client.received import VIDEO_HZ, Received, Receiver
from serve_app.heap import freeze_heap
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16, UInt8
from tests.benchmarks import plain_aiortc
from tests.benchmarks.report import Row, latency_rows, publish, spread

FPS = 30
VOICED = 1500
"""Peak above which sound counts as voiced: speech here peaks at 8000, Opus's tail of it decays below this."""

FRAME = SPEECH_HZ // FPS
LOUD_FRAMES, STILL_FRAMES = 9, 12
"""The pattern of the synchrony run: voice and silence in whole frames, 0.3 s and 0.4 s."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture says of itself.

    Attributes:
        index: frame of the utterance it shows, or -1 when the model does not say.
        is_loud: whether its share of the speech is voiced.
    """

    index: int
    is_loud: bool


Reader: TypeAlias = Callable[[UInt8], Reading | None]


def read_tracer(y_plane: UInt8) -> Reading | None:
    """Read a picture of the model `tracer`; None when nobody speaks."""
    from serve_app.models.tracer import read

    reading = read(y_plane)
    return None if reading is None else Reading(reading.frame_index, reading.loudness > 0.1)


def read_plain(y_plane: UInt8) -> Reading | None:
    """Read a picture of the baseline; None when nobody speaks."""
    return Reading(-1, is_loud=True) if plain_aiortc.is_speaking(y_plane) else None


@dataclass(frozen=True, slots=True)
class Picture:
    """A received picture."""

    timestamp: int
    arrived_s: float
    decoded_s: float
    reading: Reading | None


@dataclass(frozen=True, slots=True)
class Packet:
    """A received sound packet; `onset` and `offset` are its first and last voiced sample, -1 without one."""

    timestamp: int
    arrived_s: float
    onset: int
    offset: int


class Log:
    """Everything a client received, reduced to what is asked of it."""

    def __init__(self, reader: Reader) -> None:
        self.pictures: list[Picture] = []
        self.packets: list[Packet] = []
        self._reader = reader

    def video(self, received: Received) -> None:
        """Read a picture."""
        reading = self._reader(received.y_plane())
        self.pictures.append(Picture(received.timestamp, received.arrived_s, received.decoded_s, reading))

    def sound(self, received: Received) -> None:
        """Find the voice in a packet."""
        voiced = np.flatnonzero(np.abs(received.samples().astype(np.int32)) > VOICED)
        onset, offset = (int(voiced[0]), int(voiced[-1])) if len(voiced) else (-1, -1)
        self.packets.append(Packet(received.timestamp, received.arrived_s, onset, offset))

    def first_speaking_s(self, since_s: float) -> float | None:
        """Return when the first speaking picture after `since_s` had been decoded."""
        found = (p.decoded_s for p in self.pictures if p.decoded_s > since_s and p.reading is not None)
        return next(found, None)

    def last_speaking_s(self, since_s: float) -> float:
        """Return when the last speaking picture had been decoded, `since_s` when none came after it."""
        found = [p.decoded_s for p in self.pictures if p.decoded_s > since_s and p.reading is not None]
        return max(found, default=since_s)

    def last_voiced_s(self, since_s: float) -> float:
        """Return when the last voiced packet had arrived, `since_s` when none came after it."""
        return max(
            (p.arrived_s for p in self.packets if p.arrived_s > since_s and p.onset >= 0), default=since_s
        )

    def clear(self) -> None:
        """Forget what came so far."""
        self.pictures.clear()
        self.packets.clear()


def voice(seconds: float) -> Int16:
    """Return a buzz of a voice's harmonics, loud from its first sample, [S] int16 at SPEECH_HZ."""
    t = np.arange(round(seconds * SPEECH_HZ)) / SPEECH_HZ
    buzz = sum(np.sin(2 * np.pi * 200 * h * t + h) / h for h in range(1, 8))
    return np.asarray(8000 * buzz / np.abs(buzz).max()).astype(np.int16)


@contextlib.asynccontextmanager
async def session(url: str, reader: Reader) -> AsyncIterator[tuple[A2vClient, Receiver, Log]]:
    """Connect a client that logs."""
    log = Log(reader)
    receiver = Receiver(on_video=log.video, on_sound=log.sound)
    async with A2vClient(url, media=receiver) as client:
        yield client, receiver, log


async def until(inbox: Inbox, kind: str, timeout_s: float = 30.0) -> None:
    """Wait for an event of the door.

    Raises:
        DoorError: it reported an error.
        RuntimeError: the session ended.
    """

    async def wait() -> None:
        while (event := await inbox.get()) is not None:
            if event.type == "error":
                raise event.as_error()
            if event.type == kind:
                return
        raise RuntimeError(f"expected {kind}, found the session ended")

    await asyncio.wait_for(wait(), timeout_s)


async def first_frames(url: str, reader: Reader, number: int, *, live: bool) -> list[float]:
    """Measure from the first voiced sample's message to the first speaking picture of each utterance."""
    values_s = []
    async with session(url, reader) as (client, _, log):
        for _ in range(number):
            # Utterances begin anywhere between two frames, two packets and two ticks.
            await asyncio.sleep(0.5 + 0.2 * random.random())
            log.clear()
            with client.inbox() as inbox:
                if live:
                    spoken = await client.stream(voice(1.0), SPEECH_HZ, chunk_ms=20)
                else:
                    spoken = await client.speak(voice(1.0), SPEECH_HZ)
                await until(inbox, "generation.completed")
            first_s = log.first_speaking_s(spoken.sent_s[0])
            if first_s is None:
                raise RuntimeError("an utterance was completed, but no speaking picture came")
            values_s.append(first_s - spoken.sent_s[0])
    return values_s


async def interrupts(url: str, reader: Reader, number: int) -> tuple[list[float], list[float]]:
    """Measure from an interrupt to the last speaking picture and to the last voiced packet."""
    picture_s, sound_s = [], []
    async with session(url, reader) as (client, _, log):
        for _ in range(number):
            with client.inbox() as inbox:
                await client.speak(voice(6.0), SPEECH_HZ)
                await until(inbox, "generation.started")
                await asyncio.sleep(0.8 + 0.2 * random.random())
                log.clear()
                sent_s = await client.interrupt()
                await asyncio.sleep(0.7)
            picture_s.append(log.last_speaking_s(sent_s) - sent_s)
            sound_s.append(log.last_voiced_s(sent_s) - sent_s)
    return picture_s, sound_s


async def connects(url: str, reader: Reader, number: int) -> list[float]:
    """Measure from opening the socket to the first decoded picture; the first, cold one is left out."""
    values_s = []
    for _ in range(number + 1):
        async with session(url, reader) as (client, _, log):
            assert client.moments.opening_s is not None
            values_s.append(log.pictures[0].decoded_s - client.moments.opening_s)
        await asyncio.sleep(0.2)
    return values_s[1:]


@dataclass(frozen=True, slots=True)
class Synchrony:
    """Sound against picture over a run.

    Attributes:
        offsets_s: picture minus sound at each onset of voice; positive when the lips are late.
        drift_s: what the offsets' slope adds up to over the run.
        drift_error_s: standard error of that.
        by: "sender reports", or "arrival" when the server sent none.
        frames_share: pictures received, of those due.
        packets_share: sound packets received, of those due.
        repeated: speaking pictures that showed the frame before once more.
        skipped: speaking frames that were never shown.
        late: pictures that came more than 50 ms after the one before.
        worst_gap_s: the worst of those.
    """

    offsets_s: list[float]
    drift_s: float
    drift_error_s: float
    by: str
    frames_share: float
    packets_share: float
    repeated: int
    skipped: int
    late: int
    worst_gap_s: float


def pattern(seconds: float) -> Int16:
    """Return voice and silence in turns, each in whole frames."""
    loud = voice(LOUD_FRAMES / FPS)[: LOUD_FRAMES * FRAME]
    still = np.zeros(STILL_FRAMES * SPEECH_HZ // FPS, np.int16)
    beat = np.concatenate([np.pad(loud, (0, LOUD_FRAMES * SPEECH_HZ // FPS - len(loud))), still])
    return np.tile(beat, max(1, round(seconds * SPEECH_HZ / len(beat))))


def onsets_of_sound(packets: Sequence[Packet], place_s: Callable[[Packet], float | None]) -> list[float]:
    """Return when voice set in after at least 0.2 s of silence, on the sender's clock."""
    onsets: list[float] = []
    quiet_from = -SOUND_HZ
    for packet in packets:
        if packet.onset < 0:
            continue
        at_s = place_s(packet)
        if at_s is not None and packet.timestamp + packet.onset - quiet_from > 0.2 * SOUND_HZ:
            onsets.append(at_s + packet.onset / SOUND_HZ)
        quiet_from = packet.timestamp + packet.offset
    return onsets


def onsets_of_picture(pictures: Sequence[Picture], place_s: Callable[[Picture], float | None]) -> list[float]:
    """Return when pictures turned loud, on the sender's clock."""
    onsets: list[float] = []
    was_loud = False
    for picture in pictures:
        is_loud = picture.reading is not None and picture.reading.is_loud
        if is_loud and not was_loud and (at_s := place_s(picture)) is not None:
            onsets.append(at_s)
        was_loud = is_loud
    return onsets


def pair(sound_s: list[float], picture_s: list[float]) -> list[tuple[float, float]]:
    """Return each onset of sound with how much later the nearest picture's onset was, within 0.3 s."""
    pairs = []
    for at_s in sound_s:
        place = bisect.bisect(picture_s, at_s)
        near = min(picture_s[max(0, place - 1) : place + 1], key=lambda s: abs(s - at_s), default=None)
        if near is not None and abs(near - at_s) < 0.3:
            pairs.append((at_s, near - at_s))
    return pairs


def repeats_and_skips(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Count frames of utterances that were shown twice and that were not shown."""
    indices = [p.reading.index for p in pictures if p.reading is not None and p.reading.index >= 0]
    steps = np.diff(indices)
    return int((steps == 0).sum()), int((steps[steps > 1] - 1).sum())


def drift(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return what the slope of the offsets adds up to over their span, and its standard error, in seconds."""
    if len(pairs) < 4:
        return float("nan"), float("nan")
    at_s, offsets_s = np.array(pairs).T
    (slope, _), covariance = np.polyfit(at_s - at_s.mean(), offsets_s, 1, cov=True)
    span_s = float(at_s[-1] - at_s[0])
    return float(slope) * span_s, float(np.sqrt(covariance[0, 0])) * span_s


def synchrony(receiver: Receiver, log: Log) -> Synchrony:
    """Evaluate a run."""
    assert receiver.video is not None
    assert receiver.sound is not None
    video_clock, sound_clock = receiver.video.clock, receiver.sound.clock
    reported = min(video_clock.reports, sound_clock.reports) > 0
    sound_s = onsets_of_sound(
        log.packets, lambda p: sound_clock.sent_s(p.timestamp) if reported else p.arrived_s
    )
    picture_s = onsets_of_picture(
        log.pictures, lambda p: video_clock.sent_s(p.timestamp) if reported else p.arrived_s
    )
    pairs = pair(sound_s, picture_s)
    drift_s, drift_error_s = drift(pairs)
    gaps_s = np.diff([p.arrived_s for p in log.pictures])
    repeated, skipped = repeats_and_skips(log.pictures)
    video_due = (log.pictures[-1].timestamp - log.pictures[0].timestamp) / VIDEO_HZ * FPS + 1
    sound_due = (log.packets[-1].timestamp - log.packets[0].timestamp) / 960 + 1
    return Synchrony(
        offsets_s=[offset for _, offset in pairs],
        drift_s=drift_s,
        drift_error_s=drift_error_s,
        by="sender reports" if reported else "arrival",
        frames_share=len(log.pictures) / video_due,
        packets_share=len(log.packets) / sound_due,
        repeated=repeated,
        skipped=skipped,
        late=int((gaps_s > 0.05).sum()),
        worst_gap_s=float(gaps_s.max()),
    )


async def run_synchrony(url: str, reader: Reader, seconds: float) -> Synchrony:
    """Stream the pattern live and compare what comes back."""
    async with session(url, reader) as (client, receiver, log):
        # Sender reports come about once a second; the mapping needs some.
        await asyncio.sleep(3.0)
        log.clear()
        with client.inbox() as inbox:
            await client.stream(pattern(seconds), SPEECH_HZ, chunk_ms=20)
            await until(inbox, "generation.completed")
        return synchrony(receiver, log)


def synchrony_rows(found: Synchrony, seconds: float) -> list[Row]:
    """Return the rows of a synchrony run."""
    absolute_s = [abs(offset) for offset in found.offsets_s]
    _, p95_ms, worst_ms = spread(absolute_s)
    mean_ms = float(np.mean(found.offsets_s)) * 1000 if found.offsets_s else float("nan")
    note = f"mean {mean_ms:+.1f}, worst {worst_ms:.1f}, by {found.by}, {len(absolute_s)} onsets"
    drift_note = f"standard error {found.drift_error_s * 1000:.1f} ms"
    loss_note = (
        f"{found.repeated} repeated, {found.skipped} skipped, {found.late} gaps above 50 ms "
        f"(worst {found.worst_gap_s * 1000:.0f} ms); packets {found.packets_share:.1%}"
    )
    return [
        Row("sound against picture, p95", p95_ms, "ms", 20.0, note=note),
        Row(f"drift over {seconds:g} s", abs(found.drift_s) * 1000, "ms", 20.0, note=drift_note),
        Row("pictures received", found.frames_share * 100, "%", 98.0, at_least=True, note=loss_note),
    ]


async def bench(url: str, reader: Reader, number: int, sync_s: float) -> list[Row]:
    """Make all measurements."""
    began_s = time.monotonic()
    rows = latency_rows("socket open → first frame decoded, warm", await connects(url, reader, number), 200)
    live_s = await first_frames(url, reader, number, live=True)
    rows += latency_rows("live sound: voiced sample sent → first speaking frame", live_s, 180)
    whole_s = await first_frames(url, reader, number, live=False)
    rows += latency_rows("whole utterance: sent → first speaking frame", whole_s, 80)
    picture_s, sound_s = await interrupts(url, reader, number)
    rows += latency_rows("interrupt → last speaking frame", picture_s, 80)
    rows += latency_rows("interrupt → last voiced sound", sound_s, 80)
    if sync_s:
        rows += synchrony_rows(await run_synchrony(url, reader, sync_s), sync_s)
    print(f"measured in {time.monotonic() - began_s:.0f} s")
    return rows


async def bench_plain(number: int, sync_s: float) -> list[Row]:
    """Make all measurements against the baseline, in this process."""
    door = plain_aiortc.PlainDoor()
    url = await door.start()
    try:
        return await bench(url, read_plain, number, sync_s)
    finally:
        await door.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="ws://127.0.0.1:8765/webrtc")
    parser.add_argument("--plain", action="store_true", help="measure plain aiortc instead of the server")
    parser.add_argument("--number", type=int, default=20, help="utterances, interrupts and connects")
    parser.add_argument(
        "--sync-s", type=float, default=60.0, help="length of the synchrony run; 0 leaves it out"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    freeze_heap()
    if options.plain:
        rows = asyncio.run(bench_plain(options.number, options.sync_s))
    else:
        url = f"{options.url}?model=tracer"
        rows = asyncio.run(bench(url, read_tracer, options.number, options.sync_s))
    publish(rows, options.json)


if __name__ == "__main__":
    main()
