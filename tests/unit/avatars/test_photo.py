"""Whatever is sent as a photo becomes upright RGB, or a refusal that says why."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serve_app.avatars.photo import MAX_PHOTO_BYTES, REASONS, WORKING_SIDE, PhotoRefused, read_photo
from tests.avatar_tools import HOPPER, encoded, hopper

pytestmark = pytest.mark.unit


def corners(width: int = 300, height: int = 200) -> Image.Image:
    """Return a picture whose corners tell how it is turned: red, green, blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    middle_y, middle_x = height // 2, width // 2
    pixels[:middle_y, :middle_x, 0] = 255
    pixels[:middle_y, middle_x:, 1] = 255
    pixels[middle_y:, :middle_x, 2] = 255
    pixels[middle_y:, middle_x:] = 255
    return Image.fromarray(pixels)


def refusal(content: bytes) -> PhotoRefused:
    with pytest.raises(PhotoRefused) as caught:
        read_photo(content)
    assert caught.value.reason in REASONS
    assert caught.value.suggestion
    return caught.value


def outcome(content: bytes) -> str:
    """Return "read", or why a picture was refused; no other error may come."""
    try:
        return "read" if read_photo(content).rgb.ndim == 3 else "not a picture"
    except PhotoRefused as refused:
        return refused.reason


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_of_the_protocol_is_read(kind: str) -> None:
    photo = read_photo(encoded(corners(), kind))
    assert photo.rgb.shape == (200, 300, 3)
    assert photo.rgb.dtype == np.uint8
    assert photo.opacity is None
    assert np.abs(photo.rgb[10, 10].astype(int) - (255, 0, 0)).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_turned_upright(orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = corners()
    if orientation in undo:
        image = image.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_photo(encoded(image, "JPEG", exif=exif, quality=95))
    assert photo.rgb.shape == (200, 300, 3)
    found = [photo.rgb[y, x].astype(int) for y, x in ((20, 20), (20, 280), (180, 20), (180, 280))]
    for pixel, color in zip(found, ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)), strict=True):
        assert np.abs(pixel - color).max() < 30


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_told_apart(kind: str) -> None:
    image = corners().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    photo = read_photo(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert photo.opacity is not None
    assert photo.opacity.shape == (200, 300)
    assert photo.opacity[5].mean() < 20
    assert photo.opacity[195].mean() > 230


def test_opaque_alpha_counts_as_none() -> None:
    assert read_photo(encoded(corners().convert("RGBA"))).opacity is None


def test_palette_with_a_transparent_color_is_read() -> None:
    image = corners().quantize(8)
    photo = read_photo(encoded(image, "GIF", transparency=image.getpixel((0, 0))))
    assert photo.opacity is not None
    assert photo.opacity[5, 5] == 0
    assert photo.opacity[195, 295] == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animation_shows_its_first_picture(kind: str) -> None:
    other = Image.new("RGB", (300, 200), "black")
    photo = read_photo(encoded(corners(), kind, save_all=True, append_images=[other, other]))
    assert photo.rgb[190, 290].min() > 200


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "CMYK", "P"])
def test_other_kinds_of_pixels_become_rgb(mode: str) -> None:
    image = Image.new("I;16", (200, 200)) if mode == "I;16" else corners().convert(mode)
    assert read_photo(encoded(image, "JPEG" if mode == "CMYK" else "PNG")).rgb.shape[2] == 3


def test_large_photos_are_shrunk() -> None:
    photo = read_photo(encoded(corners(5000, 3000), "JPEG"))
    assert max(photo.rgb.shape) == WORKING_SIDE


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (8001, 8001), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(width: int, height: int) -> None:
    assert refusal(png_header(width, height)).reason == "too_many_pixels"


def test_png_that_ends_early_is_damaged() -> None:
    assert refusal(png_header(500, 500)).reason == "damaged"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_jpeg_is_damaged(share: float) -> None:
    content = HOPPER.read_bytes()
    assert refusal(content[: int(share * len(content))]).reason == "damaged"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"just some text, no picture", "something else"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an XML or SVG file"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "a HEIC or AVIF picture"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00", "a video"),
        (b"\x1aE\xdf\xa3\x00\x00", "a video"),
    ],
)
def test_files_that_are_no_pictures_are_named(content: bytes, found: str) -> None:
    refused = refusal(content)
    assert refused.reason == "not_an_image"
    assert str(refused).endswith(f"found {found}")


def test_formats_beyond_the_protocol_are_refused() -> None:
    assert refusal(encoded(corners(), "BMP")).reason == "not_an_image"
    assert refusal(encoded(corners(), "TIFF")).reason == "not_an_image"


def test_file_above_the_limit_is_refused_unread() -> None:
    refused = refusal(bytes(MAX_PHOTO_BYTES + 1))
    assert refused.reason == "too_large"
    assert "at most 10 MB" in str(refused)


def test_tiny_picture_is_refused() -> None:
    assert refusal(encoded(corners(100, 300))).reason == "too_small"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF"])
)
def test_any_bytes_are_read_or_refused(content: bytes, start: bytes) -> None:
    assert outcome(start + content) in (*REASONS, "read")


SMALL = {kind: encoded(corners(160, 130), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(SMALL)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12),
)
def test_damaged_pictures_are_read_or_refused(kind: str, changes: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL[kind])
    for place, value in changes:
        content[place % len(content)] = value
    assert outcome(bytes(content)) in (*REASONS, "read")


def test_photo_is_what_its_file_shows() -> None:
    assert np.array_equal(read_photo(encoded(hopper())).rgb, np.asarray(hopper()))
