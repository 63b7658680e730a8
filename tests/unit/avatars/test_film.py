"""A video becomes an avatar whose footage loops, whose face is followed, and whose portrait is at rest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from serve_app.avatars.bundle import SIZE, unpack
from serve_app.avatars.created import Created
from serve_app.avatars.face import open_eyes
from serve_app.avatars.film import STEPS, at_rest, film, footage_fps, prepare_filmed
from serve_app.avatars.footage import decode
from serve_app.avatars.looping import Loop
from serve_app.avatars.photo import PhotoRefused
from serve_app.avatars.store import Card
from serve_app.avatars.video import Video
from serve_app.nouns import UInt8
from tests.avatar_tools import TOOLS, MarkedFaces, marked_face, mesh, needs_tools, video_file

pytestmark = pytest.mark.unit

CARD = Card("grace", "Grace", "US Navy")
FPS = 10


def sway(second: float) -> tuple[float, float]:
    """Return where a person is who sways every 2.5 s, pixels."""
    return 14 * math.sin(2 * math.pi * second / 2.5), 5 * math.cos(2 * math.pi * second / 2.5)


def picture(second: float) -> UInt8:
    """Return a person who sways, and a blue thing that does not."""
    pixels = marked_face(*sway(second))
    pixels[340:360, 340:360] = (0, 0, 255)
    return pixels


@functools.cache
def swaying(seconds: float = 6.0) -> bytes:
    return video_file([picture(number / FPS) for number in range(round(seconds * FPS))], FPS)


@functools.cache
def made() -> tuple[Created, tuple[tuple[int, str], ...]]:
    """Return the avatar of a person who sways, and the steps that were told."""
    steps: list[tuple[int, str]] = []
    prepared = film(Video(swaying()), CARD, MarkedFaces(), lambda number, text: steps.append((number, text)))
    return prepared, tuple(steps)


def refusal(content: bytes) -> PhotoRefused:
    with pytest.raises(PhotoRefused) as caught:
        film(Video(content), CARD, MarkedFaces())
    return caught.value


def shown(draw: Callable[[float], UInt8], seconds: float = 4.0) -> bytes:
    return video_file([draw(number / FPS) for number in range(round(seconds * FPS))], FPS)


def test_the_bundle_has_a_loop_and_loads_again() -> None:
    prepared, steps = made()
    bundle = unpack(prepared.files, "made")
    assert (bundle.avatar_id, bundle.name, bundle.source) == ("grace", "Grace", "US Navy")
    assert bundle.footage is not None
    assert bundle.footage.fps == FPS
    assert prepared.notes == ()
    assert [number for number, _ in steps] == sorted(number for number, _ in steps)
    assert {number for number, _ in steps} == set(range(1, len(STEPS)))
    assert any(text == "following the face (40 of 60)" for _, text in steps)


def test_the_loop_is_whole_sways_without_a_cut() -> None:
    footage = made()[0].bundle.footage
    assert footage is not None
    sways = len(footage.faces) / FPS / 2.5
    assert abs(sways - round(sways)) < 0.07
    frames = decode(footage, "made")[:, : SIZE * SIZE].astype(np.int16)
    steps = np.array([np.abs(frames[n] - frames[n - 1]).mean() for n in range(len(frames))])
    assert steps[0] < 1.3 * steps[1:].max()


def places(prepared: Created) -> npt.NDArray[np.float64]:
    """Return where the nose is in each picture of the footage."""
    footage = prepared.bundle.footage
    assert footage is not None
    return np.array([face.nose.mean(0) for face in footage.faces], np.float64)


def test_the_face_is_followed_as_the_person_sways() -> None:
    noses = places(made()[0])
    footage = made()[0].bundle.footage
    assert footage is not None
    # The crop enlarges: the mesh's face, three quarters as large in the video, is so much larger in it.
    jaws = [face.jaw[-1, 0] - face.jaw[0, 0] for face in footage.faces]
    scale = float(np.mean(jaws)) / ((mesh()[454, 0] - mesh()[234, 0]) * 0.75)
    width, height = np.ptp(noses, axis=0)
    assert width == pytest.approx(28 * scale, rel=0.15)
    assert height == pytest.approx(10 * scale, rel=0.25)
    # It is where it is seen: the marks' own places in the decoded pictures.
    frames = decode(footage, "made")
    area = SIZE * SIZE
    for at in range(0, len(frames), 5):
        blue = frames[at, area : area * 5 // 4].reshape(SIZE // 2, SIZE // 2).astype(int)
        red = frames[at, area * 5 // 4 :].reshape(SIZE // 2, SIZE // 2).astype(int)
        y, x = np.nonzero((red < 80) & (blue < 80))
        corner = footage.faces[at].left_eye_upper[0]
        assert np.hypot(2 * x.mean() - corner[0], 2 * y.mean() - corner[1]) < 4


def test_what_is_behind_stands_still() -> None:
    footage = made()[0].bundle.footage
    assert footage is not None
    frames = decode(footage, "made")
    area = SIZE * SIZE
    blues = frames[:, area : area * 5 // 4].reshape(-1, SIZE // 2, SIZE // 2)
    middles = np.array([np.mean(np.nonzero(blue > 220), axis=1) for blue in blues])
    assert np.ptp(middles, axis=0).max() < 0.5


def test_the_portrait_is_a_picture_of_the_loop() -> None:
    bundle = made()[0].bundle
    assert bundle.footage is not None
    frames = decode(bundle.footage, "made")[:, : SIZE * SIZE].reshape(-1, SIZE, SIZE)
    luma = 16 + bundle.portrait @ np.array([65.481, 128.553, 24.966]) / 255
    apart = np.abs(frames - luma).mean((1, 2))
    assert apart.min() < 2
    assert bundle.matte[300, 256] == 255


def test_a_leaning_video_is_straightened() -> None:
    turned = [np.asarray(_turned(picture(number / FPS))) for number in range(36)]
    bundle = film(Video(video_file(turned, FPS)), CARD, MarkedFaces()).bundle
    assert bundle.footage is not None
    for face in bundle.footage.faces[::6]:
        assert abs(face.left_eye_upper[0, 1] - face.right_eye_upper[-1, 1]) < 9


def _turned(pixels: UInt8) -> object:
    from PIL import Image

    return Image.fromarray(pixels).rotate(12, Image.Resampling.BICUBIC, fillcolor=(120, 125, 130))


def test_a_face_that_is_lost_for_a_moment_is_found_again() -> None:
    lost = {13, 27}
    pictures = [
        np.full((512, 448, 3), 120, np.uint8) if number in lost else picture(number / FPS)
        for number in range(40)
    ]
    # One look in five a second falls on none of them.
    prepared = film(Video(video_file(pictures, FPS)), CARD, MarkedFaces())
    assert np.abs(np.diff(places(prepared), axis=0)).max() < 16


def test_videos_that_cannot_become_avatars_are_refused_with_the_reason() -> None:
    blank = np.full((512, 448, 3), 120, np.uint8)
    assert refusal(shown(lambda _: blank)).reason == "no_face"
    assert refusal(shown(lambda second: picture(second) if second < 1.2 else blank)).reason == "no_face"
    assert refusal(shown(picture, 1.5)).reason == "too_short"
    small = marked_face(scale=0.3)
    assert refusal(shown(lambda _: small)).reason in ("face_too_small", "no_face")


def test_a_face_that_comes_and_goes_is_refused() -> None:
    blank = np.full((512, 448, 3), 120, np.uint8)
    # It is there whenever the video is looked at, five times a second, and never for long.
    pictures = [picture(number / 30) if number % 6 == 0 else blank for number in range(75)]
    refused = refusal(video_file(pictures, 30))
    assert refused.reason == "no_face"
    assert "at a stretch" in refused.detail


def test_a_video_of_just_two_seconds_has_a_loop() -> None:
    prepared = film(Video(shown(picture, 2.0)), CARD, MarkedFaces())
    assert prepared.bundle.footage is not None
    assert len(prepared.bundle.footage.faces) >= FPS


@pytest.mark.parametrize(
    ("video_fps", "fps"),
    [(8, 10), (12.5, 12), (24, 24), (25, 25), (29.97, 30), (50, 25), (60, 30), (90, 30), (240, 30)],
)
def test_fast_videos_lose_every_second_picture_or_more(video_fps: float, fps: int) -> None:
    assert footage_fps(video_fps) == fps


def test_the_picture_nearest_to_rest_has_open_eyes_and_closed_lips() -> None:
    points = np.repeat(mesh()[None], 6, axis=0)
    points[:, 14, 1] += 20
    points[3, 14, 1] -= 20
    points[4] = mesh()
    points[4, [159, 386], 1] = points[4, [145, 374], 1]
    assert open_eyes(points[4]) < 0.1 < open_eyes(points[3])
    order = np.arange(6)
    assert at_rest(points, Loop(order, order, np.zeros(6), fades=True)) == 3


@needs_tools
def test_a_filmed_person_becomes_an_avatar() -> None:
    pictures = [_unmarked(number / FPS) for number in range(48)]
    prepared = prepare_filmed(video_file(pictures, FPS), CARD, tools=TOOLS)
    bundle = unpack(prepared.files, "made")
    assert bundle.footage is not None
    assert 24 <= len(bundle.footage.faces) <= 48
    noses = places(prepared)
    assert 20 < np.ptp(noses[:, 0]) < 70
    assert bundle.matte[300, 256] == 255


def _unmarked(second: float) -> UInt8:
    return marked_face(*sway(second), marks=False)


@needs_tools
def test_a_film_of_two_people_is_refused(tmp_path: Path) -> None:
    pair = np.hstack([_unmarked(0.0), _unmarked(0.0)[:, ::-1]])
    with pytest.raises(PhotoRefused) as caught:
        prepare_filmed(video_file([pair] * 30, 10), CARD, tools=TOOLS)
    assert caught.value.reason == "several_faces"
