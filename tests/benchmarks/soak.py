"""Many kinds of sessions for minutes or hours against one server of its own: nothing may grow or drift apart.

Five sessions run at once. One streams voice and silence to `tracer` and compares its picture with its sound;
one is idle and one speaks on `portrait`; one interrupts itself; one, in a process of its own, comes and goes,
and loses its socket every second time. Memory, descriptors and threads of the server are compared between the
second and the last quarter of the run: the first one pays for what all sessions share.

Prints a table; exits with 1 when a figure is beyond its bound.

    python -m tests.benchmarks.soak --minutes 3
    python -m tests.benchmarks.soak --minutes 480 --json soak.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from serve_app.client.a2v import A2vClient
from serve_app.heap import freeze_heap
from serve_app.nouns import SPEECH_HZ
from tests.benchmarks.bench_latency import (
    drift,
    onsets_of_picture,
    onsets_of_sound,
    pair,
    pattern,
    read_tracer,
    repeats_and_skips,
    session,
    until,
)
from tests.benchmarks.bench_sessions import kind_of
from tests.benchmarks.load import FPS, CountingMedia, say, speak_on, speech_or_tone
from tests.benchmarks.report import Row, publish, spread
from tests.server import ROOT, Server, running
from tests.stalls import own_stalls

BENCH = ROOT / "configs" / "bench.yaml"
SAMPLE = ROOT / "serve_app" / "gateway" / "web" / "sample.wav"

SEGMENT_S = 15.0
"""Length of one utterance of the synchrony session; between two of them its log is emptied."""

SAMPLE_EVERY_S = 5.0
SETTLE_S = 3.0

GROWTH_SHARE = 0.02
GROWTH_BYTES = 12 * 2**20
"""What memory may grow besides 2 %: allocators keep a few arenas that a short run has not yet touched."""

GROWTH_COUNT = 8
"""What descriptors and threads may grow besides 2 %: the sessions that come and go do so at any moment."""

DRIFT_S = 0.02
"""What sound and picture may drift apart over a run, beyond twice the standard error."""

FRAMES_SHARE = 0.97
OWN_STALLS = 0.05
"""Share of time that this client may run late; beyond it packets are lost here, and pictures not judged."""

LEAST_ONSETS = 8
"""Onsets of voice below which a slope says nothing."""


@dataclass
class Synced:
    """What the synchrony session has found.

    Attributes:
        pairs: when each onset of voice was sent, and how much later its picture was, in seconds.
        pictures: received.
        repeated: speaking pictures that showed the frame before once more.
        skipped: speaking frames that were never shown.
    """

    pairs: list[tuple[float, float]] = field(default_factory=list)
    pictures: int = 0
    repeated: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment."""

    at_s: float
    own_bytes: dict[str, int]
    num_fds: int
    num_threads: int

    @property
    def all_bytes(self) -> int:
        """Memory of all processes."""
        return sum(self.own_bytes.values())


def sample(server: Server) -> Sample:
    """Read memory, descriptors and threads of a server's processes that serve, without stopping them."""
    own_bytes: dict[str, int] = {}
    num_fds = num_threads = 0
    for title in ("SessionHost", "ServeReplica", "ProxyActor", "SessionRegistry"):
        for process in server.workers(title):
            with contextlib.suppress(psutil.Error):
                # A worker's title changes with what it does.
                kind = title if title != "ServeReplica" else kind_of(process)
                memory = process.memory_info()
                # Shared memory is Ray's object store, which every process maps by and by.
                own_bytes[kind] = own_bytes.get(kind, 0) + memory.rss - memory.shared
                num_fds += process.num_fds()
                num_threads += process.num_threads()
    return Sample(time.monotonic(), own_bytes, num_fds, num_threads)


async def compare(url: str, synced: Synced) -> None:
    """Stream voice and silence without end and pair the onsets of what comes back."""
    async with session(url, read_tracer) as (client, receiver, log):
        # Sender reports come about once a second; the mapping needs some.
        await asyncio.sleep(SETTLE_S)
        assert receiver.video is not None
        assert receiver.sound is not None
        pictures, sounds = receiver.video.clock, receiver.sound.clock
        while True:
            log.clear()
            with client.inbox() as inbox:
                await client.stream(pattern(SEGMENT_S), SPEECH_HZ, chunk_ms=40)
                await until(inbox, "generation.completed")
            sound_s = onsets_of_sound(log.packets, lambda packet: sounds.sent_s(packet.timestamp))
            picture_s = onsets_of_picture(log.pictures, lambda picture: pictures.sent_s(picture.timestamp))
            synced.pairs += pair(sound_s, picture_s)
            synced.pictures += len(log.pictures)
            repeated, skipped = repeats_and_skips(log.pictures)
            synced.repeated += repeated
            synced.skipped += skipped


