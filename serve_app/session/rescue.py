"""Windows a host cuts itself: when the process that fed a session is gone, its sound is still here."""

from __future__ import annotations

import numpy as np

from serve_app.media.pcm import Resampler
from serve_app.media.playout import Playout
from serve_app.media.windower import WindowGrid
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16, Window, speech_index

RATIO = SOUND_HZ // SPEECH_HZ


def cut_window(
    playout: Playout, grid: WindowGrid, session_id: str, avatar_id: str, max_frames: int
) -> Window | None:
    """Return the next window nobody has asked for, made from the sound the host holds; None without one."""
    found = playout.unpromised(max_frames, grid.lookahead / SPEECH_HZ)
    if found is None:
        return None
    number, first, num_frames = found
    start = speech_index(first, grid.fps) - grid.left_context
    stop = speech_index(first + num_frames, grid.fps) + grid.lookahead
    return Window(
        session_id=session_id,
        generation=playout.generation,
        utterance=number,
        avatar_id=avatar_id,
        first_frame=first,
        num_frames=num_frames,
        base_frame=playout.base_frame_at(number, first),
        speech=_to_speech(playout.sound_of(number, start * RATIO, stop * RATIO), stop - start),
        left_context=grid.left_context,
        is_last=playout.is_ended(number) and first + num_frames >= playout.frames_of(number),
    )


def _to_speech(sound: Int16, samples: int) -> Int16:
    resampler = Resampler(SOUND_HZ, SPEECH_HZ)
    speech = np.concatenate([resampler.push(sound), resampler.flush()])[:samples]
    return np.pad(speech, (0, samples - len(speech)))
