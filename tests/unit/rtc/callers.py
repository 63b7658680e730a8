"""Plain aiortc clients that talk to a Peer: a microphone, a data channel, packets made by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.rtp import RtpPacket

from serve_app.clock import MonotonicClock
from serve_app.config import IceConfig
from serve_app.nouns import Int16
from serve_app.rtc.encoder import SILENCE, OpusEncoder
from serve_app.rtc.peer import Peer, PeerState

FPS = 30


class Gray:
    """Shows a gray picture and plays silence, at no cost: what is tested is the other direction."""

    def sound_packet(self, index: int) -> bytes:
        return SILENCE

    async def picture_packet(self, index: int) -> bytes | None:
        return None

    def picture_frame(self, index: int) -> av.VideoFrame:
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        return frame

    def request_keyframe(self) -> None:
        return

    def set_target_bitrate(self, bps: int) -> None:
        return


class Heard:
    """Keeps everything a client sends, and when it came."""

    def __init__(self) -> None:
        self.parts: list[Int16] = []
        self.times: list[float] = []
        self.rates: set[int] = set()
        self.happened: list[str] = []
        self.messages: list[str] = []
        self.fails = False

    @property
    def sound_so_far(self) -> Int16:
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.int16)

    def sound(self, samples: Int16, hz: int) -> None:
        self.times.append(time.perf_counter())
        self.parts.append(samples)
        self.rates.add(hz)
        if self.fails:
            raise RuntimeError("the listener fell over")

    def channel_opened(self) -> None:
        self.happened.append("opened")

    def channel_message(self, text: str) -> None:
        self.happened.append("message")
        self.messages.append(text)
        if self.fails:
            raise RuntimeError("the listener fell over")

    def channel_closed(self) -> None:
        self.happened.append("closed")


class ToneTrack(MediaStreamTrack):
    """A microphone in front of a tone, one packet of 20 ms every 20 ms."""

    kind = "audio"

    def __init__(self, hz: float, layout: str = "mono") -> None:
        super().__init__()
        self.hz = hz
        self.layout = layout
        self._index = 0
        self._start_s = time.monotonic()

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(max(0.0, self._start_s + self._index * 0.02 - time.monotonic()))
        mono = tone(self.hz, self._index * 960, 960)
        frame = av.AudioFrame(format="s16", layout=self.layout, samples=960)
        if self.layout == "stereo":
            # Left only: mixed down it has half the amplitude, and neither side is lost.
            mono = np.stack([mono, np.zeros_like(mono)], axis=1).reshape(-1)
        frame.planes[0].update(np.ascontiguousarray(mono))
        frame.sample_rate = 48_000
        frame.pts = self._index * 960
        self._index += 1
        return frame


def tone(hz: float, start: int, count: int, amplitude: float = 12_000) -> Int16:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(start, start + count) / 48_000)).astype(np.int16)


def tone_packets(hz: float, count: int) -> list[bytes]:
    encoder = OpusEncoder()
    return [encoder.encode(tone(hz, n * 960, 960)) for n in range(count)]


def pitch_hz(samples: Int16) -> float:
    """Return the loudest frequency of a sound at 48 kHz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 48_000 / len(samples))


async def until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        await asyncio.sleep(0.005)


New = Callable[..., "Caller"]


@asynccontextmanager
async def hung_up() -> AsyncIterator[New]:
    """Yield a function that makes a caller; all hang up at the end."""
    callers: list[Caller] = []

    def make(**options: Any) -> Caller:
        callers.append(Caller(**options))
        return callers[-1]

    yield make
    for caller in callers:
        await caller.close()


class Caller:
    """A client, the peer it talks to, and what either side got."""

    def __init__(self, *, inbound: bool = True, ice: IceConfig | None = None, source: Any = None) -> None:
        # Not aiortc's default, with which several lines of a kind lose their transport.
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_COMPAT))
        self.heard = Heard()
        self.states: list[PeerState] = []
        self.received: list[str] = []
        self.channel: RTCDataChannel | None = None
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.pc.on("track", self._on_track)
        clock = MonotonicClock()
        self.peer = Peer(
            source or Gray(),
            clock,
            clock.now_s(),
            FPS,
            ice or IceConfig(),
            self.states.append,
            inbound=self.heard if inbound else None,
        )

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.tracks[track.kind] = track

    def open_channel(self, label: str = "oai-events", **options: Any) -> RTCDataChannel:
        channel = self.pc.createDataChannel(label, **options)
        if self.channel is None:
            self.channel = channel
            channel.on("message", self.received.append)
        return channel

    async def call_with_channel(self, microphone: MediaStreamTrack | None = None) -> RTCDataChannel:
        """Call, and wait until both sides have the data channel open; returns the client's."""
        self.pc.addTransceiver(microphone or "audio")
        channel = self.open_channel()
        await self.call()
        await until(lambda: channel.readyState == "open" and self.heard.happened == ["opened"])
        return channel

    async def call(self, edit: Callable[[str], str] = lambda sdp: sdp, **options: Any) -> str:
        """Offer, take the answer, and wait for the connection; returns the answer."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        answer = await self.peer.answer(edit(self.pc.localDescription.sdp), **options)
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await self.connected()
        return answer

    async def connected(self) -> None:
        await until(lambda: self.states[-1].name == "connected" and self.pc.connectionState == "connected")

    async def send_rtp(self, payload: bytes, sequence: int, timestamp: int, ssrc: int = 7) -> None:
        """Send a packet of the microphone, made by hand."""
        audio = next(t for t in self.pc.getTransceivers() if t.kind == "audio")
        packet = RtpPacket(
            payload_type=audio._codecs[0].payloadType,
            sequence_number=sequence & 0xFFFF,
            timestamp=timestamp & 0xFFFFFFFF,
            ssrc=ssrc,
            payload=payload,
        )
        await audio.sender.transport._send_rtp(packet.serialize())

    async def close(self) -> None:
        await self.peer.close()
        await self.pc.close()
