"""Clips of the portrait: the right pixels, whatever the batch and the cuts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from serve_app.errors import AvatarInvalid, ModelNotLoaded
from serve_app.models.portrait import Portrait
from tests.unit.models.clips import (
    assert_bad_windows_fail_alone,
    assert_batch_is_what_singles_are,
    assert_clip_names_its_window_and_fits_the_picture,
    base_patches,
    clips_of,
    largest_gap,
    luma,
    place,
    shuffled,
    speak,
)
from tests.unit.models.speech import sentence, silence, voiced, windows

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("sizes", [(1,), (3, 5, 7, 12), (2, 9)])
def test_cuts_do_not_change_the_picture(portrait: Portrait, sizes: tuple[int, ...]) -> None:
    whole = speak(portrait, sentence(), (1000,), base_frame=7)
    assert largest_gap(speak(portrait, sentence(), sizes, base_frame=7), whole) <= 1


def test_silence_shows_the_base_loop(portrait: Portrait) -> None:
    patches = speak(portrait, silence(0.5), base_frame=150)
    np.testing.assert_array_equal(patches, base_patches(portrait, place(portrait), 150, len(patches)))


def test_edges_of_a_patch_are_the_base_frame(portrait: Portrait) -> None:
    at = place(portrait)
    patches = speak(portrait, np.concatenate([voiced("ah", 0.4), voiced("ee", 0.4), voiced("oo", 0.4)]))
    base = base_patches(portrait, at, 0, len(patches))
    planes = [
        (0, at.w, at.h),
        (at.w * at.h, at.w // 2, at.h // 2),
        (at.w * at.h * 5 // 4, at.w // 2, at.h // 2),
    ]
    for start, w, h in planes:
        mine, under = (
            rows[:, start : start + w * h].reshape(-1, h, w).astype(np.int16) for rows in (patches, base)
        )
        for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
            np.testing.assert_array_equal(mine[edge], under[edge])
        # Nor is there a seam within: the drawing has faded out before the edge.
        for near in (np.s_[:, 1:4], np.s_[:, -4:-1], np.s_[:, :, 1:4], np.s_[:, :, -4:-1]):
            assert np.abs(mine[near] - under[near]).mean() <= 1.0


def test_speech_moves_the_lips(portrait: Portrait) -> None:
    at = place(portrait)
    box = np.s_[:, 290 - at.y : 335 - at.y, 215 - at.x : 298 - at.x]
    patches = luma(at, speak(portrait, sentence()))
    base = luma(at, base_patches(portrait, at, 0, len(patches)))
    change = np.abs(patches[box] - base[box]).mean(axis=(1, 2))
    assert change.max() > 4
    assert change.max() > 2 * change.min()


def test_mouth_opens_without_a_jump(portrait: Portrait) -> None:
    speech = np.concatenate([silence(0.3), voiced("ah", 0.4), silence(0.4)])
    patches = luma(place(portrait), speak(portrait, speech))
    steps = np.abs(np.diff(patches, axis=0)).mean(axis=(1, 2))
    assert steps.max() < 0.5 * steps.sum() / 2


def test_batch_of_mixed_avatars_is_what_singles_are(portrait: Portrait) -> None:
    mixed = [
        *windows(portrait.spec, sentence(), (3, 12), avatar_id="other", base_frame=31),
        *windows(portrait.spec, voiced("ah", 0.5), (5,), base_frame=158),
        *windows(portrait.spec, sentence(), (7,), avatar_id="other"),
    ]
    assert_batch_is_what_singles_are(portrait, shuffled(mixed))


def test_clip_names_its_window_and_fits_the_picture(portrait: Portrait) -> None:
    assert_clip_names_its_window_and_fits_the_picture(portrait, sentence())


def test_bad_window_fails_alone(portrait: Portrait) -> None:
    assert_bad_windows_fail_alone(portrait, next(windows(portrait.spec, sentence(), (4,))))


def test_missing_context_counts_as_silence(portrait: Portrait) -> None:
    window = next(windows(portrait.spec, voiced("ah", 0.5), (6,)))
    own = slice(window.left_context, window.left_context + 6 * 16_000 // 30)
    bare = dataclasses.replace(window, speech=window.speech[own], left_context=0)
    padded = dataclasses.replace(window, speech=window.speech.copy())
    padded.speech[own.stop :] = 0
    assert largest_gap(clips_of(portrait, [bare])[0].patches, clips_of(portrait, [padded])[0].patches) <= 1


def test_unprepared_avatar_has_no_base_loop(portrait: Portrait) -> None:
    with pytest.raises(AvatarInvalid, match="nobody"):
        portrait.base_loop("nobody")


@pytest.mark.parametrize("content", [None, b"", b"no tensors", save_tensors({"other": np.zeros(3)})])
def test_weights_of_something_else_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelNotLoaded, match=r"weights\.safetensors"):
        Portrait(fps=30, device="cpu", weights=str(file))
