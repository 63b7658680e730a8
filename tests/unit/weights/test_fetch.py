import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from serve_app.errors import WeightsUnavailable
from serve_app.weights.cache import RECORD, WeightsCache
from serve_app.weights.catalogue import Weights
from serve_app.weights.fetch import pull
from tests.unit.weights.contents import CONTENTS

pytestmark = pytest.mark.unit

UNET = "net/unet.pth"


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    return WeightsCache(tmp_path / "cache")


class Broken(LocalFileSystem):
    """A folder whose connection breaks after `breaks_after` bytes, `breaks` times."""

    protocol = "broken"
    breaks, breaks_after = 0, 1000
    opened_at: ClassVar[list[int]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return LocalFileSystem._strip_protocol(path.removeprefix("broken://"))

    def open(self, path: str, mode: str = "rb", block_size: Any = None, **_: Any) -> Any:
        opened = LocalFileSystem().open(path, mode)
        read = opened.read
        opened_here = len(Broken.opened_at)

        def fragile(_: int) -> bytes:
            if len(Broken.opened_at) > opened_here and Broken.breaks > 0:
                Broken.breaks -= 1
                raise ConnectionResetError
            Broken.opened_at.append(opened.tell())
            return bytes(read(Broken.breaks_after if Broken.breaks else -1))

        opened.read = fragile
        return opened


def test_mirror_is_copied_checked_and_recorded(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    told: list[tuple[str, int, int]] = []
    folder = pull(weights, cache, source=str(mirror), progress=lambda *step: told.append(step))
    assert {path: (folder / path).read_bytes() for path in CONTENTS} == CONTENTS
    record = json.loads((folder / RECORD).read_text())
    assert (
        record["files"]["net/config.json"]["sha256"]
        == hashlib.sha256(CONTENTS["net/config.json"]).hexdigest()
    )
    assert told[-1] == ("net/config.json", 8, 8)
    assert (UNET, 0, 102_400) in told
    assert not list(folder.rglob("*.part"))


def test_any_fsspec_url_is_a_source(weights: Weights, cache: WeightsCache) -> None:
    memory = fsspec.filesystem("memory")
    for path, content in CONTENTS.items():
        memory.pipe(f"/mirror/{path}", content)
    folder = pull(weights, cache, source="memory://mirror/")
    assert (folder / UNET).read_bytes() == CONTENTS[UNET]


def test_what_is_there_is_not_fetched_again(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    pull(weights, cache, source=str(mirror))
    shutil.rmtree(mirror)
    pull(weights, cache, source=str(mirror))


def test_damaged_file_is_fetched_again(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    folder = pull(weights, cache, source=str(mirror))
    for path in CONTENTS:
        content = bytearray((folder / path).read_bytes())
        content[3] ^= 1
        (folder / path).write_bytes(content)
        assert (pull(weights, cache, source=str(mirror)) / path).read_bytes() == CONTENTS[path]


def test_wrong_sum_is_refused_and_nothing_is_kept(
    weights: Weights, mirror: Path, cache: WeightsCache
) -> None:
    content = bytearray(CONTENTS[UNET])
    content[7] ^= 1
    (mirror / UNET).write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=r"unet\.pth: expected SHA-256 .*nothing was kept"):
        pull(weights, cache, source=str(mirror))
    assert cache.fault(weights) == "none"
    assert not list(cache.folder.rglob("unet*"))
    (mirror / UNET).write_bytes(CONTENTS[UNET])
    pull(weights, cache, source=str(mirror))


def test_source_that_is_cut_off_is_told_and_gone_on_with(
    weights: Weights, mirror: Path, cache: WeightsCache
) -> None:
    (mirror / UNET).write_bytes(CONTENTS[UNET][:5000])
    with pytest.raises(WeightsUnavailable, match="expected 102400 bytes, found 5000"):
        pull(weights, cache, source=str(mirror))
    assert cache.fault(weights) == "none"
    (mirror / UNET).write_bytes(CONTENTS[UNET])
    told: list[int] = []
    pull(weights, cache, source=str(mirror), progress=lambda _f, done, _t: told.append(done))
    assert told[0] == 5000


def test_file_that_is_too_long_is_refused(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    (mirror / UNET).write_bytes(CONTENTS[UNET] + b"more")
    with pytest.raises(WeightsUnavailable, match="expected 102400 bytes, found 102404"):
        pull(weights, cache, source=str(mirror))
    assert not list(cache.folder.rglob("unet*"))


def test_broken_connections_are_gone_on_with(
    weights: Weights, mirror: Path, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setattr(Broken, "breaks", 3)
    monkeypatch.setattr(Broken, "opened_at", [])
    folder = pull(weights, cache, source=f"broken://{mirror}", pause_s=0.0)
    assert (folder / UNET).read_bytes() == CONTENTS[UNET]
    assert Broken.opened_at[:4] == [0, 1000, 2000, 3000]


def test_connection_that_stays_broken_is_told_and_gone_on_with_later(
    weights: Weights, mirror: Path, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setattr(Broken, "breaks", 4)
    with pytest.raises(
        WeightsUnavailable, match=r"ConnectionResetError.*goes on where this one stopped.*--from"
    ):
        pull(weights, cache, source=f"broken://{mirror}", pause_s=0.0)
    assert len(list(cache.folder.rglob("unet.pth.part"))) == 1
    assert pull(weights, cache, source=f"broken://{mirror}", pause_s=0.0)


def test_source_without_the_file_is_told(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    (mirror / "net/config.json").unlink()
    with pytest.raises(WeightsUnavailable, match=r"config\.json, found FileNotFoundError"):
        pull(weights, cache, source=str(mirror))


def test_small_disk_is_told_before_anything_is_fetched(
    weights: Weights, mirror: Path, cache: WeightsCache
) -> None:
    huge = replace(weights, files=(replace(weights.files[0], size_bytes=10**18), *weights.files[1:]))
    with pytest.raises(WeightsUnavailable, match="bytes free in"):
        pull(huge, cache, source=str(mirror))


def test_two_pulls_at_once_fetch_once(weights: Weights, mirror: Path, cache: WeightsCache) -> None:
    fetched: list[str] = []
    inside = threading.Event()
    go_on = threading.Event()

    def slow(file: str, done: int, total: int) -> None:
        fetched.append(file)
        inside.set()
        go_on.wait(20)

    first = threading.Thread(
        target=pull, args=(weights, cache), kwargs={"source": str(mirror), "progress": slow}
    )
    first.start()
    assert inside.wait(20)
    second = threading.Thread(target=pull, args=(weights, cache), kwargs={"source": "/no/such/folder"})
    second.start()
    go_on.set()
    first.join(20)
    second.join(20)
    assert cache.fault(weights) is None
    assert json.loads((cache.folder_of("toy") / RECORD).read_text())["source"] == "/no/such/folder"
