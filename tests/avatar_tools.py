"""What tests of avatar creation share: the tool environment, if it is installed, and a photograph."""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.bundle import AvatarBundle, Footage, Landmarks
from serve_app.avatars.footage import encode
from serve_app.avatars.landmarks import Points, ToolsMissing, default_tools, interpreter_of
from serve_app.avatars.store import AvatarStore
from serve_app.nouns import UInt8

DATA = Path(__file__).parent / "data"
HOPPER = DATA / "grace_hopper.jpg"


def _missing() -> str:
    try:
        interpreter_of()
    except ToolsMissing as error:
        return str(error)
    return ""


needs_tools = pytest.mark.skipif(bool(_missing()), reason=_missing() or "installed")
"""For tests that find faces."""

TOOLS = default_tools()


def mesh() -> Points:
    """Return the points of the face in HOPPER."""
    points: Points = np.load(DATA / "grace_hopper.mesh.npy", allow_pickle=False)
    return points


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def hopper() -> Image.Image:
    """Return the photograph, decoded."""
    return Image.open(HOPPER).convert("RGB")


def moved(face: Landmarks, right: float, down: float) -> Landmarks:
    """Return landmarks moved by pixels."""
    by = np.array([right, down], np.float32)
    return Landmarks(**{name: points + by for name, points in face.contours().items()})


@functools.cache
def filmed(avatar_id: str = "filmed", frames: int = 12, fps: int = 20) -> AvatarBundle:
    """Return an avatar with footage: the drawn one goes round a circle of six pixels."""
    bundle = AvatarStore(None).load("default")
    turn = 2 * np.pi * np.arange(frames) / frames
    places = [(round(6 * np.cos(angle)), round(6 * np.sin(angle))) for angle in turn]
    footage = Footage(
        mp4=encode([np.roll(bundle.portrait, (down, right), (0, 1)) for right, down in places], fps),
        fps=fps,
        faces=tuple(moved(bundle.landmarks, right, down) for right, down in places),
    )
    return dataclasses.replace(bundle, avatar_id=avatar_id, name="Filmed", footage=footage)


def video_file(
    pictures: Sequence[UInt8],
    fps: int,
    kind: str = "mp4",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return pictures [H, W, 3] RGB as a video file.

    Args:
        pictures: of even width and height.
        fps: their rate.
        kind: of the file, as FFmpeg calls it.
        times: of each picture, ticks of a clock of `fps`; None for one each.
        options: of the file's writer.
    """
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(kind, "libx264")
    # A file, for some writers read what they have written.
    with (
        tempfile.NamedTemporaryFile() as file,
        av.open(file.name, "w", format=kind, container_options=options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=fps)
        height, width = pictures[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.close()
        return Path(file.name).read_bytes()


MARKS = ((33, (0, 255, 0)), (263, (255, 0, 255)))
"""Points of the mesh that are painted into a picture, so that a finder without networks sees the face."""


def marked_face(right: float = 0.0, down: float = 0.0, *, scale: float = 0.75, marks: bool = True) -> UInt8:
    """Return a picture of HOPPER, moved and scaled, with its marks or without; [512, 448, 3]."""
    photo = hopper().resize((round(512 * scale), round(600 * scale)), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (448, 512), (120, 125, 130))
    left, top = round(32 + right), round(32 + down)
    picture.paste(photo, (left, top))
    pixels = np.array(picture)
    for index, color in MARKS if marks else ():
        x, y = (mesh()[index, :2] * scale + (left, top)).round().astype(int)
        pixels[y - 4 : y + 5, x - 4 : x + 5] = color
    return pixels


class MarkedFaces:
    """Finds the face of a marked picture: the mesh of HOPPER, as its marks are moved, turned and scaled."""

    def __init__(self) -> None:
        self.asked = 0

    def faces(self, rgb: UInt8) -> list[Points]:
        """Return the face of a marked picture."""
        self.asked += 1
        seen = [_mark(rgb, color) for _, color in MARKS]
        if any(place is None for place in seen):
            return []
        first, second = (complex(*place) for place in seen if place is not None)
        known, other = (complex(*mesh()[index, :2]) for index, _ in MARKS)
        turn = (second - first) / (other - known)
        flat = (mesh()[:, 0] + 1j * mesh()[:, 1] - known) * turn + first
        return [np.stack([flat.real, flat.imag, mesh()[:, 2] * abs(turn)], axis=1).astype(np.float32)]

    def faces_of(self, pictures: Iterable[UInt8]) -> Iterator[list[Points]]:
        """Yield the face of each picture."""
        return map(self.faces, pictures)

    def matte(self, rgb: UInt8) -> UInt8:
        """Return the middle of the picture."""
        matte = np.zeros(rgb.shape[:2], np.uint8)
        matte[60:, 100:412] = 255
        return matte


def _mark(rgb: UInt8, color: tuple[int, int, int]) -> tuple[float, float] | None:
    bands = [rgb[..., band] > 165 if level else rgb[..., band] < 90 for band, level in enumerate(color)]
    y, x = np.nonzero(bands[0] & bands[1] & bands[2])
    return (float(x.mean()), float(y.mean())) if len(x) > 20 else None
