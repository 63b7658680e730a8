"""The things that travel between the parts of the server.

Plain frozen dataclasses with numpy arrays, cheap to send through Ray. No behaviour beyond arithmetic on
their own fields. Letters in shapes: T frames, S samples, L frames of a base loop.

I420 pictures are flat `uint8` rows of `w * h * 3 // 2` bytes: the Y plane (h x w), then U and V
(h/2 x w/2 each); w, h, x and y are even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

SPEECH_HZ = 16_000
"""Sample rate of what models hear."""

SOUND_HZ = 48_000
"""Sample rate of what listeners hear: Opus's RTP clock (RFC 7587)."""

PACKET_SAMPLES = 960
"""Samples of one sound packet: 20 ms at SOUND_HZ."""

PACKET_S = PACKET_SAMPLES / SOUND_HZ

CODEC_DELAY_SAMPLES = 312
"""How much later than its packet's timestamp Opus sound is heard: libopus looks 6.5 ms ahead."""

Int16: TypeAlias = npt.NDArray[np.int16]
UInt8: TypeAlias = npt.NDArray[np.uint8]


def speech_index(frame: int, fps: int) -> int:
    """Return the first sample at SPEECH_HZ of video frame `frame` of an utterance."""
    return frame * SPEECH_HZ // fps


@dataclass(frozen=True, slots=True)
class Window:
    """Speech for the model: the sound of some frames and the context around it.

    Attributes:
        session_id: the session that will show the clip.
        generation: turn counter of the session; bumped by an interrupt.
        utterance: counter of utterances within the session.
        avatar_id: whose face.
        first_frame: index of the first frame, counted from the utterance's start.
        num_frames: frames to make.
        base_frame: base loop frame (not reduced modulo L) under `first_frame`.
        speech: [S] int16 at SPEECH_HZ, S = left context + the frames' own samples + lookahead;
            zeros stand where the utterance has no sound.
        left_context: samples in `speech` before `first_frame`.
        is_last: whether the utterance ends with this window.
    """

    session_id: str
    generation: int
    utterance: int
    avatar_id: str
    first_frame: int
    num_frames: int
    base_frame: int
    speech: Int16
    left_context: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """All windows one caller has due for one model and one host."""

    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames made from one window: patches on the avatar's base loop.

    Attributes:
        session_id: as in the window.
        generation: as in the window.
        utterance: as in the window.
        first_frame: as in the window.
        base_frame: as in the window.
        x: left edge of the patch on the base frame, even.
        y: top edge, even.
        w: width, even.
        h: height, even.
        patches: [T, w * h * 3 // 2] uint8, I420; the base frame's own pixels are already blended in.
    """

    session_id: str
    generation: int
    utterance: int
    first_frame: int
    base_frame: int
    x: int
    y: int
    w: int
    h: int
    patches: UInt8

    @classmethod
    def of(cls, window: Window, place: tuple[int, int, int, int], patches: UInt8) -> Clip:
        """Return the clip of a window.

        Args:
            window: which one.
            place: x, y, w and h of the patches.
            patches: as the attribute.
        """
        return cls(
            window.session_id,
            window.generation,
            window.utterance,
            window.first_frame,
            window.base_frame,
            *place,
            patches=patches,
        )


AVATAR_PREPARING = "avatar_preparing"
"""Code of a ClipFailure that ends by itself: this replica gets the avatar ready; ask again in a moment."""


@dataclass(frozen=True, slots=True)
class ClipFailure:
    """Stands in a ClipBatch where a window could not be animated.

    Attributes:
        code: an AvatarError code.
        detail: what was expected and what was found.
    """

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """The answer to a WindowBatch: results[i] belongs to windows[i].

    Attributes:
        results: one for each window.
        step_s: seconds the model spent on the whole device batch.
        batch_windows: windows in that device batch, of all callers.
    """

    results: tuple[Clip | ClipFailure, ...]
    step_s: float
    batch_windows: int


@dataclass(frozen=True, slots=True)
class BaseLoop:
    """An avatar's idle motion, endless: frame n of a session shows frames[n % L].

    Attributes:
        avatar_id: whose.
        width: pixels, even.
        height: pixels, even.
        fps: frames per second.
        frames: [L, width * height * 3 // 2] uint8, I420.
    """

    avatar_id: str
    width: int
    height: int
    fps: int
    frames: UInt8


@dataclass(frozen=True, slots=True)
class Patch:
    """One picture rectangle to lay over a base frame; `pixels` is [w * h * 3 // 2] uint8, I420."""

    x: int
    y: int
    w: int
    h: int
    pixels: UInt8


@dataclass(frozen=True, slots=True)
class Picture:
    """What a session shows in one frame: a base loop frame, and a patch on it while speaking."""

    base_frame: int
    patch: Patch | None


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound of an utterance for listeners, in order.

    Attributes:
        session_id: the session that plays it.
        generation: turn counter of the session.
        utterance: counter of utterances within the session.
        first_sample: index of samples[0], counted from the utterance's start at SOUND_HZ.
        samples: [S] int16 mono at SOUND_HZ; may be empty when `is_last`.
        is_last: whether the utterance ends here.
        client_index: the number the client gave the utterance, echoed in events.
    """

    session_id: str
    generation: int
    utterance: int
    first_sample: int
    samples: Int16
    is_last: bool
    client_index: int


@dataclass(frozen=True, slots=True)
class Credit:
    """A host's answer to a delivery: how far a session is ahead of what it shows.

    Attributes:
        session_id: the session.
        generation: the session's present generation; older windows are dropped.
        ahead_frames: frames promised by windows and not shown yet.
        base_frame: base loop frame on show now.
        closed: the session is gone; send no more.
    """

    session_id: str
    generation: int
    ahead_frames: int
    base_frame: int
    closed: bool = False
