"""Clips of MuseTalk: the right pixels, whatever the batch, the cuts and the rate."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from serve_app.avatars.bundle import AvatarBundle
from serve_app.avatars.store import AvatarStore
from serve_app.errors import AvatarInvalid
from serve_app.models.musetalk.model import MuseTalk
from serve_app.models.neural.batching import EAGER, BucketedStep
from serve_app.models.neural.guard import NOT_FINITE
from serve_app.nouns import Clip, ClipFailure, Int16, UInt8, Window
from tests.unit.models.speech import sentence, silence, voiced, windows

pytestmark = pytest.mark.unit


def clips_of(model: MuseTalk, cut: list[Window]) -> list[Clip]:
    clips = model.animate(cut)
    assert len(clips) == len(cut)
    return [clip for clip in clips if isinstance(clip, Clip)]


def speak(
    model: MuseTalk,
    speech: Int16,
    sizes: tuple[int, ...] = (12,),
    base_frame: int = 0,
    avatar_id: str = "default",
) -> UInt8:
    cut = list(windows(model.spec, speech, sizes, base_frame=base_frame, avatar_id=avatar_id))
    return np.concatenate([clip.patches for clip in clips_of(model, cut)])


def place(model: MuseTalk) -> Clip:
    return clips_of(model, list(windows(model.spec, silence(0.05), (3,))))[0]


def base_patches(model: MuseTalk, first: int, count: int) -> UInt8:
    """Return the base loop's pixels under the patch."""
    at, frames = place(model), model.base_loop("default").frames
    index = np.arange(first, first + count) % len(frames)
    y = frames[index, : 512 * 512].reshape(count, 512, 512)[:, at.y : at.y + at.h, at.x : at.x + at.w]
    chroma = frames[index, 512 * 512 :].reshape(count, 2, 256, 256)
    chroma = chroma[:, :, at.y // 2 : (at.y + at.h) // 2, at.x // 2 : (at.x + at.w) // 2]
    return np.concatenate([y.reshape(count, -1), chroma.reshape(count, -1)], axis=1)


def luma(model: MuseTalk, patches: UInt8) -> npt.NDArray[np.int16]:
    at = place(model)
    return patches[:, : at.w * at.h].reshape(-1, at.h, at.w).astype(np.int16)


def largest_gap(one: UInt8, other: UInt8) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


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
    base = base_patches(musetalk, 11, len(patches))
    assert largest_gap(patches, base) > 20
    mine, under = luma(musetalk, patches), luma(musetalk, base)
    for edge in (np.s_[:, 0], np.s_[:, :, 0], np.s_[:, :, -1]):
        assert np.abs(mine[edge] - under[edge]).max() <= 2
    assert (at.x % 2, at.y % 2, at.w % 2, at.h % 2) == (0, 0, 0, 0)


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
    order = np.random.default_rng(0).permutation(len(mixed))
    mixed = [mixed[n] for n in order]
    for window, clip in zip(mixed, clips_of(musetalk, mixed), strict=True):
        alone = clips_of(musetalk, [window])[0]
        assert (clip.first_frame, clip.base_frame) == (window.first_frame, window.base_frame)
        assert (clip.x, clip.y, clip.w, clip.h) == (alone.x, alone.y, alone.w, alone.h)
        assert len(clip.patches) == window.num_frames
        assert largest_gap(clip.patches, alone.patches) <= 1


def test_clip_names_its_window(musetalk: MuseTalk) -> None:
    window = next(windows(musetalk.spec, sentence(), (4,), base_frame=1000))
    window = dataclasses.replace(window, session_id="who", generation=3, utterance=2)
    clip = clips_of(musetalk, [window])[0]
    assert (clip.session_id, clip.generation, clip.utterance) == ("who", 3, 2)
    assert clip.patches.shape == (4, clip.w * clip.h * 3 // 2)
    assert clip.patches.dtype == np.uint8


def test_spec_asks_for_two_native_frames_ahead(musetalk: MuseTalk, faster: MuseTalk) -> None:
    assert musetalk.spec.lookahead == 2 * 640
    assert (musetalk.spec.left_context, musetalk.spec.fps) == (32_000, 25)
    assert faster.spec.lookahead <= 3 * 640
    assert faster.spec.fps == 30


def test_bad_windows_fail_alone(musetalk: MuseTalk) -> None:
    good = next(windows(musetalk.spec, sentence(), (4,)))
    late = next(iter(list(windows(musetalk.spec, sentence(), (20,)))[1:]))
    bad = [
        dataclasses.replace(good, avatar_id="nobody"),
        dataclasses.replace(good, num_frames=0),
        dataclasses.replace(good, speech=good.speech[: good.left_context + 100]),
        dataclasses.replace(late, speech=late.speech[30_000:], left_context=late.left_context - 30_000),
    ]
    results = musetalk.animate([bad[0], good, *bad[1:]])
    failures = [result for result in results if isinstance(result, ClipFailure)]
    assert [failure.code for failure in failures] == ["avatar_invalid", *["model_error"] * 3]
    assert isinstance(results[1], Clip)
    assert largest_gap(results[1].patches, clips_of(musetalk, [good])[0].patches) <= 1
    assert musetalk.animate([]) == []


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
