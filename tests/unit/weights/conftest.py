import hashlib
from pathlib import Path

import pytest

from serve_app.weights.catalogue import Licence, WeightFile, Weights
from tests.unit.weights.contents import CONTENTS, written


@pytest.fixture
def weights() -> Weights:
    """Return a catalogue's entry; its first file has a published sum, the second none."""
    large, small = CONTENTS.items()
    return Weights(
        "toy",
        "a toy",
        (
            WeightFile(
                large[0], "o/r", "abc", "unet.pth", len(large[1]), hashlib.sha256(large[1]).hexdigest()
            ),
            WeightFile(small[0], "o/r", "abc", "config.json"),
        ),
        (Licence("MIT", "all files", "do as you like.", "https://example.com"),),
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return written(tmp_path / "mirror")
