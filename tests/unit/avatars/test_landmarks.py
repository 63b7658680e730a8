"""The landmarker is a program of another environment: whatever it does, the caller is told in time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from serve_app.avatars.face import width_of
from serve_app.avatars.landmarks import (
    FACE_POINTS,
    INSTALL,
    INSTALLED,
    Landmarker,
    ToolsMissing,
    default_tools,
    install_tools,
    interpreter_of,
    is_installed,
)
from tests.avatar_tools import TOOLS, hopper, mesh, needs_tools

pytestmark = pytest.mark.unit

PICTURE = np.zeros((64, 48, 3), np.uint8)


def pretend(folder: Path, script: str) -> Path:
    """Make a tool environment whose interpreter is a shell script."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (folder / "installed.json").write_text("{}")
    return folder


def test_a_missing_environment_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ToolsMissing, match=f"install them with: {INSTALL}"):
        interpreter_of(tmp_path)


def test_an_unfinished_environment_counts_as_missing(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "tools", "exit 0")
    interpreter_of(folder)
    (folder / "installed.json").unlink()
    with pytest.raises(ToolsMissing):
        Landmarker(folder)


def test_the_environment_lies_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AVATAR_TOOLS", str(tmp_path))
    assert default_tools() == tmp_path
    monkeypatch.delenv("AVATAR_TOOLS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_tools() == tmp_path / "cache" / "serve-app" / "avatar-tools"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "the landmarker failed"),
        ("echo 'no module named mediapipe' >&2; exit 1", "no module named mediapipe"),
        ("cat > /dev/null & echo not-json; wait", "the landmarker failed"),
        ('head -c 9000 > /dev/null; echo \'{"error": "broken", "bytes": 0}\'', "broken"),
        ('head -c 9000 > /dev/null; echo \'{"faces": 1, "bytes": 8}\'; echo 1234567', "expected 478 points"),
    ],
)
def test_a_program_that_fails_is_told(tmp_path: Path, script: str, told: str) -> None:
    with (
        Landmarker(pretend(tmp_path / "tools", script)) as landmarker,
        pytest.raises(ToolsMissing, match=told),
    ):
        landmarker.faces(PICTURE)


def test_a_program_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "tools", "exec sleep 60")
    began_s = time.monotonic()
    with Landmarker(folder, timeout_s=0.3) as landmarker, pytest.raises(ToolsMissing, match=r"within 0\.3 s"):
        landmarker.faces(PICTURE)
    assert time.monotonic() - began_s < 5


def test_answers_are_read_as_they_are_described(tmp_path: Path) -> None:
    points = np.arange(FACE_POINTS * 3, dtype=np.float32)
    (tmp_path / "answer").write_bytes(
        json.dumps({"faces": 1, "bytes": points.nbytes}).encode() + b"\n" + points.tobytes()
    )
    folder = pretend(tmp_path / "tools", f"head -c 9000 > /dev/null; cat {tmp_path / 'answer'}")
    with Landmarker(folder) as landmarker:
        (face,) = landmarker.faces(PICTURE)
    assert np.array_equal(face.reshape(-1), points)


def test_faces_of_many_pictures_come_in_order(tmp_path: Path) -> None:
    faces = [np.full(FACE_POINTS * 3, number, np.float32) for number in range(3)]
    for number, points in enumerate(faces):
        head = json.dumps({"faces": 1, "bytes": points.nbytes}).encode() + b"\n"
        (tmp_path / f"answer{number}").write_bytes(head + points.tobytes())
    size = (
        len(json.dumps({"do": "faces", "width": 48, "height": 64, "bytes": PICTURE.nbytes}))
        + 1
        + PICTURE.nbytes
    )
    answers = "; ".join(f"head -c {size} > /dev/null; cat {tmp_path}/answer{number}" for number in range(3))
    with Landmarker(pretend(tmp_path / "tools", answers)) as landmarker:
        found = [face[0, 0] for (face,) in landmarker.faces_of([PICTURE] * 3)]
        assert found == [0, 1, 2]
        assert list(landmarker.faces_of([])) == []


def test_a_program_that_ends_among_many_pictures_is_told(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "tools", "head -c 100 > /dev/null; exit 1")
    with Landmarker(folder) as landmarker, pytest.raises(ToolsMissing, match="the landmarker failed"):
        list(landmarker.faces_of([PICTURE] * 3))


def test_tools_that_are_there_are_left_alone_and_others_made_anew(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "tools", "exit 0")
    (folder / "installed.json").write_text(json.dumps(INSTALLED))
    said: list[str] = []
    assert install_tools(folder, said.append) == folder
    assert said == ["they are there"]
    assert is_installed(folder)
    (folder / "installed.json").write_text(json.dumps({**INSTALLED, "mediapipe": "mediapipe==0.1"}))
    assert not is_installed(folder)
    (folder / "installed.json").write_text("{")
    assert not is_installed(folder)


@needs_tools
def test_one_face_is_found_and_its_person() -> None:
    rgb = np.asarray(hopper())
    with Landmarker(TOOLS) as landmarker:
        (face,) = landmarker.faces(rgb)
        matte = landmarker.matte(rgb)
    assert face.shape == (FACE_POINTS, 3)
    assert np.abs(face[:, :2] - mesh()[:, :2]).max() < 5
    assert width_of(face) > 150
    assert matte[300, 250] > 200
    assert matte[200, 450] < 50


@needs_tools
def test_nothing_is_found_where_nothing_is() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    with Landmarker(TOOLS) as landmarker:
        assert landmarker.faces(noise) == []
        assert landmarker.faces(np.zeros((200, 300, 3), np.uint8)) == []


@needs_tools
def test_two_people_are_counted() -> None:
    rgb = np.asarray(hopper())
    with Landmarker(TOOLS) as landmarker:
        assert len(landmarker.faces(np.hstack([rgb, rgb[:, ::-1]]))) == 2
