"""Received media: RTP to decoded frames, each with its arrival time and its place on the sender's clock.

aiortc's own receivers hand a picture over when the next one begins (33 ms late) and sound four packets late,
and they hide RTP timestamps and sender reports. `Lane` stands in for their jitter buffers, so that what is
measured is the server. Only `Lane.install` touches aiortc's internals.
"""

from __future__ import annotations

import asyncio
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from aiortc import RTCPeerConnection, RTCRtpReceiver
from aiortc.codecs import get_decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket

from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, Int16, UInt8

VIDEO_HZ = 90_000
"""RTP clock rate of video (RFC 6184, section 8.2.1)."""

MAX_HELD_VIDEO = 96
"""Packets held while a lost one is fetched again: about half a second at 1.5 Mb/s."""

MAX_HELD_SOUND = 3
"""Sound is not retransmitted, so only reordering is waited for: 60 ms."""


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One access unit or one Opus packet.

    Attributes:
        timestamp: RTP timestamp, unwrapped beyond 32 bits.
        data: the payloads in order, without RTP.
        arrived_s: monotonic time its last packet came in.
    """

    timestamp: int
    data: bytes
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Received:
    """One decoded frame.

    Attributes:
        kind: "video" or "audio".
        timestamp: RTP timestamp, unwrapped, at VIDEO_HZ or SOUND_HZ.
        arrived_s: monotonic time its last packet came in.
        decoded_s: monotonic time it was decoded.
        frame: av.VideoFrame or av.AudioFrame.
    """

    kind: str
    timestamp: int
    arrived_s: float
    decoded_s: float
    frame: av.VideoFrame | av.AudioFrame

    def y_plane(self) -> UInt8:
        """Return a picture's luma, [height, width] uint8, sharing the frame's memory."""
        plane = self.frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: self.frame.height, : self.frame.width]

    def samples(self) -> Int16:
        """Return a sound's left channel, [S] int16 at SOUND_HZ."""
        array = self.frame.to_ndarray()  # packed: [1, S * channels]; planar: [channels, S]
        channels = len(self.frame.layout.channels)
        left: Int16 = array[0, ::channels] if self.frame.format.is_packed else array[0]
        return left


Sink = Callable[[Received], None]


class Media(Protocol):
    """What a client does with the packets of its peer."""

    video_seen: asyncio.Event

    def attach(self, peer: RTCPeerConnection) -> None:
        """Take over the receivers of an RTCPeerConnection that has its answer and no media yet."""
        ...

    def close(self) -> None:
        """Let go of threads and decoders."""
        ...


class Unwrapper:
    """Extends wrapping counters of `bits` bits to integers that keep growing (RFC 3550, appendix A.1)."""

    def __init__(self, bits: int) -> None:
        self._modulus = 1 << bits
        self._last: int | None = None

    def unwrap(self, value: int) -> int:
        """Return the integer congruent to `value` that is nearest to the one before."""
        if self._last is None:
            self._last = value
        half = self._modulus // 2
        near = self._last + (value - self._last + half) % self._modulus - half
        self._last = max(self._last, near)
        return near


@dataclass(frozen=True, slots=True)
class _Part:
    timestamp: int
    marker: bool
    data: bytes