async def hold(url: str, media: CountingMedia, *, speaks: bool) -> None:
    """Hold one session, idle or speaking."""
    async with A2vClient(url, media=media, timeout_s=30) as client:
        if speaks:
            await speak_on(client, speech_or_tone(SAMPLE), 0, whole=True)
        await asyncio.Event().wait()


async def interrupt(url: str, media: CountingMedia, counts: dict[str, int]) -> None:
    """Speak and interrupt, over and over, in one session."""
    speech = speech_or_tone(None)[: 6 * SPEECH_HZ]
    async with A2vClient(url, media=media, timeout_s=30) as client:
        while True:
            await client.speak(speech, SPEECH_HZ)
            await asyncio.sleep(1.5)
            await client.interrupt()
            counts["interrupted"] += 1
            await asyncio.sleep(0.5)


async def reconnect(url: str) -> None:
    """Connect, speak and leave; every second time lose the socket first and take the session over.

    Says "resumed" and "left" as it goes, for the parent to count.
    """
    speech = speech_or_tone(None)[: 2 * SPEECH_HZ]
    for number in itertools.count():
        async with A2vClient(url, media=CountingMedia(), timeout_s=30) as client:
            await client.speak(speech, SPEECH_HZ)
            await asyncio.sleep(0.5)
            if number % 2:
                assert client._socket is not None
                with client.inbox() as inbox:
                    client._socket.transport.abort()
                    await until(inbox, "connection.established")
                say("resumed")
            await asyncio.sleep(0.5)
        say("left")
        await asyncio.sleep(0.5)


async def count_reconnects(url: str, counts: dict[str, int]) -> None:
    """Run `reconnect` in a process of its own, whose handshakes hold up nobody who measures.

    Raises:
        RuntimeError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.soak", "--reconnect", url), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            counts[json.loads(line)["event"]] += 1
        raise RuntimeError(f"expected reconnects without end, found them ended ({await process.wait()})")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def watch(server: Server, until_s: float, samples: list[Sample]) -> None:
    """Sample the server and tell how it is, until `until_s`."""
    told_s = 0.0
    while time.monotonic() < until_s:
        samples.append(await asyncio.to_thread(sample, server))
        now = samples[-1]
        if now.at_s - told_s > 60:
            told_s = now.at_s
            left_min = (until_s - now.at_s) / 60
            kinds = ", ".join(f"{kind} {size / 2**20:.0f}" for kind, size in sorted(now.own_bytes.items()))
            print(
                f"{left_min:6.1f} min left: {now.all_bytes / 2**20:.0f} MB ({kinds}), "
                f"{now.num_fds} descriptors, {now.num_threads} threads",
                flush=True,
            )
        await asyncio.sleep(min(SAMPLE_EVERY_S, max(0.1, until_s - time.monotonic())))


def counters(server: Server) -> dict[str, float]:
    """Return what the server has counted."""
    names = ("late_frames", "repeated_frames", "bare_frames", "speaking_frames", "sound_underruns")
    return {name: server.metric(f"ray_avatar_{name}_total") for name in names}


def growth(values: Sequence[float]) -> tuple[float, float]:
    """Return the median of the second quarter, and how far that of the last one is above it."""
    quarter = max(1, len(values) // 4)
    before, after = np.median(values[quarter : 2 * quarter]), np.median(values[-quarter:])
    return float(before), float(after - before)


def slope_per_hour(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of values over time, by least squares, without their first quarter."""
    first = len(at_s) // 4
    if len(at_s) - first < 3:
        return float("nan")
    times_s = np.asarray(at_s[first:]) - at_s[first]
    return float(np.polyfit(times_s, values[first:], 1)[0]) * 3600


def growth_rows(samples: Sequence[Sample]) -> list[Row]:
    """Return what grew in the server, each with its bound."""
    at_s = [one.at_s for one in samples]
    memory = [float(one.all_bytes) for one in samples]
    before, grown = growth(memory)
    bound = before * GROWTH_SHARE + GROWTH_BYTES
    kinds = ", ".join(
        f"{kind} {slope_per_hour(at_s, [one.own_bytes.get(kind, 0) for one in samples]) / 2**20:+.0f}"
        for kind in sorted(samples[-1].own_bytes)
    )
    rows = [
        Row(
            "memory grown",
            grown / 2**20,
            "MB",
            bound / 2**20,
            note=f"resident and not shared, of {before / 2**20:.0f} MB",
        ),
        Row("memory slope", slope_per_hour(at_s, memory) / 2**20, "MB/h", note=kinds),
    ]
    for what, values in (
        ("descriptors", [float(one.num_fds) for one in samples]),
        ("threads", [float(one.num_threads) for one in samples]),
    ):
        before, grown = growth(values)
        rows.append(
            Row(f"{what} grown", grown, "", before * GROWTH_SHARE + GROWTH_COUNT, note=f"of {before:.0f}")
        )
    return rows


