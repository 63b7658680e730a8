"""Renders speech from a file into a video file: the server's models and windows, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from serve_app.avatars.store import AvatarStore
from serve_app.errors import InvalidAudio, ModelError
from serve_app.media.i420 import overlaid
from serve_app.media.pcm import Resampler, decode_wav
from serve_app.media.windower import Windower, WindowGrid
from serve_app.models.base import Model
from serve_app.models.registry import load_model
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, BaseLoop, Clip, Int16, Patch, UInt8, Window

WINDOW_FRAMES = 12
PAUSE_S = 0.3
"""Shown before and after the speech."""

SOUND_FRAME = 1024
"""Samples of an AAC frame (ISO/IEC 14496-3)."""


def render_file(
    wav_path: Path,
    out_path: Path,
    *,
    model: str,
    avatar_id: str,
    fps: int,
    progress: Callable[[int, int], None],
    store: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Write an MP4 (H.264 and AAC) of an avatar that speaks a WAV file.

    Args:
        wav_path: the speech.
        out_path: the video; overwritten.
        model: registry name.
        avatar_id: whose face.
        fps: frames per second.
        progress: called with the frames written and the frames in all.
        store: folder or URL of avatars besides the built-in ones.
        device: "auto", "cpu" or "cuda".

    Raises:
        InvalidAudio: the file is missing, no WAV, or empty.
        ModelNotLoaded: no such model or device.
        AvatarInvalid: no such avatar.
        ModelError: the model refused a window.
    """
    try:
        samples, hz = decode_wav(wav_path.read_bytes())
    except OSError as error:
        raise InvalidAudio(f"{wav_path}: expected a WAV file, found: {error.strerror}") from error
    if not len(samples):
        raise InvalidAudio(f"{wav_path}: expected speech, found no samples", too_short=True)
    animator = load_model(model, fps=fps, device=device, weights=None)
    animator.prepare(AvatarStore(store).load(avatar_id))
    loop = animator.base_loop(avatar_id)
    pause = round(PAUSE_S * fps)
    speech = _at(SPEECH_HZ, samples, hz)
    total = 2 * pause + -(-len(speech) * fps // SPEECH_HZ)
    with av.open(str(out_path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        picture = container.add_stream("libx264", rate=fps, options={"preset": "fast", "crf": "18"})
        picture.width, picture.height, picture.pix_fmt = loop.width, loop.height, "yuv420p"
        picture.time_base = Fraction(1, fps)
        sound = container.add_stream("aac", rate=SOUND_HZ, layout="mono")
        before = np.zeros(pause * SOUND_HZ // fps, np.int16)
        voice = _sound_frames(np.concatenate([before, _at(SOUND_HZ, samples, hz), before]))
        heard = 0
        for number, pixels in enumerate(_pictures(animator, loop, speech, pause)):
            frame = av.VideoFrame.from_ndarray(pixels.reshape(-1, loop.width), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
            # Written in step with the picture, so that players need not seek between the two.
            while heard < (number + 1) * SOUND_HZ // fps and (part := next(voice, None)) is not None:
                heard += part.samples
                container.mux(sound.encode(part))
            progress(number + 1, total)
        for part in voice:
            container.mux(sound.encode(part))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))


def _at(hz: int, samples: Int16, from_hz: int) -> Int16:
    resampler = Resampler(from_hz, hz)
    return np.concatenate([resampler.push(samples), resampler.flush()])


def _pictures(animator: Model, loop: BaseLoop, speech: Int16, pause: int) -> Iterator[UInt8]:
    """Yield whole frames, flat I420: the base loop, the speech, the base loop."""
    length = len(loop.frames)
    shown = 0
    for shown in range(pause):
        yield loop.frames[shown % length]
    shown = pause
    for clip in _clips(animator, loop.avatar_id, speech, pause):
        for number, patch in enumerate(clip.patches):
            base = loop.frames[(clip.base_frame + number) % length]
            yield overlaid(base, loop.width, loop.height, Patch(clip.x, clip.y, clip.w, clip.h, patch))
            shown += 1
    for number in range(pause):
        yield loop.frames[(shown + number) % length]


def _clips(animator: Model, avatar_id: str, speech: Int16, first_base_frame: int) -> Iterator[Clip]:
    spec = animator.spec
    windower = Windower(WindowGrid(spec.fps, spec.left_context, spec.lookahead))
    windower.push(speech)
    windower.end()
    while not windower.is_done:
        cut = windower.cut(min(WINDOW_FRAMES, windower.available_frames()))
        window = Window(
            session_id="render",
            generation=0,
            utterance=0,
            avatar_id=avatar_id,
            first_frame=cut.first_frame,
            num_frames=cut.num_frames,
            base_frame=first_base_frame + cut.first_frame,
            speech=cut.speech,
            left_context=spec.left_context,
            is_last=cut.is_last,
        )
        clip = animator.animate([window])[0]
        if not isinstance(clip, Clip):
            raise ModelError(f"model {spec.name!r}: {clip.detail}")
        yield clip


def _sound_frames(samples: Int16) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), SOUND_FRAME):
        frame = av.AudioFrame.from_ndarray(
            samples[None, start : start + SOUND_FRAME], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, start, Fraction(1, SOUND_HZ)
        yield frame
