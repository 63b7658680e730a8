"""Clips asked of a model, and what holds for those of any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve_app.models.base import Model
from serve_app.nouns import Clip, ClipFailure, Int16, UInt8, Window
from tests.unit.models.speech import silence, windows


def clips_of(model: Model, cut: Sequence[Window]) -> list[Clip]:
    """Return a clip for each window that has one."""
    clips = model.animate(cut)
    assert len(clips) == len(cut)
    return [clip for clip in clips if isinstance(clip, Clip)]


def speak(
    model: Model,
    speech: Int16,
    sizes: tuple[int, ...] = (12,),
    base_frame: int = 0,
    avatar_id: str = "default",
) -> UInt8:
    """Return the patches of a whole utterance, however it is cut."""
    cut = list(windows(model.spec, speech, sizes, base_frame=base_frame, avatar_id=avatar_id))
    return np.concatenate([clip.patches for clip in clips_of(model, cut)])


def place(model: Model) -> Clip:
    """Return a clip that lies where those of the default avatar do."""
    return clips_of(model, list(windows(model.spec, silence(0.05), (3,))))[0]


def base_patches(model: Model, at: Clip, first: int, count: int) -> UInt8:
    """Return the default avatar's base loop under a clip's patches."""
    frames = model.base_loop("default").frames
    index = np.arange(first, first + count) % len(frames)
    y = frames[index, : 512 * 512].reshape(count, 512, 512)[:, at.y : at.y + at.h, at.x : at.x + at.w]
    chroma = frames[index, 512 * 512 :].reshape(count, 2, 256, 256)
    chroma = chroma[:, :, at.y // 2 : (at.y + at.h) // 2, at.x // 2 : (at.x + at.w) // 2]
    return np.concatenate([y.reshape(count, -1), chroma.reshape(count, -1)], axis=1)


def luma(at: Clip, patches: UInt8) -> npt.NDArray[np.int16]:
    """Return the brightness of patches that lie where a clip does, [T, h, w]."""
    return patches[:, : at.w * at.h].reshape(-1, at.h, at.w).astype(np.int16)


def largest_gap(one: UInt8, other: UInt8) -> int:
    """Return by how much pixels differ at most."""
    return int(np.abs(one.astype(np.int16) - other).max())


def shuffled(cut: Sequence[Window]) -> list[Window]:
    """Return windows in another order, always the same."""
    return [cut[number] for number in np.random.default_rng(0).permutation(len(cut))]


def assert_batch_is_what_singles_are(model: Model, cut: Sequence[Window]) -> None:
    """Check that a window's clip does not depend on its neighbours."""
    for window, clip in zip(cut, clips_of(model, cut), strict=True):
        alone = clips_of(model, [window])[0]
        assert (clip.first_frame, clip.base_frame) == (window.first_frame, window.base_frame)
        assert (clip.x, clip.y, clip.w, clip.h) == (alone.x, alone.y, alone.w, alone.h)
        assert len(clip.patches) == window.num_frames
        assert largest_gap(clip.patches, alone.patches) <= 1


def assert_clip_names_its_window_and_fits_the_picture(model: Model, speech: Int16) -> None:
    """Check a clip's fields."""
    window = next(windows(model.spec, speech, (4,), base_frame=1000))
    window = dataclasses.replace(window, session_id="who", generation=3, utterance=2)
    clip = clips_of(model, [window])[0]
    assert (clip.session_id, clip.generation, clip.utterance, clip.base_frame) == ("who", 3, 2, 1000)
    assert all(part % 2 == 0 for part in (clip.x, clip.y, clip.w, clip.h))
    assert clip.x + clip.w <= 512
    assert clip.y + clip.h <= 512
    assert clip.patches.shape == (4, clip.w * clip.h * 3 // 2)
    assert clip.patches.dtype == np.uint8


def assert_bad_windows_fail_alone(model: Model, good: Window) -> None:
    """Check that windows which cannot be animated leave their neighbour its clip."""
    cut = [
        dataclasses.replace(good, avatar_id="nobody"),
        good,
        dataclasses.replace(good, speech=good.speech[: good.left_context + 100]),
        dataclasses.replace(good, num_frames=0),
    ]
    results = model.animate(cut)
    codes = [result.code if isinstance(result, ClipFailure) else "clip" for result in results]
    assert codes == ["avatar_invalid", "clip", "model_error", "model_error"]
    assert isinstance(results[1], Clip)
    assert largest_gap(results[1].patches, clips_of(model, [good])[0].patches) <= 1
    assert model.animate([]) == []
