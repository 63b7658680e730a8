"""What the transport costs: sessions in one server process, receivers that only count in this one.

Speaking sessions change the mouth in every frame and play a voice; idle ones show the base loop and silence.
`plain` is aiortc as it comes: frames and samples from tracks, encoded by its own encoders in its own loop.
No model, no Ray, no signalling beyond one offer each.

    python -m tests.benchmarks.bench_transport --sessions 1,4,8,16 --seconds 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import psutil
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from serve_app.clock import MonotonicClock
from serve_app.config import EncoderConfig, IceConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ, Int16, Picture
from serve_app.rtc.encoder import SILENCE, H264Encoder, OpusEncoder
from serve_app.rtc.peer import Peer
from serve_app.rtc.picture import PictureStream
from tests.unit.rtc.portrait import base_loop, compose, speaking

FPS = 30
LOOP_FRAMES = 150
OPUS_PAYLOAD_TYPE = 96
MB = 1 << 20

KINDS = ("speaking", "idle", "plain")


def voice() -> Int16:
    """Return [50, PACKET_SAMPLES] int16: a second of something that Opus takes for a voice."""
    time_s = np.arange(SOUND_HZ) / SOUND_HZ
    pitch = 120 + 20 * np.sin(2 * np.pi * 2 * time_s)
    buzz = sum(np.sin(2 * np.pi * n * np.cumsum(pitch) / SOUND_HZ) / n for n in range(1, 20))
    loud = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)
    return (4000 * buzz * loud).astype(np.int16).reshape(50, PACKET_SAMPLES)


# --- the server process ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What all sessions of the server show and play."""

    config: EncoderConfig
    idle: list[Picture]
    speaking: list[Picture]
    voice: Int16
    encoded: EncodedLoop
    executor: ThreadPoolExecutor
    loop: Any


def material(preset: str) -> Material:
    """Draw the pictures once; sessions start at different places of them."""
    config = EncoderConfig.model_validate({"preset": preset})
    loop = base_loop(LOOP_FRAMES)
    encoder = H264Encoder(loop.width, loop.height, loop.fps, config)
    return Material(
        config,
        [Picture(n, None) for n in range(LOOP_FRAMES)],
        [speaking(loop, n) for n in range(LOOP_FRAMES)],
        voice(),
        EncodedLoop(loop, encoder.encode, config.gop_s),
        ThreadPoolExecutor(config.threads),
        loop,
    )


class Source:
    """A session as the host's tracks see it."""

    def __init__(self, shared: Material, *, speaks: bool) -> None:
        self._shared = shared
        self._pictures = shared.speaking if speaks else shared.idle
        self._stream = PictureStream(shared.loop, shared.encoded, shared.config, shared.executor)
        self._opus = OpusEncoder() if speaks else None

    def sound_packet(self, index: int) -> bytes:
        return SILENCE if self._opus is None else self._opus.encode(self._shared.voice[index % 50])

    async def picture_packet(self, index: int) -> bytes | None:
        return await self._stream.encode(self._pictures[index % LOOP_FRAMES])

    def picture_frame(self, index: int) -> av.VideoFrame:
        return self._stream.frame(self._pictures[index % LOOP_FRAMES])

    def request_keyframe(self) -> None:
        self._stream.request_keyframe()

    def set_target_bitrate(self, bps: int) -> None:
        self._stream.target_bitrate_bps = bps


class PlainPicture(MediaStreamTrack):
    """Composed frames for aiortc's own encoder."""

    kind = "video"

    def __init__(self, shared: Material) -> None:
        super().__init__()
        self._shared = shared
        self._start_s = time.monotonic()
        self._next = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(self._start_s + self._next / FPS - time.monotonic())
        loop = self._shared.loop
        picture = compose(loop, self._shared.speaking[self._next % LOOP_FRAMES])
        frame = av.VideoFrame.from_ndarray(picture.reshape(-1, loop.width), format="yuv420p")
        frame.pts, frame.time_base = self._next, Fraction(1, FPS)
        self._next += 1
        return frame


