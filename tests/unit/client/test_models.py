from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.client.cli import main
from serve_app.weights import catalogue
from serve_app.weights.catalogue import Licence, WeightFile, Weights
from tests.unit.weights.contents import CONTENTS, written

pytestmark = pytest.mark.unit


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return written(tmp_path / "mirror")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(WeightFile(path, "o/r", "abc", path) for path in CONTENTS)
    licence = Licence("MIT", "all files", "do as you like.", "https://example.com")
    monkeypatch.setitem(catalogue.CATALOGUE, "musetalk", Weights("musetalk", "a toy", files, (licence,)))


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments], env={"AVATAR_MODELS": str(folder)})


@pytest.mark.usefixtures("toy")
def test_first_pull_shows_the_terms_and_wants_an_answer(mirror: Path, tmp_path: Path) -> None:
    refused = run(tmp_path, "pull", "musetalk", "--from", str(mirror))
    assert refused.exit_code == 2
    assert "all files: MIT" in refused.output
    assert "--accept-licences" in refused.output
    assert not (tmp_path / "musetalk").exists()
    agreed = run(tmp_path, "pull", "musetalk", "--from", str(mirror), "--accept-licences")
    assert agreed.exit_code == 0, agreed.output
    again = run(tmp_path, "pull", "musetalk", "--from", str(mirror))
    assert again.exit_code == 0
    assert "MIT" not in again.output


@pytest.mark.usefixtures("toy")
def test_list_and_show_tell_what_is_here(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert "not here" in run(folder, "list").output.splitlines()[0]
    assert "none published" in run(folder, "show", "musetalk").output
    run(folder, "pull", "musetalk", "--from", str(mirror), "--accept-licences")
    assert "not here" not in run(folder, "list").output.splitlines()[0]
    shown = run(folder, "show", "musetalk").output
    assert "complete" in shown
    assert "(as fetched)" in shown
    assert "https://example.com" in shown


@pytest.mark.usefixtures("toy")
def test_pull_that_fails_ends_with_one_sentence(tmp_path: Path) -> None:
    result = run(tmp_path / "c", "pull", "musetalk", "--from", str(tmp_path), "--accept-licences")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: expected to read")


def test_unknown_model_is_a_usage_error(tmp_path: Path) -> None:
    assert run(tmp_path, "pull", "portrait").exit_code == 2
