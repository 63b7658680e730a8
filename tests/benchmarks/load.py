"""Many cheap clients in one process: they count frames and packets and decode nothing.

A client costs its server's machine as little as it can: packets are decrypted by aiortc, then only their RTP
headers are read. Without a jitter buffer there is no REMB, so the server stays at its starting bitrate.

Prints JSON lines: {"event": "ready"}, {"event": "begin"}, then {"event": "end", …} with the counts between.

    python -m tests.benchmarks.load --url 'ws://127.0.0.1:8765/webrtc?model=portrait' --clients 4 --speaking
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from aiortc import RTCPeerConnection

from serve_app.client.a2v import A2vClient
from serve_app.client.speech_file import read_speech
from serve_app.errors import AvatarError
from serve_app.heap import freeze_heap
from serve_app.nouns import PACKET_S, SPEECH_HZ, Int16

FPS = 30
SETTLE_S = 2.0
CHUNK_MS = 100
LATE_GAP_S = 0.06


@dataclass(slots=True)
class Count:
    """One kind of media: what came, and the worst wait between two frames."""

    frames: int = 0
    bytes: int = 0
    last_s: float = 0.0
    worst_gap_s: float = 0.0
    late_gaps: int = 0

    def add(self, now_s: float) -> None:
        """Count a frame that is complete at `now_s`."""
        self.frames += 1
        if self.last_s:
            gap_s = now_s - self.last_s
            self.worst_gap_s = max(self.worst_gap_s, gap_s)
            self.late_gaps += gap_s > LATE_GAP_S
        self.last_s = now_s

    def restart(self) -> None:
        """Begin counting anew, keeping the time of the last frame."""
        self.frames = self.bytes = self.late_gaps = 0
        self.worst_gap_s = 0.0


@dataclass
class CountingMedia:
    """Stands in for a `Receiver`: reads 12 bytes of each packet (RFC 3550, section 5.1)."""

    video: Count = field(default_factory=Count)
    sound: Count = field(default_factory=Count)
    video_seen: asyncio.Event = field(default_factory=asyncio.Event)

    def attach(self, peer: RTCPeerConnection) -> None:
        """Take the packets of a peer's transport before aiortc parses them."""
        counts = {
            codec.payloadType: self.video if transceiver.kind == "video" else self.sound
            for transceiver in peer.getTransceivers()
            for codec in transceiver._codecs
            if not codec.name.lower().startswith("rtx")
        }

        async def count(data: bytes, arrival_time_ms: int) -> None:
            _, marked = struct.unpack_from("!BB", data)
            counted = counts.get(marked & 0x7F)
            if counted is None:
                return
            counted.bytes += len(data)
            if counted is self.sound:
                counted.add(time.monotonic())
            elif marked & 0x80:
                counted.add(time.monotonic())
                self.video_seen.set()

        for transceiver in peer.getTransceivers():
            transceiver.receiver.transport._handle_rtp_data = count

    def close(self) -> None:
        """Nothing is held."""


