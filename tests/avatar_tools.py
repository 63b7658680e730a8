"""What tests of avatar creation share: the tool environment, if it is installed, and a photograph."""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.bundle import AvatarBundle, Footage, Landmarks
from serve_app.avatars.footage import encode
from serve_app.avatars.landmarks import Points, ToolsMissing, default_tools, interpreter_of
from serve_app.avatars.store import AvatarStore

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
