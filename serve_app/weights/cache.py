"""Where fetched weights lie on this machine, for all processes of it: one folder for each model.

A folder counts once its record, `weights.json`, is written; that happens last. The record holds size and
SHA-256 of every file as it was fetched.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelNotLoaded
from serve_app.weights.catalogue import Weights

RECORD = "weights.json"
CONSENTS = "licences.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as it was fetched."""

    size_bytes: int
    sha256: str


def cache_folder() -> Path:
    """Return the cache: $AVATAR_MODELS, or a folder of the user's."""
    return Path(os.environ.get("AVATAR_MODELS") or "~/.serve-app/models").expanduser()


def pull_command(model: str) -> str:
    """Return the command that errors name."""
    return f"avatar models pull {model}"


class WeightsCache:
    """The weights on this machine.

    Args:
        folder: None for `cache_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder

    def folder_of(self, model: str) -> Path:
        """Return where a model's files lie, whether or not they do."""
        return self.folder / model

    def require(self, weights: Weights) -> Path:
        """Return the folder of a model's weights, which are all there in full size.

        Raises:
            ModelNotLoaded: they are not; the text names the command that fetches them.
        """
        if fault := self.fault(weights):
            raise ModelNotLoaded(
                f"expected the weights of {weights.model!r} in {self.folder_of(weights.model)}, "
                f"found {fault}; fetch them with: {pull_command(weights.model)}"
            )
        return self.folder_of(weights.model)

    def fault(self, weights: Weights) -> str | None:
        """Return what is wrong with a model's weights here; None: nothing. Sums are not computed."""
        folder = self.folder_of(weights.model)
        record = self.record(weights.model)
        if not record:
            return "none"
        for file in weights.files:
            if file.path not in record or not (folder / file.path).is_file():
                return f"no {file.path}"
            found = (folder / file.path).stat().st_size
            if found != record[file.path].size_bytes:
                return f"{file.path} of {found} bytes where {record[file.path].size_bytes} were fetched"
        return None

    def record(self, model: str) -> dict[str, Fetched]:
        """Return what was fetched for a model, by path; nothing where no pull was finished."""
        found = _read_json(self.folder_of(model) / RECORD)
        try:
            return {
                path: Fetched(int(entry["size_bytes"]), str(entry["sha256"]))
                for path, entry in found["files"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}

    def write_record(self, weights: Weights, fetched: Mapping[str, Fetched], source: str) -> None:
        """Note what was fetched, and with that make the folder count."""
        files = {path: {"size_bytes": f.size_bytes, "sha256": f.sha256} for path, f in fetched.items()}
        made = {"model": weights.model, "source": source, "files": files}
        _write_json(self.folder_of(weights.model) / RECORD, made)

    def has_consent(self, weights: Weights) -> bool:
        """Whether somebody agreed here to the present terms of these weights."""
        agreed = _read_json(self.folder / CONSENTS).get(weights.model)
        return isinstance(agreed, dict) and agreed.get("terms") == _terms(weights)

    def note_consent(self, weights: Weights) -> None:
        """Note that somebody agreed to the terms of these weights now."""
        known = _read_json(self.folder / CONSENTS)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        _write_json(
            self.folder / CONSENTS, {**known, weights.model: {"terms": _terms(weights), "agreed_at": when}}
        )


def _terms(weights: Weights) -> list[str]:
    return [f"{licence.covers}: {licence.name}" for licence in weights.licences]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(file)
