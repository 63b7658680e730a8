import hashlib
from pathlib import Path

import pytest

from serve_app.weights.catalogue import Licence, WeightFile, Weights

CONTENTS = {"net/unet.pth": bytes(range(256)) * 400, "net/config.json": b'{"a": 1}'}
"""The first has a published sum, the second none."""


@pytest.fixture
def weights() -> Weights:
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
    folder = tmp_path / "mirror"
    for path, content in CONTENTS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
