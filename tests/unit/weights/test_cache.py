import os
from pathlib import Path

import pytest

from serve_app.errors import ModelNotLoaded
from serve_app.weights.cache import RECORD, WeightsCache, cache_folder
from serve_app.weights.catalogue import Licence, Weights
from serve_app.weights.fetch import pull

pytestmark = pytest.mark.unit


def test_variable_names_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVATAR_MODELS", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("AVATAR_MODELS")
    assert cache_folder() == Path("~/.serve-app/models").expanduser()


def test_whole_weights_are_given_and_missing_ones_name_the_command(
    weights: Weights, mirror: Path, tmp_path: Path
) -> None:
    cache = WeightsCache(tmp_path / "cache")
    with pytest.raises(ModelNotLoaded, match=r"found none; fetch them with: avatar models pull toy"):
        cache.require(weights)
    pull(weights, cache, source=str(mirror))
    assert cache.require(weights) == tmp_path / "cache" / "toy"


def test_file_cut_off_after_the_pull_is_told(weights: Weights, mirror: Path, tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "cache")
    pull(weights, cache, source=str(mirror))
    os.truncate(cache.folder_of("toy") / "net/unet.pth", 100)
    with pytest.raises(ModelNotLoaded, match=r"unet\.pth of 100 bytes where 102400 were fetched"):
        cache.require(weights)
    (cache.folder_of("toy") / "net/unet.pth").unlink()
    with pytest.raises(ModelNotLoaded, match=r"found no net/unet\.pth"):
        cache.require(weights)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"net/unet.pth": 1}}', '{"files": []}'])
def test_damaged_record_counts_as_none(weights: Weights, tmp_path: Path, text: str) -> None:
    cache = WeightsCache(tmp_path)
    cache.folder_of("toy").mkdir()
    (cache.folder_of("toy") / RECORD).write_text(text)
    assert cache.fault(weights) == "none"


def test_consent_holds_for_the_terms_it_was_given_to(weights: Weights, tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path)
    assert not cache.has_consent(weights)
    cache.note_consent(weights)
    assert cache.has_consent(weights)
    other = Weights("toy", "a toy", weights.files, (Licence("GPL-3.0", "all files", "", "https://x"),))
    assert not cache.has_consent(other)
