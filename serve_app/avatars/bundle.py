"""An avatar as models get it, and as it lies on disk.

On disk a bundle is a folder: `avatar.json` (version, name, source, motion, SHA-256 of the other files),
`portrait.png`, `matte.png`, `background.png` and `landmarks.safetensors`. Bundles are uploaded by strangers:
nothing in them is executed or unpickled, sizes are checked before anything is decoded, and every fault is an
AvatarInvalid that names it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from serve_app.errors import AvatarInvalid
from serve_app.nouns import UInt8

VERSION = 2
"""Version of the folder's layout; readers refuse others."""

SIZE = 512
"""Width and height of a portrait in pixels."""

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

MAX_BYTES: Mapping[str, int] = {
    JSON: MAX_JSON_BYTES,
    PORTRAIT: 4 * 1_048_576,
    MATTE: 1_048_576,
    BACKGROUND: 4 * 1_048_576,
    LANDMARKS: 65_536,
}
"""The files of a bundle, and how large each may be."""

Contour: TypeAlias = npt.NDArray[np.float32]
"""[N, 2] points (x, y) in portrait pixels."""

MIN_POINTS, MAX_POINTS = 3, 64
"""How many points a contour may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Where the parts of the face are.

    All are contours that run rightwards as the viewer sees the picture: each x is greater than the one
    before. "left" and "right" are the viewer's. The first and last points of the four lip contours are the
    mouth's corners; where the mouth is shut, the two inner contours are the same line.

    Attributes:
        upper_lip_outer: where the upper lip meets the skin above it.
        upper_lip_inner: the upper lip's lower edge.
        lower_lip_inner: the lower lip's upper edge.
        lower_lip_outer: where the lower lip meets the skin below it.
        nose: the nose's lower edge: left wing, tip's underside, right wing.
        jaw: the face's edge from the left ear around the chin to the right ear.
        left_eye_upper: edge of the upper lid, corner to corner.
        left_eye_lower: edge of the lower lid, corner to corner.
        right_eye_upper: edge of the upper lid, corner to corner.
        right_eye_lower: edge of the lower lid, corner to corner.
        left_iris: left edge, middle and right edge of the iris.
        right_iris: left edge, middle and right edge of the iris.
        left_brow: the brow's middle line.
        right_brow: the brow's middle line.
    """

    upper_lip_outer: Contour
    upper_lip_inner: Contour
    lower_lip_inner: Contour
    lower_lip_outer: Contour
    nose: Contour
    jaw: Contour
    left_eye_upper: Contour
    left_eye_lower: Contour
    right_eye_upper: Contour
    right_eye_lower: Contour
    left_iris: Contour
    right_iris: Contour
    left_brow: Contour
    right_brow: Contour

    def contours(self) -> dict[str, Contour]:
        """Return all contours by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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
    """

    avatar_id: str
    name: str
    source: str
    portrait: UInt8
    matte: UInt8
    background: UInt8
    landmarks: Landmarks
    motion: Motion


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
        LANDMARKS: save_tensors(
            {name: np.ascontiguousarray(points) for name, points in bundle.landmarks.contours().items()}
        ),
    }
    document = {
        "version": VERSION,
        "avatar_id": bundle.avatar_id,
        "name": bundle.name,
        "source": bundle.source,
        "motion": asdict(bundle.motion),
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
    document = _document(_file(files, JSON, where), place)
    version = document.get("version")
    if version != VERSION:
        raise AvatarInvalid(f"{place}: expected version {VERSION}, found {version!r}")
    checksums = _record(document.get("sha256"), f"{place}: sha256")
    for name in (PORTRAIT, MATTE, BACKGROUND, LANDMARKS):
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
        landmarks=_landmarks(files[LANDMARKS], f"{where}/{LANDMARKS}"),
        motion=_motion(document.get("motion"), f"{place}: motion"),
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
    return unpack({name: _read(path / name, limit) for name, limit in MAX_BYTES.items()}, str(path))


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
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AvatarInvalid(f"{where}: expected a JSON object, found: {error}") from error
    return _record(document, where)


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


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AvatarInvalid(f"{where}: expected a number, found {value!r}")
    return float(value)


def _landmarks(content: bytes, where: str) -> Landmarks:
    try:
        contours = load_tensors(content)
    # The parser's own error, and numpy's for types it does not have.
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AvatarInvalid(f"{where}: expected a safetensors file, found: {error}") from error
    names = [field.name for field in fields(Landmarks)]
    missing = [name for name in names if name not in contours]
    if missing:
        raise AvatarInvalid(f"{where}: expected {', '.join(names)}, found no {', '.join(missing)}")
    return Landmarks(**{name: contours[name] for name in names})


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
    _check_face(bundle.landmarks, where)
    limits = {"head_px": (0, 4), "breath_px": (0, 4), "blink_every_s": (0.5, 60), "blink_s": (0.1, 1)}
    for name, (low, high) in limits.items():
        value = getattr(bundle.motion, name)
        if not low <= value <= high:
            raise AvatarInvalid(f"{where}: motion.{name}: expected {low} to {high}, found {value}")


def _check_face(face: Landmarks, where: str) -> None:
    """Refuse landmarks that no upright face has: drawing divides by these distances."""
    where = f"{where}: landmarks"
    for name, points in face.contours().items():
        _check_contour(points, f"{where}.{name}")
    _check_mouth(face, where)
    for name, upper, lower in (
        ("left_eye", face.left_eye_upper, face.left_eye_lower),
        ("right_eye", face.right_eye_upper, face.right_eye_lower),
    ):
        x = (upper[0, 0] + upper[-1, 0]) / 2
        if height(lower, x) - height(upper, x) < 2:
            raise AvatarInvalid(f"{where}: expected an open eye, found {name} closed at x {x:.1f}")


def _check_contour(points: Contour, where: str) -> None:
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 2:
        raise AvatarInvalid(f"{where}: expected [N, 2] float32, found {points.shape} {points.dtype}")
    if not MIN_POINTS <= len(points) <= MAX_POINTS:
        raise AvatarInvalid(f"{where}: expected {MIN_POINTS} to {MAX_POINTS} points, found {len(points)}")
    # NaN is neither inside nor in order.
    if not ((points >= 0) & (points < SIZE)).all():
        raise AvatarInvalid(f"{where}: expected points within the portrait, found {points.tolist()}")
    if not (np.diff(points[:, 0]) > 0.01).all():
        raise AvatarInvalid(f"{where}: expected points from left to right, found {points.tolist()}")
    if points[-1, 0] - points[0, 0] < 4:
        raise AvatarInvalid(f"{where}: expected 4 px or more across, found {points.tolist()}")


def _check_mouth(face: Landmarks, where: str) -> None:
    middle = (face.upper_lip_inner[0, 0] + face.upper_lip_inner[-1, 0]) / 2
    names = ("nose", "upper_lip_outer", "upper_lip_inner", "lower_lip_outer", "jaw")
    down = [(name, height(getattr(face, name), middle)) for name in names]
    for (above, y), (below, lower_y) in itertools.pairwise(down):
        if lower_y - y < 2.0:
            raise AvatarInvalid(
                f"{where}: expected {below} 2 px or more below {above}, found {y:.1f} and {lower_y:.1f}"
            )
    top, bottom = float(face.nose[:, 1].min()), float(face.jaw[:, 1].max())
    lips = (face.upper_lip_outer, face.upper_lip_inner, face.lower_lip_inner, face.lower_lip_outer)
    for lip in lips:
        if lip[:, 1].min() < top or lip[:, 1].max() > bottom:
            raise AvatarInvalid(f"{where}: expected lips between nose and chin, found {lip.tolist()}")
    for part in (face.left_brow, face.right_brow, face.left_iris, face.right_iris):
        if part[:, 1].max() > down[0][1] - 2.0:
            raise AvatarInvalid(
                f"{where}: expected eyes and brows above the nose's edge, found {part.tolist()}"
            )
    gap = height(face.lower_lip_inner, middle) - height(face.upper_lip_inner, middle)
    if not -1.0 <= gap <= 0.5 * (down[3][1] - down[1][1]):
        raise AvatarInvalid(f"{where}: expected a closed mouth, found lips {gap:.1f} px apart")
    left, right = max(lip[0, 0] for lip in lips), min(lip[-1, 0] for lip in lips)
    if right - left < 12 or face.jaw[0, 0] > left - 2 or face.jaw[-1, 0] < right + 2:
        raise AvatarInvalid(
            f"{where}: expected a mouth of 12 px or more within the jaw, found {left} to {right}"
        )


def height(contour: Contour, x: float) -> float:
    """Return the y of a contour at column `x`; beyond its ends, that of its end."""
    return float(np.interp(x, contour[:, 0], contour[:, 1]))
