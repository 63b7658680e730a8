"""Photographs that strangers send: decoded within limits, turned upright, as plain RGB.

What a file claims is read from its header first, so nothing is decoded that would not be used.
"""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from serve_app.errors import ClientError
from serve_app.nouns import UInt8

MAX_PHOTO_BYTES = 10 * 1_000_000
"""Largest file (document 001's REST, protocols section 2.2)."""

MAX_PIXELS = 64_000_000
"""Most pixels a header may claim; decoded they take 256 MB at most."""

MIN_SIDE = 128
"""Shortest side that can hold a face of a useful size."""

WORKING_SIDE = 2048
"""Longest side of what is decoded: more shows nothing in a portrait of 512 pixels."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")

REASONS = (
    "too_large", "too_many_pixels", "too_small", "not_an_image", "damaged", "no_face", "several_faces",
    "face_too_small", "face_cut", "turned_away", "tilted", "mouth_open", "eyes_closed", "unusable_face",
    "bad_request", "bad_url", "fetch_failed", "not_a_video", "no_pictures", "too_long", "too_short",
    "restless",
)  # fmt: skip
"""What `PhotoRefused.reason` may say."""


class PhotoRefused(ClientError):
    """A picture or a video that cannot become an avatar.

    Attributes:
        reason: one of REASONS, for programs.
        suggestion: what the person who sent it can do.
    """

    code = "photo_refused"

    def __init__(self, reason: str, detail: str, suggestion: str) -> None:
        super().__init__(reason, detail, suggestion)
        self.reason = reason
        self.detail = detail
        self.suggestion = suggestion

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photograph.

    Attributes:
        rgb: [H, W, 3] uint8, upright.
        opacity: [H, W] uint8, 255 where the picture is opaque; None when it is everywhere.
    """

    rgb: UInt8
    opacity: UInt8 | None = None


def read_photo(content: bytes) -> Photo:
    """Decode a photograph; of an animation the first picture.

    Raises:
        PhotoRefused: it is too large, too small, of no format in FORMATS, or damaged.
    """
    if len(content) > MAX_PHOTO_BYTES:
        raise PhotoRefused(
            "too_large",
            f"expected a file of at most {MAX_PHOTO_BYTES // 1_000_000} MB, "
            f"found {len(content) / 1_000_000:.1f} MB",
            "Send a smaller file: 2048 pixels across are enough.",
        )
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the check below is ours, and stricter.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(*image.size)
                return _upright(image)
    except PhotoRefused:
        raise
    except UnidentifiedImageError:
        raise PhotoRefused(
            "not_an_image",
            f"expected a picture as {', '.join(FORMATS)}, found {_kind(content)}",
            "Send a JPEG, PNG, GIF or WebP file.",
        ) from None
    except Image.DecompressionBombError:
        raise _too_many("more") from None
    except Exception as error:
        # Decoders raise whatever their parsers happen to meet in a damaged file.
        raise PhotoRefused(
            "damaged",
            f"expected a whole picture, found one that cannot be decoded ({type(error).__name__})",
            "Open the picture, save it again and send that.",
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many(f"{width}x{height}")
    if min(width, height) < MIN_SIDE:
        raise PhotoRefused(
            "too_small",
            f"expected {MIN_SIDE} pixels or more on each side, found {width}x{height}",
            "Send a larger picture; a face 300 pixels across is good.",
        )


def _too_many(found: str) -> PhotoRefused:
    return PhotoRefused(
        "too_many_pixels",
        f"expected at most {MAX_PIXELS // 1_000_000} million pixels, found {found}",
        "Send a smaller picture: 2048 pixels across are enough.",
    )


def _upright(image: Image.Image) -> Photo:
    # JPEG decodes straight to a smaller size; other formats ignore this.
    image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))
    image.seek(0)
    image.load()
    turned = ImageOps.exif_transpose(image)
    has_opacity = "transparency" in turned.info or turned.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    picture = turned.convert("RGBA" if has_opacity else "RGB")
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    if not has_opacity or int(pixels[..., 3].min()) == 255:
        return Photo(np.ascontiguousarray(pixels[..., :3]))
    return Photo(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]))


_TEXTS = (
    (b"<html", "a web page"),
    (b"<!doc", "a web page"),
    (b"<svg", "an XML or SVG file"),
    (b"<?xm", "an XML or SVG file"),
)

_KINDS = (
    (0, b"%PDF", "a PDF"),
    (4, b"ftypheic", "a HEIC or AVIF picture"),
    (4, b"ftypavif", "a HEIC or AVIF picture"),
    (4, b"ftypmif1", "a HEIC or AVIF picture"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
)
"""Where a kind of file has which bytes."""


def _kind(content: bytes) -> str:
    """Return what a file that is no picture looks like."""
    if not content:
        return "an empty file"
    text = content[:64].lstrip().lower()
    texts = (kind for start, kind in _TEXTS if text.startswith(start))
    kinds = (kind for at, start, kind in _KINDS if content.startswith(start, at))
    return next(itertools.chain(texts, kinds), "something else")
