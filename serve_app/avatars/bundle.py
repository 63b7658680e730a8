"""An avatar as models get it, and as it lies on disk.

On disk a bundle is a folder: `avatar.json` (version, name, source, motion, SHA-256 of the other files),
`portrait.png`, `matte.png`, `background.png` and `landmarks.safetensors`; an avatar made of a video has
`footage.mp4` and `footage.safetensors` too. Bundles are uploaded by strangers: nothing in them is executed or
unpickled, sizes are checked before anything is decoded, and every fault is an AvatarInvalid that names it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serve_app.avatars.contours import (
    SIZE,
    Contour,
    Landmarks,
    check_face,
    height,
    pack_face,
    pack_faces,
    unpack_face,
    unpack_faces,
)
from serve_app.errors import AvatarInvalid
from serve_app.nouns import UInt8

__all__ = [
    "BACKGROUND", "FOOTAGE", "FOOTAGE_FACES", "ID_PATTERN", "JSON", "LANDMARKS", "MATTE", "MAX_BYTES",
    "MAX_FOOTAGE_FPS", "MAX_FOOTAGE_FRAMES", "MAX_JSON_BYTES", "MAX_NAME_CHARS", "MAX_SOURCE_CHARS",
    "MIN_FOOTAGE_FPS", "MIN_FOOTAGE_FRAMES", "OPTIONAL", "PORTRAIT", "SIZE", "VERSION",
    "AvatarBundle", "Contour", "Footage", "Landmarks", "Motion",
    "file_names", "height", "is_avatar_id", "load_bundle", "pack", "save_bundle", "unpack",
]  # fmt: skip

VERSION = 3
"""Version of the folder's layout; readers refuse others."""

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an avatar id looks like; it is also the name of a folder."""

MAX_JSON_BYTES = 65_536
MAX_NAME_CHARS = 200
MAX_SOURCE_CHARS = 1_000

JSON = "avatar.json"
PORTRAIT = "portrait.png"
MATTE = "matte.png"
BACKGROUND = "background.png"
LANDMARKS = "landmarks.safetensors"
FOOTAGE = "footage.mp4"
FOOTAGE_FACES = "footage.safetensors"

MAX_BYTES: Mapping[str, int] = {
    JSON: MAX_JSON_BYTES,
    PORTRAIT: 4 * 1_048_576,
    MATTE: 1_048_576,
    BACKGROUND: 4 * 1_048_576,
    LANDMARKS: 65_536,
    FOOTAGE: 16 * 1_048_576,
    FOOTAGE_FACES: 2 * 1_048_576,
}
"""The files of a bundle, and how large each may be."""

OPTIONAL = (FOOTAGE, FOOTAGE_FACES)
"""The files that only an avatar made of a video has."""

MIN_FOOTAGE_FPS, MAX_FOOTAGE_FPS = 10, 30
MIN_FOOTAGE_FRAMES, MAX_FOOTAGE_FRAMES = 10, 240
"""Eight seconds at 30 frames a second; decoded they take 94 MB."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How the avatar keeps still.

    Attributes:
        head_px: largest shift of the head, pixels, 0 to 4.
        breath_px: rise of the shoulders with a breath, pixels, 0 to 4.
        blink_every_s: mean time between blinks, seconds, 0.5 to 60.
        blink_s: time from open to open, seconds, 0.1 to 1.
    """

    head_px: float = 3.0
    breath_px: float = 1.5
    blink_every_s: float = 2.7
    blink_s: float = 0.27


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """A person filmed while they keep still: T pictures of SIZE x SIZE that follow each other endlessly.

    Attributes:
        mp4: the file, H.264 with a luma and chroma of BT.601, limited range; see avatars/footage.py.
        fps: pictures per second.
        faces: T, where the face is in each picture.
    """

    mp4: bytes
    fps: int
    faces: tuple[Landmarks, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AvatarBundle:
    """An identity, prepared for the models.

    Attributes:
        avatar_id: matches ID_PATTERN.
        name: for people.
        source: where the picture comes from and under which terms, for people; may be empty.
        portrait: [SIZE, SIZE, 3] uint8 RGB, the whole picture at rest, background and all: looking at the
            viewer, mouth closed, eyes open.
        matte: [SIZE, SIZE] uint8, how much of each pixel is the person: 0 none, 255 all. What is outside
            never moves.
        background: [SIZE, SIZE, 3] uint8 RGB, what is behind the person; under matte 0 it is the portrait.
        landmarks: where the parts of the face are.
        motion: how it keeps still.
        footage: what it shows while it is idle, in place of the portrait in motion; None for the latter.
    """

    avatar_id: str
    name: str
    source: str
    portrait: UInt8
    matte: UInt8
    background: UInt8
    landmarks: Landmarks
    motion: Motion
    footage: Footage | None = None


def pack(bundle: AvatarBundle) -> dict[str, bytes]:
    """Return the files of a bundle, content by name; the same bundle gives the same bytes.

    Raises:
        AvatarInvalid: the bundle would not load again.
    """
    where = f"avatar {bundle.avatar_id!r}"
    _check(bundle, where)
    files = {
        PORTRAIT: _png(bundle.portrait),
        MATTE: _png(bundle.matte),
        BACKGROUND: _png(bundle.background),
        LANDMARKS: pack_face(bundle.landmarks),
    }
    footage = bundle.footage
    if footage is not None:
        files[FOOTAGE] = footage.mp4
        files[FOOTAGE_FACES] = pack_faces(footage.faces)
        unpack_faces(files[FOOTAGE_FACES], len(footage.faces), f"{where}: footage")
    document = {
        "version": VERSION,
        "avatar_id": bundle.avatar_id,
        "name": bundle.name,
        "source": bundle.source,
        "motion": asdict(bundle.motion),
        "footage": None if footage is None else {"fps": footage.fps, "frames": len(footage.faces)},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[JSON] = (json.dumps(document, indent=2) + "\n").encode()
    for name, content in files.items():
        if len(content) > MAX_BYTES[name]:
            raise AvatarInvalid(f"{where}: {name}: expected at most {MAX_BYTES[name]} bytes, found more")
    return files


def unpack(files: Mapping[str, bytes], where: str) -> AvatarBundle:
    """Read a bundle from its files.

    Args:
        files: content by name; other names are not looked at.
        where: the bundle's place, for errors.

    Raises:
        AvatarInvalid: a file is missing, cut, too large, of another version or does not match its checksum;
            the text names the file, what was expected and what was found.
    """
    for name, limit in MAX_BYTES.items():
        if name in files and len(files[name]) > limit:
            raise AvatarInvalid(f"{where}/{name}: expected at most {limit} bytes, found more")
    place = f"{where}/{JSON}"
    document = _document(_file(files, JSON, where), where)
    version = document.get("version")
    if version != VERSION:
        raise AvatarInvalid(f"{place}: expected version {VERSION}, found {version!r}")
    checksums = _record(document.get("sha256"), f"{place}: sha256")
    for name in _names(document)[1:]:
        found = hashlib.sha256(_file(files, name, where)).hexdigest()
        if found != checksums.get(name):
            raise AvatarInvalid(f"{where}/{name}: expected sha256 {checksums.get(name)}, found {found}")
    bundle = AvatarBundle(
        avatar_id=_text(document, "avatar_id", place),
        name=_text(document, "name", place),
        source=_text(document, "source", place),
        portrait=_decode(files[PORTRAIT], "RGB", f"{where}/{PORTRAIT}"),
        matte=_decode(files[MATTE], "L", f"{where}/{MATTE}"),
        background=_decode(files[BACKGROUND], "RGB", f"{where}/{BACKGROUND}"),
        landmarks=unpack_face(files[LANDMARKS], f"{where}/{LANDMARKS}"),
        motion=_motion(document.get("motion"), f"{place}: motion"),
        footage=_footage(document, files, where),
    )
    _check(bundle, place)
    return bundle


def save_bundle(bundle: AvatarBundle, path: Path) -> None:
    """Write `bundle` into the folder `path`, which is made if it is missing.

    Raises:
        AvatarInvalid: the bundle would not load again; nothing is written.
    """
    files = pack(bundle)
    path.mkdir(parents=True, exist_ok=True)
    # The document comes last: a folder without it is no bundle.
    for name, content in files.items():
        (path / name).write_bytes(content)


def load_bundle(path: Path) -> AvatarBundle:
    """Read the folder `path`.

    Raises:
        AvatarInvalid: as `unpack`.
    """
    document = _read(path / JSON, MAX_JSON_BYTES)
    files = {JSON: document}
    for name in file_names(document, str(path))[1:]:
        files[name] = _read(path / name, MAX_BYTES[name])
    return unpack(files, str(path))


def file_names(document: bytes, where: str) -> tuple[str, ...]:
    """Return which files a bundle has, by its document; that itself comes first.

    Raises:
        AvatarInvalid: it is no document of a bundle.
    """
    return _names(_document(document, where))


def _names(document: Mapping[str, Any]) -> tuple[str, ...]:
    without = document.get("footage") is None
    return tuple(name for name in MAX_BYTES if not (without and name in OPTIONAL))


def is_avatar_id(text: str) -> bool:
    """Return whether `text` may name an avatar, and so a folder."""
    return ID_PATTERN.fullmatch(text) is not None


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more than is allowed tells a file that is too large.
            return file.read(limit_bytes + 1)
    except OSError as error:
        raise AvatarInvalid(f"{path}: expected a file, found: {error.strerror}") from error


def _file(files: Mapping[str, bytes], name: str, where: str) -> bytes:
    if name not in files:
        raise AvatarInvalid(f"{where}/{name}: expected a file, found none")
    return files[name]


def _png(pixels: UInt8) -> bytes:
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, format="PNG", optimize=True)
    return image.getvalue()


def _document(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > MAX_JSON_BYTES:
        raise AvatarInvalid(f"{where}/{JSON}: expected at most {MAX_JSON_BYTES} bytes, found more")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AvatarInvalid(f"{where}/{JSON}: expected a JSON object, found: {error}") from error
    return _record(document, f"{where}/{JSON}")


def _decode(content: bytes, mode: str, where: str) -> UInt8:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            # The header is enough for the size: a picture that unpacks to gigabytes is never decoded.
            if image.size != (SIZE, SIZE):
                raise AvatarInvalid(
                    f"{where}: expected {SIZE}x{SIZE} pixels, found {image.width}x{image.height}"
                )
            return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AvatarInvalid(f"{where}: expected a PNG, found: {error}") from error


def _text(document: dict[str, Any], key: str, where: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise AvatarInvalid(f"{where}: {key}: expected text, found {value!r}")
    return value


def _record(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AvatarInvalid(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _motion(value: object, where: str) -> Motion:
    record = _record(value, where)
    return Motion(
        **{field.name: _number(record.get(field.name), f"{where}.{field.name}") for field in fields(Motion)}
    )


def _footage(document: dict[str, Any], files: Mapping[str, bytes], where: str) -> Footage | None:
    if document.get("footage") is None:
        return None
    place = f"{where}/{JSON}: footage"
    record = _record(document["footage"], place)
    fps, frames = record.get("fps"), record.get("frames")
    if type(fps) is not int or type(frames) is not int:
        raise AvatarInvalid(
            f"{place}: expected whole numbers as fps and frames, found {fps!r} and {frames!r}"
        )
    _check_footage(fps, frames, place)
    faces = unpack_faces(files[FOOTAGE_FACES], frames, f"{where}/{FOOTAGE_FACES}")
    return Footage(files[FOOTAGE], fps, faces)


def _check_footage(fps: int, frames: int, where: str) -> None:
    for name, value, low, high in (
        ("fps", fps, MIN_FOOTAGE_FPS, MAX_FOOTAGE_FPS),
        ("frames", frames, MIN_FOOTAGE_FRAMES, MAX_FOOTAGE_FRAMES),
    ):
        if not low <= value <= high:
            raise AvatarInvalid(f"{where}.{name}: expected {low} to {high}, found {value}")


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AvatarInvalid(f"{where}: expected a number, found {value!r}")
    return float(value)


def _check(bundle: AvatarBundle, where: str) -> None:
    if not is_avatar_id(bundle.avatar_id):
        raise AvatarInvalid(f"{where}: avatar_id: expected {ID_PATTERN.pattern}, found {bundle.avatar_id!r}")
    for name, text, limit in (
        ("name", bundle.name, MAX_NAME_CHARS),
        ("source", bundle.source, MAX_SOURCE_CHARS),
    ):
        if len(text) > limit:
            raise AvatarInvalid(f"{where}: {name}: expected at most {limit} characters, found {len(text)}")
    for name, pixels, shape in (
        ("portrait", bundle.portrait, (SIZE, SIZE, 3)),
        ("matte", bundle.matte, (SIZE, SIZE)),
        ("background", bundle.background, (SIZE, SIZE, 3)),
    ):
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise AvatarInvalid(
                f"{where}: {name}: expected {shape} uint8, found {pixels.shape} {pixels.dtype}"
            )
    check_face(bundle.landmarks, where)
    if bundle.footage is not None:
        _check_footage(bundle.footage.fps, len(bundle.footage.faces), f"{where}: footage")
    limits = {"head_px": (0, 4), "breath_px": (0, 4), "blink_every_s": (0.5, 60), "blink_s": (0.1, 1)}
    for name, (low, high) in limits.items():
        value = getattr(bundle.motion, name)
        if not low <= value <= high:
            raise AvatarInvalid(f"{where}: motion.{name}: expected {low} to {high}, found {value}")
