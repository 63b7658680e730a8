"""A finished run ends, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

STUCK = """
import threading

def test_that_leaves_a_thread_behind():
    threading.Thread(target=threading.Event().wait, name="stuck").start()
    assert {passes}
"""


@pytest.mark.parametrize(("passes", "status"), [(True, 0), (False, 1)])
def test_run_with_a_thread_that_never_ends_leaves_with_its_status(
    tmp_path: Path, passes: bool, status: int
) -> None:
    (tmp_path / "test_it.py").write_text(STUCK.format(passes=passes))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.leaving", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert "left running: stuck" in ended.stderr
    assert f"1 {'passed' if passes else 'failed'}" in ended.stdout
