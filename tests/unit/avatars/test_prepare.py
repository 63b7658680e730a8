"""A photo becomes a bundle: straight, cropped with head-room, cut out, and checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.background import GREEN, parse_background
from serve_app.avatars.bundle import SIZE, height, unpack
from serve_app.avatars.created import Created
from serve_app.avatars.face import CHIN, TOP
from serve_app.avatars.landmarks import Points
from serve_app.avatars.photo import Photo, PhotoRefused
from serve_app.avatars.prepare import FACE_SHARE, HEAD_ROOM, STEPS, crop_around, prepare_avatar
from tests.avatar_tools import HOPPER, TOOLS, encoded, hopper, mesh, needs_tools

pytestmark = pytest.mark.unit


def prepared(content: bytes, background: str = "photo") -> Created:
    return prepare_avatar(
        content, avatar_id="grace", name="Grace", background=parse_background(background), tools=TOOLS
    )


def refusal(content: bytes) -> str:
    with pytest.raises(PhotoRefused) as caught:
        prepared(content)
    return caught.value.reason


def marked(angle_deg: float, margin: int = 400) -> tuple[Points, Photo]:
    """Return a large picture, turned, with green marks at the hairline and red ones at the chin of a face."""
    turn = math.radians(angle_deg)
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    face = mesh()
    middle = face[:468, :2].mean(0)
    face[:, :2] = (face[:, :2] - middle) @ spin.T + middle + margin
    rgb = np.full((600 + 2 * margin, 512 + 2 * margin, 3), 90, np.uint8)
    for index, color in ((TOP, (0, 255, 0)), (CHIN, (255, 0, 0))):
        x, y = face[index, :2].round().astype(int)
        rgb[y - 3 : y + 4, x - 3 : x + 4] = color
    return face, Photo(rgb)


def middle_of(rgb: np.ndarray, band: int) -> np.ndarray:
    """Return (x, y) of the mark of a color band."""
    others = [other for other in range(3) if other != band]
    y, x = np.nonzero((rgb[..., band] > 180) & (rgb[..., others].max(-1) < 70))
    return np.array([x.mean(), y.mean()])


@pytest.mark.parametrize("angle_deg", [-25, 0, 15])
def test_leaning_faces_are_straightened_and_placed(angle_deg: float) -> None:
    crop = crop_around(*marked(angle_deg))
    top, chin = middle_of(crop.rgb, 1), middle_of(crop.rgb, 0)
    assert abs(top[0] - chin[0]) < 0.06 * SIZE
    assert chin[1] - top[1] == pytest.approx(FACE_SHARE * SIZE, abs=0.03 * SIZE)
    assert top[1] == pytest.approx(HEAD_ROOM * SIZE, abs=0.03 * SIZE)


def test_a_crop_stays_within_the_photo_where_it_can() -> None:
    pixels = np.asarray(hopper())
    crop = crop_around(mesh(), Photo(pixels))
    edge = crop.rgb[:3].astype(int)
    assert np.abs(np.diff(edge, axis=1)).max() > 10, "the photo's upper edge, not a repeated row of it"
    assert crop.opacity is None


def test_opacity_is_cropped_like_the_picture() -> None:
    face, photo = marked(10)
    opacity = np.full(photo.rgb.shape[:2], 255, np.uint8)
    opacity[:, :200] = 0
    crop = crop_around(face, Photo(photo.rgb, opacity))
    assert crop.opacity is not None
    assert crop.opacity.shape == (SIZE, SIZE)


@needs_tools
def test_a_portrait_becomes_an_avatar_with_progress() -> None:
    steps: list[str] = []
    made = prepare_avatar(
        HOPPER.read_bytes(), avatar_id="grace", name="Grace", source="US Navy", tools=TOOLS,
        progress=lambda number, text: steps.append(text),
    )  # fmt: skip
    assert tuple(steps) == STEPS
    assert made.notes == ()
    bundle = unpack(made.files, "made")
    assert (bundle.avatar_id, bundle.name, bundle.source) == ("grace", "Grace", "US Navy")
    face = bundle.landmarks
    assert abs(face.left_iris[1, 1] - face.right_iris[1, 1]) < 6, "the eyes are level"
    assert 200 < (face.left_iris[1, 0] + face.right_iris[1, 0]) / 2 < 312
    assert height(face.lower_lip_inner, 256) - height(face.upper_lip_inner, 256) < 3
    assert bundle.matte[400, 256] == 255
    assert np.array_equal(bundle.background[bundle.matte == 0], bundle.portrait[bundle.matte == 0])


@needs_tools
def test_a_green_screen_is_green_outside_the_person() -> None:
    bundle = prepared(HOPPER.read_bytes(), "green").bundle
    assert (bundle.portrait[bundle.matte == 0] == GREEN).all()
    assert (bundle.background == GREEN).all()
    assert np.abs(bundle.portrait[256, 256].astype(int) - GREEN).max() > 60


@needs_tools
def test_a_turned_file_with_exif_becomes_the_same_avatar() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(hopper().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    straight, other = prepared(HOPPER.read_bytes()).bundle, prepared(turned).bundle
    for name, points in straight.landmarks.contours().items():
        assert np.abs(other.landmarks.contours()[name] - points).mean() < 5, name


@needs_tools
def test_a_leaning_photo_is_straightened() -> None:
    leaning = hopper().rotate(17, Image.Resampling.BICUBIC, expand=True, fillcolor=(90, 120, 170))
    face = prepared(encoded(leaning)).bundle.landmarks
    assert abs(face.left_iris[1, 1] - face.right_iris[1, 1]) < 6


@needs_tools
def test_transparent_photos_keep_their_cut() -> None:
    image = hopper().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (400, 0, 512, 300))
    image.putalpha(alpha)
    bundle = prepared(encoded(image)).bundle
    assert (bundle.matte[40:200, 470:] == 0).all()


@needs_tools
def test_photos_that_cannot_speak_are_refused() -> None:
    rgb = np.asarray(hopper())
    landscape = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    assert refusal(encoded(landscape)) == "no_face"
    assert refusal(encoded(Image.fromarray(np.hstack([rgb, rgb[:, ::-1]])))) == "several_faces"
    assert refusal(encoded(hopper().resize((200, 234)))) == "face_too_small"
    assert refusal(encoded(hopper().crop((230, 0, 512, 600)))) in ("face_cut", "no_face", "turned_away")
