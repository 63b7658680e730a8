"""Brings weights onto this machine: once, whole, checked, and going on where a broken transfer stopped.

Sources are fsspec's: the hub (`hf://`, through huggingface_hub, which honours HF_ENDPOINT and HF_TOKEN), any
other URL or a folder. A file is written beside its place and moved there when its sum is right.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.errors import AvatarError, WeightsUnavailable
from serve_app.weights.cache import Fetched, WeightsCache
from serve_app.weights.catalogue import WeightFile, Weights

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger("serve_app.weights")

BLOCK_BYTES = 16 * 1024**2
ATTEMPTS = 4
PAUSE_S = 1.0
"""Before the second attempt; doubled before each further one."""

SPARE_BYTES = 256 * 1024**2
"""Room that is left on the disk."""

Progress = Callable[[str, int, int], None]
"""Told the file, its bytes so far, and its bytes in all (0: not known)."""


def pull(
    weights: Weights,
    cache: WeightsCache,
    *,
    source: str | None = None,
    progress: Progress = lambda _file, _done, _total: None,
    pause_s: float = PAUSE_S,
) -> Path:
    """Fetch what is missing of a model's weights, and check what is there.

    One process of a machine at a time fetches a model; others wait, and find it done.

    Args:
        weights: what to fetch.
        cache: where to.
        source: folder or fsspec URL that holds the files in the model's layout; None: the hub.
        progress: told of every block.
        pause_s: before the second attempt at a file.

    Returns:
        The model's folder.

    Raises:
        WeightsUnavailable: the source cannot be read, a file is not what was published, or the disk is full.
    """
    folder = cache.folder_of(weights.model)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(cache.folder / f".{weights.model}.lock"):
        recorded = cache.record(weights.model)
        fetched: dict[str, Fetched] = {}
        for file in weights.files:
            target = folder / file.path
            found = _checked(target, file, recorded.get(file.path), progress)
            fetched[file.path] = found or _fetch(target, file, source, progress, pause_s)
        cache.write_record(weights, fetched, source or "hub")
    return folder


def _checked(target: Path, file: WeightFile, recorded: Fetched | None, progress: Progress) -> Fetched | None:
    """Return a file that is there and right; None: it must be fetched."""
    expected = file.sha256 or (recorded.sha256 if recorded is not None else None)
    if expected is None or not target.is_file():
        return None
    size = target.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        return None
    digest = _hash_of(target, lambda done: progress(file.path, done, size)).hexdigest()
    if digest != expected:
        logger.warning("%s: not what was fetched; it is fetched again", target)
        return None
    return Fetched(size, digest)


def _fetch(target: Path, file: WeightFile, source: str | None, progress: Progress, pause_s: float) -> Fetched:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    url = file.url if source is None else f"{source.rstrip('/')}/{file.path}"
    attempt = 1
    while True:
        try:
            digest = _transfer(url, part, file, progress)
            break
        except (AvatarError, FileNotFoundError, ImportError) as error:
            raise _unavailable(url, error) from error
        except Exception as error:  # every filesystem of fsspec has its own errors of the network
            if attempt == ATTEMPTS:
                raise _unavailable(url, error) from error
            logger.warning("%s: %s; attempt %d", url, type(error).__name__, attempt + 1)
            time.sleep(pause_s * 2 ** (attempt - 1))
            attempt += 1
    size = part.stat().st_size
    if file.size_bytes not in (None, size):
        # What is too short may be the beginning of the right file; the next pull goes on from there.
        if size > (file.size_bytes or 0):
            part.unlink()
        raise WeightsUnavailable(f"{url}: expected {file.size_bytes} bytes, found {size}")
    if file.sha256 not in (None, digest):
        part.unlink()
        raise WeightsUnavailable(f"{url}: expected SHA-256 {file.sha256}, found {digest}; nothing was kept")
    part.replace(target)
    return Fetched(size, digest)


def _transfer(url: str, part: Path, file: WeightFile, progress: Progress) -> str:
    """Append to `part` what it lacks of `url`; return the SHA-256 of the whole."""
    import fsspec

    filesystem, path = fsspec.url_to_fs(url)
    # A published size is the file's own; where none is, the source's word says when it is complete.
    total = file.size_bytes or int(filesystem.size(path) or 0)
    done = part.stat().st_size if part.is_file() else 0
    if total and done > total:
        part.unlink()
        done = 0
    _check_room(part.parent, total - done)
    digest = _hash_of(part, lambda _: None) if done else hashlib.sha256()
    with filesystem.open(path, "rb", block_size=BLOCK_BYTES) as remote, part.open("ab") as local:
        if done:
            remote.seek(done)
        progress(file.path, done, total)
        while block := remote.read(BLOCK_BYTES):
            local.write(block)
            digest.update(block)
            done += len(block)
            progress(file.path, done, total)
        local.flush()
        os.fsync(local.fileno())
    return digest.hexdigest()


def _hash_of(file: Path, told: Callable[[int], None]) -> _Hash:
    digest = hashlib.sha256()
    done = 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            told(done)
    return digest


def _check_room(folder: Path, wanted_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted_bytes + SPARE_BYTES > free:
        raise WeightsUnavailable(
            f"expected {wanted_bytes + SPARE_BYTES} bytes free in {folder}, found {free}; "
            "AVATAR_MODELS may name a folder on another disk"
        )


def _unavailable(url: str, error: Exception) -> WeightsUnavailable:
    if isinstance(error, WeightsUnavailable):
        return error
    if isinstance(error, ImportError):
        return WeightsUnavailable(
            f"{url}: {error}; `pip install 'serve-app[neural]'` brings the hub's client"
        )
    remedy = "" if isinstance(error, FileNotFoundError) else "; the next pull goes on where this one stopped"
    return WeightsUnavailable(
        f"expected to read {url}, found {type(error).__name__}: {str(error)[:200]}{remedy}. "
        "Where the hub cannot be reached, --from names a folder or URL that has the files"
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock of this machine; the kernel lets go of it when its process ends."""
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process fetches these weights; waiting for it")
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
