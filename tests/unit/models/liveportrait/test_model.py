"""Clips of the model: the right pixels, whatever the batch and the cuts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from serve_app.avatars.bundle import AvatarBundle
from serve_app.errors import AvatarInvalid
from serve_app.models.liveportrait.model import LivePortrait
from serve_app.nouns import Clip, ClipFailure
from tests.unit.models.clips import (
    assert_bad_windows_fail_alone,
    assert_batch_is_what_singles_are,
    assert_clip_names_its_window_and_fits_the_picture,
    base_patches,
    clips_of,
    largest_gap,
    shuffled,
    speak,
)
from tests.unit.models.speech import sentence, silence, voiced, windows

pytestmark = pytest.mark.unit

SPEECH = sentence()[:12_000]
"""Three quarters of a second are enough to see lips move."""

FEW_FPS = 6
"""For models that a test builds of its own: their base loops are short."""


@pytest.mark.parametrize("sizes", [(1,), (3, 5, 7, 12), (2, 9)])
def test_cuts_do_not_change_the_picture(model: LivePortrait, sizes: tuple[int, ...]) -> None:
    whole = speak(model, SPEECH, (1000,), base_frame=7)
    assert largest_gap(speak(model, SPEECH, sizes, base_frame=7), whole) <= 1


def test_silence_shows_the_base_loop(model: LivePortrait) -> None:
    cut = list(windows(model.spec, silence(0.5), (5,), base_frame=130))
    for clip in clips_of(model, cut):
        base = base_patches(model, clip, clip.base_frame, len(clip.patches))
        assert largest_gap(clip.patches, base) <= 1


def test_speech_changes_the_picture(model: LivePortrait) -> None:
    clips = clips_of(model, list(windows(model.spec, voiced("ah", 0.6), (15,))))
    base = base_patches(model, clips[0], 0, len(clips[0].patches))
    assert np.abs(clips[0].patches.astype(np.int16) - base)[6:].mean() > 0.3


def test_base_loop_is_the_portrait_but_for_the_patch(model: LivePortrait, bundle: AvatarBundle) -> None:
    loop = model.base_loop("default")
    clip = clips_of(model, list(windows(model.spec, silence(0.1), (1,))))[0]
    outside = np.ones((512, 512), bool)
    outside[clip.y : clip.y + clip.h, clip.x : clip.x + clip.w] = False
    luma = loop.frames[:, : 512 * 512].reshape(-1, 512, 512)
    assert (luma[:, outside] == luma[0][outside]).all()
    expected = 16 + bundle.portrait.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    assert np.abs(luma[0][outside] - expected[outside]).max() <= 1
    moved = np.abs(np.diff(luma[:, ~outside].astype(np.int16), axis=0)).mean(axis=1)
    assert moved.min() > 0.0


def test_base_loop_has_no_seam(model: LivePortrait) -> None:
    frames = model.base_loop("default").frames.astype(np.int16)
    steps = np.abs(np.diff(np.concatenate([frames, frames[:1]]), axis=0)).mean(axis=1)
    assert steps[-1] <= 2 * np.median(steps)


def test_batch_of_mixed_avatars_is_what_singles_are(model: LivePortrait) -> None:
    mixed = [
        *windows(model.spec, SPEECH, (3, 12), avatar_id="other", base_frame=31),
        *windows(model.spec, voiced("ah", 0.5), (5,), base_frame=158),
        *windows(model.spec, SPEECH, (7,), avatar_id="other"),
    ]
    assert len({(clip.x, clip.y, clip.w, clip.h) for clip in clips_of(model, mixed)}) == 2
    assert_batch_is_what_singles_are(model, shuffled(mixed))


def test_clip_names_its_window_and_fits_the_picture(model: LivePortrait) -> None:
    assert_clip_names_its_window_and_fits_the_picture(model, SPEECH)


def test_bad_window_fails_alone(model: LivePortrait) -> None:
    assert_bad_windows_fail_alone(model, next(windows(model.spec, SPEECH, (4,))))


def test_broken_frame_fails_its_window_alone(bundle: AvatarBundle) -> None:
    model = LivePortrait(fps=FEW_FPS, device="cpu", weights="random")
    for name in ("whole", "broken"):
        model.prepare(dataclasses.replace(bundle, avatar_id=name))
    group = dict(model._resident.get("broken"))
    model._resident.put("broken", {**group, "feature": torch.full_like(group["feature"], torch.nan)})
    cut = [next(windows(model.spec, SPEECH, (3,), avatar_id=name)) for name in ("broken", "whole")]
    failure, clip = model.animate(cut)
    assert isinstance(failure, ClipFailure)
    assert failure.code == "frame_not_finite"
    assert isinstance(clip, Clip)
    alone = model.animate(cut[1:])[0]
    assert isinstance(alone, Clip)
    assert largest_gap(clip.patches, alone.patches) <= 1


def test_networks_that_make_no_numbers_refuse_the_avatar(bundle: AvatarBundle) -> None:
    model = LivePortrait(fps=FEW_FPS, device="cpu", weights="random")
    bias = model.networks.generator.fc.bias
    assert bias is not None
    bias.fill_(torch.inf)
    with pytest.raises(AvatarInvalid, match="no numbers"):
        model.prepare(bundle)
    with pytest.raises(AvatarInvalid, match="default"):
        model.base_loop("default")


def test_unprepared_avatar_has_no_base_loop(model: LivePortrait) -> None:
    with pytest.raises(AvatarInvalid, match="nobody"):
        model.base_loop("nobody")


@pytest.mark.parametrize("fps", [FEW_FPS, 30])
def test_any_frame_rate(bundle: AvatarBundle, fps: int) -> None:
    model = LivePortrait(fps=fps, device="cpu", weights="random")
    model.prepare(bundle)
    assert (model.spec.fps, model.base_loop("default").fps) == (fps, fps)
    assert len(speak(model, voiced("ah", 1.0))) == fps


def test_buckets_do_not_change_the_picture(bundle: AvatarBundle) -> None:
    models = [
        LivePortrait(fps=FEW_FPS, device="cpu", weights="random", buckets=buckets)
        for buckets in ((1, 2), (5,))
    ]
    spoken = []
    for model in models:
        model.prepare(bundle)
        spoken.append(speak(model, SPEECH, (3,)))
    assert largest_gap(*spoken) <= 1