class FrameAssembler:
    """Puts packets in order and gives out each frame as soon as its last packet is there.

    Args:
        max_held: packets held behind a gap before the gap is given up.
        packet_is_frame: whether each packet is a whole frame (Opus); otherwise the marker bit ends a
            frame (RFC 6184, section 5.1; RFC 7741, section 4.1).

    Attributes:
        lost: packets given up.
    """

    def __init__(self, *, max_held: int, packet_is_frame: bool) -> None:
        self._max_held = max_held
        self._packet_is_frame = packet_is_frame
        self._sequence = Unwrapper(16)
        self._timestamp = Unwrapper(32)
        self._next: int | None = None
        self._held: dict[int, _Part] = {}
        self._parts: list[_Part] = []
        self._skipping = False
        self.lost = 0

    def add(
        self, *, sequence: int, timestamp: int, marker: bool, data: bytes, now_s: float
    ) -> list[EncodedFrame]:
        """Take one packet; return the frames it completes, in order."""
        number = self._sequence.unwrap(sequence)
        if self._next is None:
            self._next = number
        if number < self._next:
            return []
        self._held[number] = _Part(self._timestamp.unwrap(timestamp), marker, data)
        if len(self._held) > self._max_held:
            self._give_up_gap(self._next)
        frames: list[EncodedFrame] = []
        while (part := self._held.pop(self._next, None)) is not None:
            self._next += 1
            self._take(part, frames, now_s)
        return frames

    def _give_up_gap(self, expected: int) -> None:
        first = min(self._held)
        self.lost += first - expected
        self._next = first
        self._parts.clear()
        # The packet behind the gap may stand in the middle of a frame.
        self._skipping = not self._packet_is_frame and first > expected

    def _take(self, part: _Part, frames: list[EncodedFrame], now_s: float) -> None:
        if self._skipping:
            self._skipping = not part.marker
            return
        if self._parts and self._parts[0].timestamp != part.timestamp:
            self._emit(frames, now_s)
        self._parts.append(part)
        if part.marker or self._packet_is_frame:
            self._emit(frames, now_s)

    def _emit(self, frames: list[EncodedFrame], now_s: float) -> None:
        data = b"".join(part.data for part in self._parts)
        if data:
            frames.append(EncodedFrame(self._parts[0].timestamp, data, now_s))
        self._parts.clear()


class RtpClock:
    """Maps RTP timestamps to the sender's wall clock by its sender reports (RFC 3550, section 6.4.1).

    The two clocks of a sender may be compared with each other, and with nothing else.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._offsets_s: deque[float] = deque(maxlen=31)
        self._unwrapper = Unwrapper(32)
        self._seen = False

    @property
    def reports(self) -> int:
        """How many sender reports the mapping rests on."""
        return len(self._offsets_s)

    def see(self, timestamp: int) -> None:
        """Follow the media's unwrapped timestamps, so that reports land in the same 32-bit cycle."""
        self._seen = True
        self._unwrapper.unwrap(timestamp)

    def report(self, ntp: int, timestamp: int) -> None:
        """Take a sender report: 64-bit NTP time and the 32-bit RTP timestamp of the same moment.

        Reports before the first media cannot be placed in a cycle and are left out.
        """
        if not self._seen:
            return
        self._offsets_s.append(ntp / 2**32 - self._unwrapper.unwrap(timestamp) / self._rate_hz)

    def sent_s(self, timestamp: int) -> float | None:
        """Return when `timestamp` (unwrapped) was due, in seconds of the sender's NTP clock; None if unknown.

        The median of recent reports is used: a single one is as late as the packet it was taken from.
        """
        if not self._offsets_s:
            return None
        return statistics.median(self._offsets_s) + timestamp / self._rate_hz


