import re
from pathlib import PurePosixPath

import pytest

from serve_app.errors import ModelNotLoaded
from serve_app.weights.catalogue import CATALOGUE, weights_of

pytestmark = pytest.mark.unit


def test_every_file_is_pinned_and_stays_in_its_folder() -> None:
    for weights in CATALOGUE.values():
        assert len({file.path for file in weights.files}) == len(weights.files)
        for file in weights.files:
            assert re.fullmatch(r"[0-9a-f]{40}", file.revision)
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.sha256 is not None or (file.size_bytes or 0) < 10_000
            path = PurePosixPath(file.path)
            assert not path.is_absolute()
            assert ".." not in path.parts
            assert file.url == f"hf://{file.repo}@{file.revision}/{file.repo_path}"


def test_terms_cover_every_model_and_nothing_for_research_alone_is_fetched() -> None:
    for weights in CATALOGUE.values():
        assert weights.licences
        assert all(licence.url.startswith("https://") for licence in weights.licences)
        assert not any(
            word in file.repo_path.lower()
            for file in weights.files
            for word in ("insightface", "buffalo", "face-parse", "syncnet", "animals")
        )


def test_model_without_weights_is_named() -> None:
    with pytest.raises(ModelNotLoaded, match="musetalk, liveportrait; found 'portrait'"):
        weights_of("portrait")
