"""The base loop moves a little, blinks, and has no cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch

from serve_app.avatars.footage import decode
from serve_app.avatars.store import AvatarStore
from serve_app.errors import AvatarInvalid
from serve_app.models.idle import MAX_FRAMES, base_loop, head_motion, num_frames
from serve_app.models.portrait import Portrait
from serve_app.nouns import UInt8
from tests.avatar_tools import filmed

pytestmark = pytest.mark.unit


def luma(frames: UInt8) -> npt.NDArray[np.int16]:
    return frames[:, : 512 * 512].reshape(-1, 512, 512).astype(np.int16)


def test_loop_is_whole_pictures_of_five_to_six_seconds(portrait: Portrait) -> None:
    loop = portrait.base_loop("default")
    assert (loop.width, loop.height, loop.fps) == (512, 512, 30)
    assert loop.frames.dtype == np.uint8
    assert loop.frames.shape == (num_frames(30), 512 * 512 * 3 // 2)
    assert 5.0 <= len(loop.frames) / loop.fps <= 6.0


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
def test_loop_stays_within_70_mb(fps: int) -> None:
    assert num_frames(fps) <= MAX_FRAMES
    assert num_frames(fps) * 512 * 512 * 3 // 2 <= 70_000_000


def test_last_frame_leads_to_the_first(portrait: Portrait) -> None:
    frames = luma(portrait.base_loop("default").frames)
    steps = np.array([np.abs(frames[n] - frames[n - 1]).mean() for n in range(len(frames))])
    eyes_still = np.sort(steps)[: len(steps) * 3 // 4]
    assert steps[0] <= 1.5 * eyes_still.max()


def test_head_moves_but_at_most_four_pixels() -> None:
    motion = head_motion(AvatarStore(None).load("default"), 160, torch.device("cpu"))
    axis = torch.arange(512)
    sideways, downwards = (part.abs().max() for part in motion.at(axis, axis))
    assert 1.0 < sideways <= 4.0
    assert 0.5 < downwards <= 4.0


def test_nose_moves_further_than_the_outline_of_the_head() -> None:
    bundle = AvatarStore(None).load("default")
    motion = head_motion(bundle, 160, torch.device("cpu"))
    face = bundle.landmarks
    row = torch.tensor([round(float(face.nose[0, 1]))])
    columns = torch.tensor([round(float(face.nose[2, 0])), round(float(face.jaw[0, 0])) - 4])
    right = motion.at(row, columns)[0][:, 0]  # [L, 2]: nose, outline
    swing = right.max(0).values - right.min(0).values
    assert swing[0] > 1.3 * swing[1] > 0.5


def test_landmarks_go_where_the_head_goes() -> None:
    bundle = AvatarStore(None).load("collins")
    idle = base_loop(bundle, 30, torch.device("cpu"))
    frames = luma(idle.loop.frames)
    assert len(idle.faces) == len(frames) == num_frames(30)
    # The corner of the mouth in a frame looks as it does in another one, if it was found in both.
    patches, still = [], []
    for frame in (0, 40, 80, 120):
        x, y = idle.landmarks_at(frame).upper_lip_outer[0].round().astype(int)
        patches.append(frames[frame, y - 8 : y + 9, x - 8 : x + 9])
        x, y = bundle.landmarks.upper_lip_outer[0].round().astype(int)
        still.append(frames[frame, y - 8 : y + 9, x - 8 : x + 9])
    assert np.ptp(patches, axis=0).mean() < 0.7 * np.ptp(still, axis=0).mean()


def test_places_are_found_again_where_the_head_has_taken_them() -> None:
    motion = head_motion(AvatarStore(None).load("default"), 60, torch.device("cpu"))
    places = torch.tensor([[256.0, 300.0], [180.0, 220.0], [330.0, 400.0]])
    for frame, points in enumerate(motion.moved(places)):
        x, y = points.T
        right, down = (
            part[0].diagonal()
            for part in motion.frames(torch.tensor([frame])).at(y.round().long(), x.round().long())
        )
        torch.testing.assert_close(torch.stack([x - right, y - down], dim=1), places, atol=0.05, rtol=0)


def test_frames_beyond_the_loop_begin_it_again() -> None:
    idle = base_loop(AvatarStore(None).load("default"), 10, torch.device("cpu"))
    assert idle.landmarks_at(len(idle.faces) + 3) is idle.landmarks_at(3)


@pytest.mark.parametrize(("fps", "length"), [(10, 6), (20, 12), (25, 15), (60, 36)])
def test_a_filmed_loop_lasts_as_long_at_any_rate(fps: int, length: int) -> None:
    bundle = filmed()
    assert bundle.footage is not None
    idle = base_loop(bundle, fps, torch.device("cpu"))
    assert (idle.loop.avatar_id, idle.loop.fps) == ("filmed", fps)
    assert len(idle.loop.frames) == len(idle.faces) == length
    pictures = decode(bundle.footage, "filmed")
    for frame in range(length):
        at = int((frame + 0.5) * 12 / length)
        assert idle.landmarks_at(frame) is bundle.footage.faces[at]
        np.testing.assert_array_equal(idle.loop.frames[frame], pictures[at])


def test_a_model_of_stills_shows_a_filmed_avatar_as_a_still(portrait: Portrait) -> None:
    portrait.prepare(filmed("still"))
    shown, of_a_still = portrait.base_loop("still"), portrait.base_loop("default")
    np.testing.assert_array_equal(shown.frames, of_a_still.frames)


def test_a_filmed_loop_that_is_damaged_is_refused() -> None:
    bundle = filmed()
    assert bundle.footage is not None
    cut = dataclasses.replace(bundle.footage, mp4=bundle.footage.mp4[:2000])
    with pytest.raises(AvatarInvalid, match=r"avatar 'filmed'/footage\.mp4"):
        base_loop(dataclasses.replace(bundle, footage=cut), 30, torch.device("cpu"))


def test_eyes_blink_and_are_mostly_open(portrait: Portrait) -> None:
    x, y = AvatarStore(None).load("default").landmarks.left_iris[1].round().astype(int)
    pupils = luma(portrait.base_loop("default").frames)[:, y - 6 : y + 7, x - 8 : x + 9].min(axis=(1, 2))
    is_open = pupils < 60
    blinks = int((is_open & ~np.roll(is_open, -1)).sum())
    assert 1 <= blinks <= 4
    assert is_open.mean() > 0.9


def test_frames_follow_bt601_limited_range(portrait: Portrait) -> None:
    frame = portrait.base_loop("default").frames[0]
    red, green, blue = AvatarStore(None).load("default").portrait[20:40, 20:40].mean(axis=(0, 1))
    expected_y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    expected_v = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
    area = 512 * 512
    assert frame[:area].reshape(512, 512)[20:40, 20:40].mean() == pytest.approx(expected_y, abs=1.5)
    assert frame[area + area // 4 :].reshape(256, 256)[10:20, 10:20].mean() == pytest.approx(
        expected_v, abs=1.5
    )