class Lane:
    """One kind of media of one peer: packets in, decoded frames out, in order, on one thread of its own.

    Attributes:
        clock: timestamps to the sender's time.
        assembler: packets to frames; knows the losses.
        packets: packets received.
        frames: frames decoded.
        undecodable: frames the decoder refused.
        first: timestamp and arrival time of the first frame; None before it.
    """

    def __init__(self, kind: str, loop: asyncio.AbstractEventLoop, sink: Sink) -> None:
        video = kind == "video"
        self.kind = kind
        self.clock = RtpClock(VIDEO_HZ if video else SOUND_HZ)
        self.assembler = FrameAssembler(
            max_held=MAX_HELD_VIDEO if video else MAX_HELD_SOUND, packet_is_frame=not video
        )
        self.packets = 0
        self.frames = 0
        self.undecodable = 0
        self.first: tuple[int, float] | None = None
        self._loop = loop
        self._sink = sink
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{kind}-decoder")
        self._codecs: dict[int, RTCRtpCodecParameters] = {}
        self._decoder: Any = None
        self._decoder_name = ""
        self._needs_keyframe = False
        self._is_closed = False

    def install(self, receiver: RTCRtpReceiver, codecs: list[RTCRtpCodecParameters]) -> None:
        """Stand in for the jitter buffer of an RTCRtpReceiver and listen to its sender reports.

        aiortc calls `add` with every packet that is decrypted, un-RTXed and stripped of its payload header;
        reports of loss, NACK and REMB stay with aiortc. Its decoder thread gets nothing to do.
        """
        self._codecs = {codec.payloadType: codec for codec in codecs}
        # aiortc 1.16 has no public hook here; pyproject.toml pins that series.
        receiver._RTCRtpReceiver__jitter_buffer = self  # noqa: SLF001
        rtcp = receiver._handle_rtcp_packet  # noqa: SLF001

        async def heard(packet: AnyRtcpPacket) -> None:
            if isinstance(packet, RtcpSrPacket):
                self.clock.report(packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
            await rtcp(packet)

        receiver._handle_rtcp_packet = heard  # noqa: SLF001
        start = receiver.receive

        async def receive(parameters: RTCRtpReceiveParameters) -> None:
            # aiortc starts receivers of a peer that is closed while it connects, each with a thread that
            # nothing ends and that Python waits for at its exit.
            if not self._is_closed:
                await start(parameters)

        receiver.receive = receive

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take a packet from aiortc.

        Returns:
            Whether a keyframe must be asked for, and None: aiortc has nothing to decode.
        """
        if self._is_closed:
            return False, None
        self.packets += 1
        lost = self.assembler.lost
        frames = self.assembler.add(
            sequence=packet.sequence_number,
            timestamp=packet.timestamp,
            marker=bool(packet.marker),
            data=packet._data,  # noqa: SLF001
            now_s=time.monotonic(),
        )
        for frame in frames:
            self.clock.see(frame.timestamp)
            if self.first is None:
                self.first = (frame.timestamp, frame.arrived_s)
            self._executor.submit(self._decode, self._codecs[packet.payload_type], frame)
        ask = self.kind == "video" and (self._needs_keyframe or self.assembler.lost > lost)
        self._needs_keyframe = False
        return ask, None

    def _decode(self, codec: RTCRtpCodecParameters, encoded: EncodedFrame) -> None:
        if codec.name != self._decoder_name:
            self._decoder, self._decoder_name = get_decoder(codec), codec.name
        try:
            frames = self._decoder.decode(JitterFrame(data=encoded.data, timestamp=encoded.timestamp))
        except av.FFmpegError:
            self.undecodable += 1
            self._needs_keyframe = True
            return
        decoded_s = time.monotonic()
        for frame in frames:
            received = Received(self.kind, frame.pts, encoded.arrived_s, decoded_s, frame)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._deliver, received)

    def _deliver(self, received: Received) -> None:
        self.frames += 1
        self._sink(received)

    def close(self) -> None:
        """Stop decoding; frames not yet decoded are dropped. Comes before the peer's own end."""
        self._is_closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


class Receiver:
    """Decodes what a peer sends and hands it to sinks on the event loop.

    Attributes:
        video: the picture's lane, None before `attach`.
        sound: the sound's lane, None before `attach`.
        video_seen: set once a picture has been decoded.
    """

    def __init__(self, *, on_video: Sink | None = None, on_sound: Sink | None = None) -> None:
        self.video: Lane | None = None
        self.sound: Lane | None = None
        self.video_seen = asyncio.Event()
        self.on_video = on_video
        self.on_sound = on_sound

    def attach(self, peer: RTCPeerConnection) -> None:
        """Take over the receivers of an RTCPeerConnection that has its answer and no media yet."""
        self.close()
        loop = asyncio.get_running_loop()
        for transceiver in peer.getTransceivers():
            lane = Lane(transceiver.kind, loop, self._video if transceiver.kind == "video" else self._sound)
            lane.install(transceiver.receiver, transceiver._codecs)  # noqa: SLF001
            if transceiver.kind == "video":
                self.video = lane
            else:
                self.sound = lane

    def _video(self, received: Received) -> None:
        self.video_seen.set()
        if self.on_video is not None:
            self.on_video(received)

    def _sound(self, received: Received) -> None:
        if self.on_sound is not None:
            self.on_sound(received)

    def sound_lag_s(self) -> float:
        """Return how much later the first sound was due than the first picture, in seconds.

        By the sender's reports where both kinds have one, by arrival otherwise; 0 without media.
        """
        if self.video is None or self.sound is None or self.video.first is None or self.sound.first is None:
            return 0.0
        picture_s = self.video.clock.sent_s(self.video.first[0])
        sound_s = self.sound.clock.sent_s(self.sound.first[0])
        if picture_s is None or sound_s is None:
            return self.sound.first[1] - self.video.first[1]
        return sound_s - picture_s

    def close(self) -> None:
        """Let go of threads and decoders."""
        for lane in (self.video, self.sound):
            if lane is not None:
                lane.close()


class Mp4Writer:
    """Writes received frames to an MP4 with H.264 and AAC, each frame at its RTP time.

    Frames are encoded as they come, on a thread; the encoded packets wait in memory (about 150 kB/s) until
    `finish`, because how far apart the two kinds of RTP timestamps lie is known only after sender reports.

    Args:
        path: the file; replaced when it exists.
    """

    def __init__(self, path: Path) -> None:
        self._queue: queue.SimpleQueue[Received | None] = queue.SimpleQueue()
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._video: Any = None
        self._sound: Any = None
        self._first_picture = 0
        self._last_picture = -1
        self._next_sample: int | None = None
        self._resampled = 0
        self._resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SOUND_HZ, frame_size=1024)
        self._packets: list[tuple[str, Any]] = []
        self._failure: av.FFmpegError | None = None
        self._thread = threading.Thread(target=self._work, name="mp4-writer", daemon=True)
        self._thread.start()

    def write(self, received: Received) -> None:
        """Take a decoded picture or sound; returns at once."""
        self._queue.put(received)

    def finish(self, sound_lag_s: float) -> None:
        """Write the file.

        Args:
            sound_lag_s: how much later the first sound plays than the first picture (`Receiver.sound_lag_s`).

        Raises:
            av.FFmpegError: encoding or writing failed.
            ValueError: nothing was received.
        """
        self._queue.put(None)
        self._thread.join()
        try:
            if self._failure is not None:
                raise self._failure
            if not self._packets:
                raise ValueError("expected at least one received frame to write, got none")
            self._mux(sound_lag_s)
        finally:
            self._container.close()

    def _work(self) -> None:
        try:
            while (received := self._queue.get()) is not None:
                self._encode_picture(received) if received.kind == "video" else self._encode_sound(received)
            for kind, stream in (("video", self._video), ("audio", self._sound)):
                if stream is not None:
                    if kind == "audio":
                        self._encode_resampled(None)
                    self._keep(kind, stream.encode(None))
        except av.FFmpegError as error:
            self._failure = error

    def _encode_picture(self, received: Received) -> None:
        frame = received.frame
        if self._video is None:
            self._video = self._container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
            self._video.width, self._video.height, self._video.pix_fmt = frame.width, frame.height, "yuv420p"
            self._video.codec_context.time_base = Fraction(1, VIDEO_HZ)
            self._first_picture = received.timestamp
        pts = received.timestamp - self._first_picture
        if pts <= self._last_picture:
            return
        self._last_picture = pts
        frame = frame.reformat(width=self._video.width, height=self._video.height, format="yuv420p")
        frame.pts, frame.time_base, frame.pict_type = pts, Fraction(1, VIDEO_HZ), 0
        self._keep("video", self._video.encode(frame))

    def _encode_sound(self, received: Received) -> None:
        if self._sound is None:
            self._sound = self._container.add_stream("aac", rate=SOUND_HZ, layout="stereo")
            self._next_sample = received.timestamp
        assert self._next_sample is not None
        # A lost packet leaves silence of its length; an encoder takes only gapless sound.
        while self._next_sample + PACKET_SAMPLES <= received.timestamp:
            self._encode_resampled(_silence())
            self._next_sample += PACKET_SAMPLES
        received.frame.pts = None
        self._encode_resampled(received.frame)
        self._next_sample += received.frame.samples

    def _encode_resampled(self, frame: av.AudioFrame | None) -> None:
        for part in self._resampler.resample(frame):
            part.pts, part.time_base = self._resampled, Fraction(1, SOUND_HZ)
            self._resampled += part.samples
            self._keep("audio", self._sound.encode(part))

    def _keep(self, kind: str, packets: list[Any]) -> None:
        self._packets.extend((kind, packet) for packet in packets)

    def _mux(self, sound_lag_s: float) -> None:
        shift_s = {"video": max(0.0, -sound_lag_s), "audio": max(0.0, sound_lag_s)}
        for kind, packet in self._packets:
            shift = round(shift_s[kind] / packet.time_base)
            packet.pts += shift
            packet.dts += shift
        for _, packet in sorted(self._packets, key=lambda item: item[1].dts * item[1].time_base):
            self._container.mux(packet)


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, 2 * PACKET_SAMPLES), np.int16), format="s16", layout="stereo"
    )
    frame.sample_rate = SOUND_HZ
    return frame
