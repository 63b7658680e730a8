"""`avatar create` makes an avatar of a photo, or says in one sentence why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.avatars.bundle import pack
from serve_app.avatars.store import AvatarStore
from serve_app.client.cli import main
from serve_app.client.create import id_of
from tests.avatar_tools import HOPPER, TOOLS, filmed, marked_face, needs_tools, video_file

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "avatar_id"),
    [
        ("Grace Hopper", "grace-hopper"),
        ("  Zoë 2! ", "zoe-2"),
        ("../../etc", "etc"),
        ("李", ""),
        ("a" * 99, "a" * 64),
    ],
)
def test_ids_are_made_of_names(name: str, avatar_id: str) -> None:
    assert id_of(name) == avatar_id


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        ("no-such.jpg", "no-such.jpg: expected a file"),
        (__file__, "expected a picture as JPEG, PNG, GIF, WEBP"),
        ("http://pictures.example/a.jpg", "expected an https URL"),
    ],
)
def test_a_photo_that_cannot_be_used_ends_with_one_sentence(tmp_path: Path, photo: str, told: str) -> None:
    result = CliRunner().invoke(main, ["create", photo, "--name", "Ann", "--store", str(tmp_path / "there")])
    assert result.exit_code == 1
    assert told in result.output
    assert not (tmp_path / "there").exists()


def test_missing_tools_are_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATAR_TOOLS", str(tmp_path / "none"))
    result = CliRunner().invoke(
        main, ["create", str(HOPPER), "--name", "Ann", "--store", str(tmp_path / "there")]
    )
    assert result.exit_code == 1
    assert "install them with: avatar tools" in result.output


def test_an_avatar_is_removed_from_the_store(tmp_path: Path) -> None:
    AvatarStore(tmp_path).add(pack(filmed("zoe")))
    command = ["remove", "zoe", "--store", str(tmp_path)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0
    assert "removed zoe" in result.output
    assert "zoe" not in AvatarStore(tmp_path).ids()
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "expected an avatar of the store: none; found 'zoe'" in again.output


def test_a_built_in_avatar_is_not_removed(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["remove", "default", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "which is built in" in result.output


def test_a_video_that_cannot_be_used_ends_with_one_sentence(tmp_path: Path) -> None:
    video = tmp_path / "cut.mp4"
    video.write_bytes(video_file([marked_face()] * 25, 10)[:3000])
    result = CliRunner().invoke(
        main, ["create", str(video), "--name", "Ann", "--store", str(tmp_path / "there")]
    )
    assert result.exit_code == 1
    assert "expected a whole video" in result.output
    assert not (tmp_path / "there").exists()


@needs_tools
def test_a_video_becomes_an_avatar_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATAR_TOOLS", str(TOOLS))
    video, store = tmp_path / "grace.mp4", tmp_path / "there"
    video.write_bytes(video_file([marked_face(marks=False)] * 25, 10))
    result = CliRunner().invoke(main, ["create", str(video), "--name", "Grace", "--store", str(store)])
    assert result.exit_code == 0, result.output
    assert AvatarStore(store).load("grace").footage is not None


@needs_tools
def test_a_photo_becomes_an_avatar_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATAR_TOOLS", str(TOOLS))
    store, preview = tmp_path / "there", tmp_path / "preview.png"
    options = ["--store", str(store), "--source", "US Navy", "--preview", str(preview)]
    command = ["create", str(HOPPER), "--name", "Grace Hopper", *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "created grace-hopper" in result.output
    assert AvatarStore(store).card("grace-hopper").source == "US Navy"
    assert preview.read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "--id" in again.output
