"""What tests of avatar creation share: the tool environment, if it is installed, and a photograph."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.landmarks import Points, ToolsMissing, default_tools, interpreter_of

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
