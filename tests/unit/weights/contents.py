"""Two small files in the place of weights."""

from __future__ import annotations

from pathlib import Path

CONTENTS = {"net/unet.pth": bytes(range(256)) * 400, "net/config.json": b'{"a": 1}'}


def written(folder: Path) -> Path:
    """Return a folder that holds them, as `--from` takes it."""
    for path, content in CONTENTS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