def synchrony_rows(synced: Synced) -> list[Row]:
    """Return how sound and picture kept together."""
    offsets_s = [abs(offset_s) for _, offset_s in synced.pairs]
    _, p95_ms, worst_ms = spread(offsets_s)
    drift_s, error_s = drift(synced.pairs)
    span_s = synced.pairs[-1][0] - synced.pairs[0][0] if synced.pairs else float("nan")
    per_hour = 3600 / span_s if span_s else float("nan")
    surely_s = float(np.maximum(0.0, abs(drift_s) - 2 * error_s))
    note = f"slope {drift_s * 1000 * per_hour:+.1f} ± {2 * error_s * 1000 * per_hour:.1f} ms/h"
    return [
        Row(
            "sound against picture, p95", p95_ms, "ms", note=f"worst {worst_ms:.1f}, {len(offsets_s)} onsets"
        ),
        Row("onsets compared", len(offsets_s), "", LEAST_ONSETS, at_least=True),
        Row("drift of sound against picture", surely_s * 1000, "ms", DRIFT_S * 1000, note=note),
        Row(
            "speaking frames repeated",
            synced.repeated,
            "",
            note=f"{synced.skipped} skipped, of {synced.pictures} pictures",
        ),
    ]


def media_rows(medias: dict[str, CountingMedia], elapsed_s: float, own_stalls_s: float) -> list[Row]:
    """Return how evenly pictures and sound came, and for how long this client itself stood still."""
    late_share = own_stalls_s / elapsed_s
    target = FRAMES_SHARE * 100 if late_share <= OWN_STALLS else None
    rows = [Row("time this client ran late", late_share * 100, "%")]
    for name, media in medias.items():
        video, sound = media.video, media.sound
        share = video.frames / (elapsed_s * FPS)
        note = (
            f"{video.late_gaps} of {video.frames} gaps above 60 ms; sound {sound.worst_gap_s * 1000:.0f} ms"
        )
        rows.append(Row(f"pictures, {name}", share * 100, "%", target, at_least=True))
        rows.append(Row(f"worst gap, {name}", video.worst_gap_s * 1000, "ms", note=note))
    return rows


async def soak(server: Server, seconds: float) -> list[Row]:
    """Hold all sessions for `seconds` and return what was found.

    Raises:
        ExceptionGroup: a session failed.
    """
    traced, drawn = server.url(), server.url(model="portrait")
    synced, samples = Synced(), list[Sample]()
    counts = {"left": 0, "resumed": 0, "interrupted": 0}
    medias = {name: CountingMedia() for name in ("idle", "speaking", "interrupting")}
    work: list[Coroutine[Any, Any, None]] = [
        compare(traced, synced),
        hold(drawn, medias["idle"], speaks=False),
        hold(drawn, medias["speaking"], speaks=True),
        interrupt(traced, medias["interrupting"], counts),
        count_reconnects(traced, counts),
    ]
    async with own_stalls() as stalls, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        await asyncio.sleep(2 * SETTLE_S)
        for media in medias.values():
            media.video.restart()
            media.sound.restart()
        before = await asyncio.to_thread(counters, server)
        began_s = time.monotonic()
        await watch(server, began_s + seconds, samples)
        elapsed_s = time.monotonic() - began_s
        rows = media_rows(medias, elapsed_s, stalls.within(began_s, began_s + elapsed_s))
        after = await asyncio.to_thread(counters, server)
        for task in tasks:
            task.cancel()
    counted = {name: after[name] - before[name] for name in after}
    rows = [*synchrony_rows(synced), *rows, *growth_rows(samples)]
    speaking = f"of {counted['speaking_frames']:.0f} speaking frames of all sessions"
    rows += [
        Row(name.replace("_", " "), counted[name], "", note=speaking)
        for name in ("late_frames", "repeated_frames", "bare_frames", "sound_underruns")
    ]
    for name, number in counts.items():
        rows.append(Row(f"times {name}", number, "", 1, at_least=True))
    return rows


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=3.0)
    length.add_argument("--hours", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--reconnect", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reconnect is not None:
        asyncio.run(reconnect(options.reconnect))
    freeze_heap()
    minutes = options.minutes if options.hours is None else options.hours * 60
    with running(config=BENCH) as server:
        try:
            rows = asyncio.run(soak(server, minutes * 60))
        except Exception:
            print(server.last_words(), file=sys.stderr)
            raise
    publish(rows, options.json)
    beyond = [row.what for row in rows if row.is_met is False]
    if beyond:
        sys.exit(f"beyond its bound: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
