"""H.264 and Opus as the hosts make them: libx264 and libopus through PyAV, tuned for one live listener.

Encoding a picture releases the GIL, so it belongs on a worker thread; a sound packet takes a fifth of a
millisecond and may be encoded where it is needed.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType

from serve_app.config import EncoderConfig
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, Int16, Patch, UInt8

SILENCE = b"\xf8\xff\xfe"
"""One Opus packet of 20 ms mono silence: TOC 0xF8 is CELT, full band, one frame (RFC 6716, section 3.1)."""

VBV_S = 0.25
"""Depth of the rate buffer: no keyframe is larger than about this much of the stream."""

VBV_TOLERANCE = 1.5
"""How far the bitrate may be from the one that the rate buffer was made for before a keyframe renews it."""

OPUS_BITRATE_BPS = 40_000
"""Full-band mono speech; libopus makes hybrid packets of about 100 bytes from it."""

OPUS_COMPLEXITY = 5
"""0.16 ms a packet instead of 0.21 at libopus's default of 10."""


class I420Frame:
    """A picture buffer that FFmpeg can read, with writable views of its planes.

    Attributes:
        frame: the av.VideoFrame, yuv420p.
        planes: Y [h, w], U and V [h / 2, w / 2], uint8; rows are padded to FFmpeg's alignment.
    """

    def __init__(self, width: int, height: int) -> None:
        self.frame = av.VideoFrame(width, height, "yuv420p")
        self.width = width
        self.height = height
        views = []
        for plane in self.frame.planes:
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            views.append(rows[: plane.height, : plane.width])
        self.planes: tuple[UInt8, UInt8, UInt8] = (views[0], views[1], views[2])

    def fill(self, i420: UInt8) -> None:
        """Copy a whole picture in.

        Args:
            i420: [width * height * 3 // 2] uint8, I420.
        """
        self._copy(i420, 0, 0, self.width, self.height)

    def paste(self, patch: Patch) -> None:
        """Lay a patch over the picture."""
        self._copy(patch.pixels, patch.x, patch.y, patch.w, patch.h)

    def _copy(self, i420: UInt8, x: int, y: int, w: int, h: int) -> None:
        if i420.shape != (w * h * 3 // 2,):
            raise ValueError(f"expected [{w * h * 3 // 2}] bytes of I420 for {w}x{h}, got {i420.shape}")
        start = 0
        for plane, shift in zip(self.planes, (0, 1, 1), strict=True):
            rows, columns = h >> shift, w >> shift
            part = i420[start : start + rows * columns].reshape(rows, columns)
            plane[y >> shift : (y >> shift) + rows, x >> shift : (x >> shift) + columns] = part
            start += rows * columns


class H264Encoder:
    """One H.264 stream: Baseline, level 3.1, no delay, parameter sets in front of every IDR picture.

    The bitrate can be set at any time. libx264 follows a lower or higher target only in a stream that was
    opened at its highest rate as CBR (x264's ratecontrol keeps an ABR target for good), so it is opened at
    `max_bitrate_bps` and turned down before the first picture. Its rate buffer keeps the depth it was opened
    with: a keyframe that comes after the bitrate has changed much begins a new stream, or on a link that
    became narrow it would be as large as on a wide one.

    Args:
        width: pixels, even.
        height: pixels, even.
        fps: frames per second.
        config: preset and bitrates.
    """

    def __init__(self, width: int, height: int, fps: int, config: EncoderConfig) -> None:
        self.picture = I420Frame(width, height)
        self._config = config
        self._fps = fps
        self._open(config.start_bitrate_bps)

    def _open(self, bitrate_bps: int) -> None:
        width, height, fps, config = self.picture.width, self.picture.height, self._fps, self._config
        self._next_pts = 0
        self._buffer_bits = self._fitting_buffer_bits(bitrate_bps)
        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width = width
        self._codec.height = height
        self._codec.pix_fmt = "yuv420p"
        self._codec.framerate = Fraction(fps)
        self._codec.time_base = Fraction(1, fps)
        self._codec.bit_rate = config.max_bitrate_bps
        self._codec.gop_size = 1 << 20  # keyframes come when asked for, never by themselves
        self._codec.thread_count = 1
        self._codec.profile = "Baseline"
        self._codec.options = {
            "preset": config.preset,
            "tune": "zerolatency",
            "level": "31",
            "forced-idr": "1",
            "sc_threshold": "0",
            # Adaptive quantization costs a tenth of the time; on portraits at 0.25 to 1 Mbit/s the PSNR
            # without it is within 0.3 dB, and the worst picture is better.
            "aq-mode": "0",
            "maxrate": str(config.max_bitrate_bps),
            "bufsize": str(self._buffer_bits),
        }
        self._codec.open()
        self.bitrate_bps = bitrate_bps

    def _fitting_buffer_bits(self, bitrate_bps: int) -> int:
        # libx264 takes no buffer that is smaller than a frame at the highest rate.
        return max(int(bitrate_bps * VBV_S), self._config.max_bitrate_bps // self._fps)

    @property
    def bitrate_bps(self) -> int:
        """Target in bits per second; setting it clamps to the configured range and keeps the stream."""
        return self._bitrate_bps

    @bitrate_bps.setter
    def bitrate_bps(self, bps: int) -> None:
        self._bitrate_bps = min(max(bps, self._config.min_bitrate_bps), self._config.max_bitrate_bps)
        self._codec.bit_rate = self._bitrate_bps

    def encode(self, i420: UInt8, *, keyframe: bool) -> bytes:
        """Encode a whole picture.

        Args:
            i420: [width * height * 3 // 2] uint8, I420.
            keyframe: whether this must be an IDR picture.

        Returns:
            One access unit as an Annex B byte stream (ITU-T H.264).
        """
        self.picture.fill(i420)
        return self.encode_picture(keyframe=keyframe)

    def encode_picture(self, *, keyframe: bool) -> bytes:
        """Encode what was drawn into `picture`; returns one access unit as an Annex B byte stream."""
        if keyframe and self._next_pts > 0:
            wanted = self._fitting_buffer_bits(self._bitrate_bps)
            if not 1 / VBV_TOLERANCE <= wanted / self._buffer_bits <= VBV_TOLERANCE:
                self._open(self._bitrate_bps)
        frame = self.picture.frame
        frame.pts = self._next_pts
        frame.pict_type = PictureType.I if keyframe or self._next_pts == 0 else PictureType.NONE
        self._next_pts += 1
        packets = self._codec.encode(frame)
        return bytes(packets[0]) if len(packets) == 1 else b"".join(bytes(packet) for packet in packets)


class OpusEncoder:
    """One Opus stream of 20 ms packets, mono at SOUND_HZ."""

    def __init__(self) -> None:
        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate = SOUND_HZ
        self._codec.layout = "mono"
        self._codec.format = "s16"
        self._codec.time_base = Fraction(1, SOUND_HZ)
        self._codec.bit_rate = OPUS_BITRATE_BPS
        self._codec.options = {
            "application": "voip",
            "frame_duration": "20",
            "compression_level": str(OPUS_COMPLEXITY),
        }
        self._frame = av.AudioFrame(format="s16", layout="mono", samples=PACKET_SAMPLES)
        self._frame.sample_rate = SOUND_HZ
        self._next_pts = 0

    def encode(self, samples: Int16) -> bytes:
        """Encode 20 ms.

        Args:
            samples: [PACKET_SAMPLES] int16 mono at SOUND_HZ.

        Returns:
            One Opus packet.
        """
        if samples.shape != (PACKET_SAMPLES,):
            raise ValueError(f"expected [{PACKET_SAMPLES}] samples, got {samples.shape}")
        self._frame.planes[0].update(np.ascontiguousarray(samples, np.int16))
        self._frame.pts = self._next_pts
        self._next_pts += PACKET_SAMPLES
        return b"".join(bytes(packet) for packet in self._codec.encode(self._frame))
