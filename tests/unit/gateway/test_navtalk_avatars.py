from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.avatars.bundle import save_bundle
from serve_app.avatars.store import AvatarStore
from serve_app.config import AvatarsConfig
from serve_app.errors import AvatarInvalid
from serve_app.gateway.navtalk.avatars import AvatarDirectory

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with two avatars named Alex, the second one newer, and a damaged bundle."""
    folder = tmp_path_factory.mktemp("avatars")
    default = AvatarStore(None).load("default")
    for number, (avatar_id, name) in enumerate(
        [("alex-1", "Alex"), ("alex-2", "alex"), ("mia", "navtalk.Mia")]
    ):
        save_bundle(replace(default, avatar_id=avatar_id, name=name), folder / avatar_id)
        os.utime(folder / avatar_id / "avatar.json", (1_000 + number, 1_000 + number))
    (folder / "broken").mkdir()
    (folder / "broken" / "avatar.json").write_text("{")
    return folder


@pytest.fixture
def directory(folder: Path) -> AvatarDirectory:
    return AvatarDirectory(AvatarStore(folder), AvatarsConfig())


@pytest.mark.parametrize(
    ("name", "avatar_id", "expected"),
    [
        (None, None, "default"),
        ("", "", "default"),
        ("Mara", None, "default"),
        ("navtalk.mara", None, "default"),
        ("default", None, "default"),
        ("navtalk.Mia", None, "mia"),
        ("MIA", None, "mia"),
        ("alex-1", None, "alex-1"),
        ("Mara", "alex-1", "alex-1"),
    ],
)
def test_an_avatar_is_found(
    directory: AvatarDirectory, name: str | None, avatar_id: str | None, expected: str
) -> None:
    choice = directory.choose(name, avatar_id)

    assert (choice.card.avatar_id, choice.warning) == (expected, None)


def test_of_several_with_one_name_the_newest_is_taken_with_a_warning(directory: AvatarDirectory) -> None:
    choice = directory.choose("navtalk.Alex", None)

    assert choice.card.avatar_id == "alex-2"
    assert choice.warning == "2 avatars have this name; the newest was selected: alex-2"


def test_one_of_navtalks_characters_that_is_not_here_is_played_by_the_default(
    directory: AvatarDirectory,
) -> None:
    choice = directory.choose("navtalk.Zoe", None)

    assert choice.card.avatar_id == "default"
    assert choice.warning == "no avatar has this name here; the default was selected: default"


@pytest.mark.parametrize(
    ("name", "avatar_id"), [("Nobody", None), (None, "nobody"), (None, "../etc"), (None, "broken")]
)
def test_an_avatar_that_is_not_there_is_refused(
    directory: AvatarDirectory, name: str | None, avatar_id: str | None
) -> None:
    with pytest.raises(AvatarInvalid):
        directory.choose(name, avatar_id)


def test_a_bundle_that_is_written_again_is_read_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "mia", tmp_path / "mia")
    directory = AvatarDirectory(AvatarStore(tmp_path), AvatarsConfig())
    assert directory.card("mia").name == "navtalk.Mia"
    document = tmp_path / "mia" / "avatar.json"

    document.write_text(document.read_text().replace("navtalk.Mia", "Maria"))
    os.utime(document, (9_000, 9_000))

    assert directory.card("mia").name == "Maria"


@pytest.mark.parametrize(("kind", "format_"), [("png", "PNG"), ("jpg", "JPEG")])
def test_a_picture_shows_the_portrait(directory: AvatarDirectory, kind: str, format_: str) -> None:
    picture = directory.picture("default", kind)

    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.size) == (format_, (512, 512))
        shown = np.asarray(image.convert("RGB")).astype(float)
    assert np.abs(shown - AvatarStore(None).load("default").portrait).mean() < 2.0
    assert directory.picture("default", kind) is picture