def speech_or_tone(path: Path | None) -> Int16:
    """Return 16 kHz speech: a file's, or syllables of a buzzing voice, 4 per second."""
    if path is not None:
        samples, hz = read_speech(path)
        at = np.arange(0, len(samples) * SPEECH_HZ // hz) * hz / SPEECH_HZ
        return np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
    t = np.arange(20 * SPEECH_HZ) / SPEECH_HZ
    voice = sum(np.sin(2 * np.pi * 120 * h * t) / h for h in range(1, 12))
    return (3000 * voice * np.clip(np.sin(2 * np.pi * 4 * t), 0, 1)).astype(np.int16)


async def speak_on(client: A2vClient, speech: Int16, offset: int, *, whole: bool) -> None:
    """Speak without end, one utterance after the other: each at once as a TTS does, or live in chunks."""
    speech = np.roll(speech, -offset)
    if whole:
        await client.speak(speech, SPEECH_HZ)
    while True:
        began_s = time.monotonic()
        if whole:
            await client.speak(speech, SPEECH_HZ)
        else:
            await client.stream(speech, SPEECH_HZ, chunk_ms=CHUNK_MS)
        await asyncio.sleep(max(0.0, began_s + len(speech) / SPEECH_HZ - time.monotonic()))


@contextlib.asynccontextmanager
async def connected(url: str, number: int) -> AsyncIterator[list[tuple[A2vClient, CountingMedia]]]:
    """Open sessions one after the other."""
    async with contextlib.AsyncExitStack() as stack:
        sessions: list[tuple[A2vClient, CountingMedia]] = []
        for _ in range(number):
            media = CountingMedia()
            client = await stack.enter_async_context(A2vClient(url, media=media, timeout_s=30))
            sessions.append((client, media))
        yield sessions


def say(event: str, **values: object) -> None:
    """Print a JSON line for the parent."""
    print(json.dumps({"event": event, **values}), flush=True)


async def measure(
    url: str, number: int, seconds: float, speech: Int16 | None, *, whole: bool = False
) -> None:
    """Hold sessions and count what comes for `seconds`."""
    async with connected(url, number) as sessions:
        tasks = [
            asyncio.create_task(speak_on(client, speech, i * SPEECH_HZ, whole=whole))
            for i, (client, _) in enumerate(sessions)
            if speech is not None
        ]
        say("ready")
        await asyncio.sleep(SETTLE_S)
        for _, media in sessions:
            media.video.restart()
            media.sound.restart()
        say("begin")
        began_s, cpu_s = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        elapsed_s = time.monotonic() - began_s
        failed = [repr(task.exception()) for task in tasks if task.done() and not task.cancelled()]
        say("end", failed=failed, **summary([media for _, media in sessions], elapsed_s, cpu_s))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def summary(medias: list[CountingMedia], elapsed_s: float, cpu_began_s: float) -> dict[str, object]:
    """Return the counts of all sessions in shares of what was due."""
    frames = [media.video.frames / (elapsed_s * FPS) for media in medias]
    packets = [media.sound.frames * PACKET_S / elapsed_s for media in medias]
    return {
        "elapsed_s": elapsed_s,
        "frames_share": min(frames),
        "frames_share_mean": float(np.mean(frames)),
        "packets_share": min(packets),
        "worst_gap_s": max(media.video.worst_gap_s for media in medias),
        "worst_sound_gap_s": max(media.sound.worst_gap_s for media in medias),
        "late_gaps": sum(media.video.late_gaps for media in medias),
        "bits_per_s": 8 * sum(media.video.bytes for media in medias) / elapsed_s / len(medias),
        "load_cores": (time.process_time() - cpu_began_s) / elapsed_s,
    }


async def churn(url: str, seconds: float, speech: Int16) -> None:
    """Connect, speak, interrupt and leave, over and over: what neighbours must not feel."""
    say("ready")
    say("begin")
    until_s = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until_s:
        async with connected(url, 1) as [(client, _)]:
            await client.speak(speech[: 4 * SPEECH_HZ], SPEECH_HZ)
            await asyncio.sleep(0.5)
            await client.interrupt()
            await asyncio.sleep(0.2)
        rounds += 1
    say("end", rounds=rounds)


def main() -> None:
    """Run one load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--speaking", action="store_true")
    parser.add_argument("--whole", action="store_true", help="send whole utterances, as a TTS does")
    parser.add_argument("--churn", action="store_true")
    parser.add_argument("--speech", type=Path)
    options = parser.parse_args()
    freeze_heap()
    speech = speech_or_tone(options.speech)
    work = (
        churn(options.url, options.seconds, speech)
        if options.churn
        else measure(
            options.url,
            options.clients,
            options.seconds,
            speech if options.speaking else None,
            whole=options.whole,
        )
    )
    try:
        asyncio.run(work)
    except AvatarError as error:
        say("failed", error=str(error))


if __name__ == "__main__":
    main()
