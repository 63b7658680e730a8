from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.session.usage import UsageState
from serve_app.session.usage_file import UsageFile

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "usage.sqlite"


def test_a_new_file_holds_nothing(path: Path) -> None:
    assert UsageFile(path).load() == UsageState()
    assert path.is_file()


def test_what_is_saved_is_found_again(path: Path) -> None:
    UsageFile(path).load()
    first = UsageState({("acme", "2026-10"): 5.0, ("", "2026-11"): 7.0}, {"one": 1.5, "two": 2.5})
    UsageFile(path).save(first)
    assert UsageFile(path).load() == first
    # Past months stay, sessions that ended do not.
    UsageFile(path).save(UsageState({("acme", "2026-11"): 9.0}, {"two": 3.5}))
    totals = {("acme", "2026-10"): 5.0, ("", "2026-11"): 7.0, ("acme", "2026-11"): 9.0}
    assert UsageFile(path).load() == UsageState(totals, {"two": 3.5})


def test_a_save_that_fails_leaves_the_last_one(path: Path) -> None:
    UsageFile(path).load()
    saved = UsageState({("acme", "2026-11"): 5.0}, {"one": 1.5})
    UsageFile(path).save(saved)
    broken = UsageState({("acme", "2026-11"): 6.0}, {"one": object()})  # type: ignore[dict-item]
    with pytest.raises(sqlite3.Error):
        UsageFile(path).save(broken)
    assert UsageFile(path).load() == saved


def test_a_file_that_is_no_database_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"minutes: many\n" * 100)
    with caplog.at_level(logging.ERROR):
        assert UsageFile(path).load() == UsageState()
    assert path.with_name("usage.sqlite.damaged").read_bytes().startswith(b"minutes")
    assert "expected an SQLite file" in caplog.text
    UsageFile(path).save(UsageState({("acme", "2026-11"): 5.0}))


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        UsageFile(tmp_path / "file" / "usage.sqlite").load()
    with pytest.raises(sqlite3.Error):
        UsageFile(tmp_path).load()


def test_another_programs_lock_is_an_error_and_no_harm(path: Path) -> None:
    UsageFile(path).load()
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            UsageFile(path, patience_s=0.05).save(UsageState({("acme", "2026-11"): 5.0}))
    other.close()
    assert UsageFile(path).load() == UsageState()


@given(junk=st.binary(max_size=300))
def test_whatever_is_in_the_file_is_read_or_put_aside(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("junk") / "usage.sqlite"
    path.write_bytes(junk)
    assert UsageFile(path).load() == UsageState()