class PlainSound(MediaStreamTrack):
    """Samples for aiortc's own encoder."""

    kind = "audio"

    def __init__(self, shared: Material) -> None:
        super().__init__()
        self._shared = shared
        self._start_s = time.monotonic()
        self._next = 0

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(self._start_s + self._next * PACKET_S - time.monotonic())
        samples = self._shared.voice[self._next % 50][None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, self._next * PACKET_SAMPLES
        frame.time_base = Fraction(1, SOUND_HZ)
        self._next += 1
        return frame


async def answer_plain(shared: Material, offer: str, keep: list[Any]) -> str:
    """Answer with aiortc as it comes; H.264, as the server under test sends it."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    keep.append(pc)
    pc.addTrack(PlainPicture(shared))
    pc.addTrack(PlainSound(shared))
    await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    return str(pc.localDescription.sdp)


async def answer_peer(shared: Material, offer: str, keep: list[Any], *, speaks: bool) -> str:
    """Answer with a Peer of the server."""
    clock = MonotonicClock()
    # As in life, sessions are not in phase.
    start_s = clock.now_s() - 0.0137 * len(keep)
    peer = Peer(Source(shared, speaks=speaks), clock, start_s, FPS, IceConfig(loopback=True), lambda _: None)
    keep.append(peer)
    return await peer.answer(offer)


async def serve(preset: str) -> None:
    """Answer offers and report CPU time and memory, one JSON line for one JSON line."""
    shared = material(preset)
    keep: list[Any] = []
    process = psutil.Process()
    lines = asyncio.StreamReader(limit=1 << 20)
    transport = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: transport, sys.stdin)
    reply({"ready": True})
    while line := await lines.readline():
        request = json.loads(line)
        if request["do"] == "answer":
            if request["kind"] == "plain":
                sdp = await answer_plain(shared, request["sdp"], keep)
            else:
                sdp = await answer_peer(shared, request["sdp"], keep, speaks=request["kind"] == "speaking")
            reply({"sdp": sdp})
        else:
            times = process.cpu_times()
            reply({"cpu_s": times.user + times.system, "rss": process.memory_info().rss})


def reply(message: dict[str, Any]) -> None:
    """Write one line to whoever started this process."""
    print(json.dumps(message), flush=True)


# --- the receiving process ------------------------------------------------------------------------


@dataclass
class Receiver:
    """One client that decrypts and counts, and decodes nothing."""

    pc: RTCPeerConnection
    counting: bool = False
    frames: int = 0
    sounds: int = 0
    arrivals_s: list[float] = field(default_factory=list)

    async def take(self, data: bytes, arrival_time_ms: int) -> None:
        """Count an RTP packet: a frame ends with the marker bit (RFC 6184)."""
        if not self.counting:
            return
        marker_and_type, _ = struct.unpack_from("!BH", data, 1)
        if marker_and_type & 0x7F == OPUS_PAYLOAD_TYPE:
            self.sounds += 1
        elif marker_and_type & 0x80:
            self.frames += 1
            self.arrivals_s.append(time.monotonic())


class Server:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, core: int | None, preset: str) -> Server:
        """Start the server, on one core of its own where the machine has more than one."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.bench_transport", "--serve", "--preset", preset,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
        )  # fmt: skip
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        server = cls(process)
        await server.read()
        return server

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return await self.read()

    async def read(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        return dict(json.loads(await self._process.stdout.readline()))

    async def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        await self._process.wait()


async def receive(server: Server, kind: str) -> Receiver:
    """Connect one receiver."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connected = asyncio.Event()

    @pc.on("connectionstatechange")
    def note() -> None:
        if pc.connectionState == "connected":
            connected.set()

    for media in ("audio", "video"):
        pc.addTransceiver(media, direction="recvonly")
    video = pc.getTransceivers()[1]
    capabilities = type(video.sender).getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in capabilities if codec.mimeType == "video/H264"])
    await pc.setLocalDescription(await pc.createOffer())
    answer = await server.ask(do="answer", kind=kind, sdp=pc.localDescription.sdp)
    await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
    receiver = Receiver(pc)
    video.receiver.transport._handle_rtp_data = receiver.take
    await asyncio.wait_for(connected.wait(), 30)
    return receiver


@dataclass(frozen=True)
class Row:
    """What one run found; `cores` and `frames`, `sounds` (shares of what was due) are of the window."""

    kind: str
    sessions: int
    cores: float
    frames: float
    sounds: float
    worst_gap_s: float
    rss: int

    @property
    def per_core(self) -> float:
        """Sessions that one core could carry at the cost of the frames that arrived."""
        return self.sessions * min(1.0, self.frames) / self.cores


async def measure(kind: str, sessions: int, seconds: float, core: int | None, preset: str) -> Row:
    """Run one server with so many sessions and count for a while."""
    server = await Server.start(core, preset)
    receivers = [await receive(server, kind) for _ in range(sessions)]
    await asyncio.sleep(4)  # long enough for idle sessions to enter the shared loop
    before = await server.ask(do="usage")
    start_s = time.monotonic()
    for receiver in receivers:
        receiver.counting = True
    await asyncio.sleep(seconds)
    for receiver in receivers:
        receiver.counting = False
    elapsed_s = time.monotonic() - start_s
    after = await server.ask(do="usage")
    for receiver in receivers:
        await receiver.pc.close()
    await server.stop()
    gaps_s = [b - a for receiver in receivers for a, b in pairwise(receiver.arrivals_s)]
    return Row(
        kind,
        sessions,
        (after["cpu_s"] - before["cpu_s"]) / elapsed_s,
        statistics.mean(receiver.frames for receiver in receivers) / (elapsed_s * FPS),
        statistics.mean(receiver.sounds for receiver in receivers) / (elapsed_s / PACKET_S),
        max(gaps_s, default=float("inf")),
        after["rss"],
    )


def describe(rows: list[Row]) -> str:
    """Return the table, with the ratio to plain aiortc at the same number of sessions."""
    lines = [
        "| kind | sessions | cores | each | sessions/core | frames | sound | worst gap | RSS | vs plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {row.sessions: row for row in rows if row.kind == "plain"}
    for row in rows:
        base = plain.get(row.sessions)
        ratio = "-" if base is None else f"{row.per_core / base.per_core:.1f}x"
        lines.append(
            f"| {row.kind} | {row.sessions} | {row.cores:.2f} | {row.cores / row.sessions:.4f} | "
            f"{row.per_core:.1f} | {100 * row.frames:.1f} % | {100 * row.sounds:.1f} % | "
            f"{1000 * row.worst_gap_s:.0f} ms | {row.rss / MB:.0f} MB | {ratio} |"
        )
    for kind in KINDS:
        own = sorted((row for row in rows if row.kind == kind), key=lambda row: row.sessions)
        if len(own) > 1:
            growth = (own[-1].rss - own[0].rss) / (own[-1].sessions - own[0].sessions)
            lines.append(f"\n{kind}: {growth / MB:.1f} MB for each further session")
    return "\n".join(lines)


async def run(
    kinds: list[str], counts: list[int], seconds: float, preset: str, log: Callable[[str], None]
) -> list[Row]:
    """Measure every kind at every count, one server after the other."""
    cores = sorted(os.sched_getaffinity(0))
    server_core = cores[0] if len(cores) > 1 else None
    if server_core is not None:
        os.sched_setaffinity(0, set(cores[1:]))
    rows = []
    for count in counts:
        for kind in kinds:
            rows.append(await measure(kind, count, seconds, server_core, preset))
            log(describe(rows[-1:]).splitlines()[2])
    return rows


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sessions", default="1,4,8,16", help="numbers of sessions, comma-separated")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--preset", default=EncoderConfig().preset, help="x264 preset of the server")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.preset))
        return
    counts = [int(count) for count in arguments.sessions.split(",")]
    kinds = arguments.kinds.split(",")
    rows = asyncio.run(
        run(kinds, counts, arguments.seconds, arguments.preset, lambda line: print(line, file=sys.stderr))
    )
    print(describe(rows))


if __name__ == "__main__":
    main()
