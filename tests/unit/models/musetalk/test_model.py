"""Clips of MuseTalk: the right pixels, whatever the batch, the cuts and the rate."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.avatars.bundle import AvatarBundle
from serve_app.avatars.store import AvatarStore
from serve_app.errors import AvatarInvalid
from serve_app.models.musetalk.model import MuseTalk
from serve_app.models.neural.batching import EAGER, BucketedStep
from serve_app.models.neural.guard import NOT_FINITE
from serve_app.nouns import Clip, ClipFailure
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


@pytest.mark.parametrize("sizes", [(1,), (3, 5, 7)])
def test_cuts_do_not_change_the_picture(musetalk: MuseTalk, sizes: tuple[int, ...]) -> None:
    speech = sentence()[:16_000]
    whole = speak(musetalk, speech, (1000,), base_frame=120)
    assert largest_gap(speak(musetalk, speech, sizes, base_frame=120), whole) <= 1


def test_cuts_do_not_change_the_picture_at_another_rate(faster: MuseTalk) -> None:
    speech = sentence()[:12_000]
    whole = speak(faster, speech, (1000,), avatar_id="motionless")
    assert largest_gap(speak(faster, speech, (1, 4), avatar_id="motionless"), whole) <= 1


def test_faster_frames_are_mixed_of_native_ones(musetalk: MuseTalk, faster: MuseTalk) -> None:
    speech = sentence()[:8_000]
    native = speak(musetalk, speech, avatar_id="motionless").astype(np.float64)
    mixed = speak(faster, speech, avatar_id="motionless")
    assert len(mixed) == 15
    # The last one has a later neighbour that the native rate has no frame for.
    for number in range(1, 14):
        middle = (number + 0.5) * 25 / 30 - 0.5
        before = int(middle)
        after = min(before + 1, len(native) - 1)
        wanted = native[before] + (middle - before) * (native[after] - native[before])
        # Three roundings, and pictures that were encoded apart.
        assert np.abs(mixed[number] - wanted).max() <= 2.0
    steps = np.abs(np.diff(native, axis=0)).max(axis=1)
    assert steps.max() > 4.0


def test_speech_changes_the_picture(musetalk: MuseTalk) -> None:
    one, other = (speak(musetalk, voiced(sound, 0.3)) for sound in ("ah", "oo"))
    assert largest_gap(one, other) > 0


def test_edges_of_a_patch_are_the_base_frame(musetalk: MuseTalk) -> None:
    at = place(musetalk)
    patches = speak(musetalk, voiced("ah", 0.6), base_frame=11)
    base = base_patches(musetalk, at, 11, len(patches))
    assert largest_gap(patches, base) > 20
    mine, under = luma(at, patches), luma(at, base)
    for edge in (np.s_[:, 0], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert np.abs(mine[edge] - under[edge]).max() <= 2


@pytest.mark.parametrize(("avatar_id", "travel_px"), [("default", 0.5), ("filmed", 8.0)])
def test_patch_follows_the_head(musetalk: MuseTalk, avatar_id: str, travel_px: float) -> None:
    """The repainted part moves as the face does, by parts of a pixel."""
    group = musetalk._resident.get(avatar_id)
    boxes, cover = group["boxes"], group["cover"]
    at = clips_of(musetalk, list(windows(musetalk.spec, silence(0.05), (3,), avatar_id=avatar_id)))[0]
    weights = cover[:, : at.w * at.h].float().view(-1, at.h, at.w)
    columns = torch.arange(at.w) + 0.5
    middle = (weights.sum(1) * columns).sum(1) / weights.sum((1, 2))
    moved = (boxes[:, 0] + boxes[:, 2]) / 2
    gap = (middle - middle.mean()) - (moved - moved.mean())
    assert moved.max() - moved.min() > travel_px
    assert gap.abs().max() < 0.15 + 0.05 * travel_px


def test_batch_of_mixed_avatars_is_what_singles_are(musetalk: MuseTalk) -> None:
    mixed = [
        *windows(musetalk.spec, sentence()[:9_000], (3, 9), avatar_id="filmed", base_frame=31),
        *windows(musetalk.spec, voiced("ah", 0.3), (5,), base_frame=158),
        *windows(musetalk.spec, silence(0.2), (7,), avatar_id="filmed"),
    ]
    assert_batch_is_what_singles_are(musetalk, shuffled(mixed))


def test_clip_names_its_window_and_fits_the_picture(musetalk: MuseTalk) -> None:
    assert_clip_names_its_window_and_fits_the_picture(musetalk, sentence())


def test_spec_asks_for_two_native_frames_ahead(musetalk: MuseTalk, faster: MuseTalk) -> None:
    assert musetalk.spec.lookahead == 2 * 640
    assert (musetalk.spec.left_context, musetalk.spec.fps) == (32_000, 25)
    assert faster.spec.lookahead <= 3 * 640
    assert faster.spec.fps == 30


def test_bad_windows_fail_alone(musetalk: MuseTalk) -> None:
    good = next(windows(musetalk.spec, sentence(), (4,)))
    assert_bad_windows_fail_alone(musetalk, good)
    late = list(windows(musetalk.spec, sentence(), (20,)))[1]
    bare = dataclasses.replace(late, speech=late.speech[30_000:], left_context=late.left_context - 30_000)
    failure, clip = musetalk.animate([bare, good])
    assert isinstance(failure, ClipFailure)
    assert failure.code == "model_error"
    assert isinstance(clip, Clip)


def test_broken_frame_fails_its_window_alone(musetalk: MuseTalk) -> None:
    broken = copy.copy(musetalk)
    broken._avatars = {**musetalk._avatars, "broken": musetalk._avatars["default"]}
    group = dict(musetalk._resident.get("default"))
    group["latents"] = group["latents"].clone()
    group["latents"][5] = torch.nan
    broken._resident.put("broken", group)
    cut = list(windows(musetalk.spec, sentence()[:7_680], (4,), avatar_id="broken"))
    fine = next(windows(musetalk.spec, sentence(), (4,)))
    results = broken.animate([cut[0], cut[1], fine, cut[2]])
    assert [isinstance(result, Clip) for result in results] == [True, False, True, True]
    assert isinstance(results[1], ClipFailure)
    assert results[1].code == NOT_FINITE
    broken._resident.drop("broken")


def test_full_device_fails_windows_and_not_the_replica(musetalk: MuseTalk) -> None:
    def full(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    starved = copy.copy(musetalk)
    starved._paint = BucketedStep(full, buckets=(1, 2), device=torch.device("cpu"), mode=EAGER)
    window = next(windows(musetalk.spec, sentence(), (4,)))
    (result,) = starved.animate([window])
    assert isinstance(result, ClipFailure)
    assert result.code == "model_out_of_memory"
    assert isinstance(musetalk.animate([window])[0], Clip)


def test_unprepared_avatar_has_no_base_loop(musetalk: MuseTalk) -> None:
    with pytest.raises(AvatarInvalid, match="nobody"):
        musetalk.base_loop("nobody")
    loop = musetalk.base_loop("default")
    assert (loop.width, loop.height, loop.fps) == (512, 512, 25)


def test_small_face_is_refused(musetalk: MuseTalk) -> None:
    bundle = AvatarStore(None).load("default")
    with pytest.raises(AvatarInvalid, match="48 px or more"):
        musetalk.prepare(dataclasses.replace(shrunk(bundle), avatar_id="tiny"))


def shrunk(bundle: AvatarBundle) -> AvatarBundle:
    contours = {
        name: (200 + points * 0.15).astype(np.float32) for name, points in bundle.landmarks.contours().items()
    }
    return dataclasses.replace(bundle, landmarks=type(bundle.landmarks)(**contours))
