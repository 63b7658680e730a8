"""Avatars are found by id and kept whole, in a folder or behind a URL."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.avatars.bundle import MAX_BYTES, OPTIONAL, AvatarBundle, is_avatar_id, pack, save_bundle
from serve_app.avatars.store import BUILTIN, AvatarExists, AvatarStore, StoreUnreachable, new_avatar_id
from serve_app.errors import AvatarInvalid
from tests.avatar_tools import filmed

pytestmark = pytest.mark.unit


def add(folder: Path, avatar_id: str, name: str) -> None:
    bundle = AvatarStore(None).load("default")
    save_bundle(dataclasses.replace(bundle, avatar_id=avatar_id, name=name), folder / avatar_id)


def test_default_is_built_in_and_small() -> None:
    store = AvatarStore(None)
    assert "default" in store.ids()
    assert store.load("default").avatar_id == "default"
    assert sum(path.stat().st_size for path in (BUILTIN / "default").iterdir()) < 1_000_000


def test_folder_adds_avatars_and_may_grow(tmp_path: Path) -> None:
    store = AvatarStore(tmp_path / "avatars")
    assert store.ids() == AvatarStore(None).ids()
    add(tmp_path / "avatars", "zoe", "Zoe")
    assert set(store.ids()) == {*AvatarStore(None).ids(), "zoe"}
    assert store.load("zoe").name == "Zoe"


def test_folder_hides_a_built_in_avatar(tmp_path: Path) -> None:
    add(tmp_path, "default", "Ours")
    assert AvatarStore(tmp_path).load("default").name == "Ours"
    assert AvatarStore(tmp_path).ids() == AvatarStore(None).ids()


def test_unknown_id_lists_those_that_exist() -> None:
    with pytest.raises(AvatarInvalid, match=r"default.*'nobody'"):
        AvatarStore(None).load("nobody")


@pytest.mark.parametrize("avatar_id", ["../default", "..", "", "/etc", "a/../default", "default/"])
def test_paths_are_no_ids(tmp_path: Path, avatar_id: str) -> None:
    add(tmp_path, "default", "Outside")
    (tmp_path / "inner").mkdir()
    with pytest.raises(AvatarInvalid, match="expected an avatar of"):
        AvatarStore(tmp_path / "inner").load(avatar_id)


def test_folder_and_bundle_must_agree_on_the_id(tmp_path: Path) -> None:
    add(tmp_path, "zoe", "Zoe")
    (tmp_path / "zoe").rename(tmp_path / "eva")
    with pytest.raises(AvatarInvalid, match="expected avatar_id 'eva', found 'zoe'"):
        AvatarStore(tmp_path).load("eva")


# --- new avatars ---------------------------------------------------------------------------------------


def bundle(avatar_id: str, name: str = "New") -> AvatarBundle:
    return dataclasses.replace(AvatarStore(None).load("default"), avatar_id=avatar_id, name=name)


@functools.cache
def packed(avatar_id: str, name: str = "New") -> dict[str, bytes]:
    """Return the files of a bundle; compressing them takes half a second."""
    return pack(bundle(avatar_id, name))


@pytest.fixture(params=["folder", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is empty: a folder, its URL, or one behind fsspec."""
    if request.param == "memory":
        return f"memory://{tmp_path.name}-{id(request)}/avatars"
    return str(tmp_path / "there") if request.param == "folder" else f"file://{tmp_path}/there"


def test_a_new_avatar_is_listed_and_loads_as_it_was(url: str, tmp_path: Path) -> None:
    store = AvatarStore(url, tmp_path / "cache")
    assert store.takes_new_ones
    made = bundle("zoe", "Zoë")
    store.add(pack(made))
    assert "zoe" in store.ids()
    loaded = AvatarStore(url, tmp_path / "other-cache").load("zoe")
    assert loaded.name == "Zoë"
    assert np.array_equal(loaded.portrait, made.portrait)
    assert store.card("zoe").name == "Zoë"
    assert {card.avatar_id for card in store.cards()} == {*AvatarStore(None).ids(), "zoe"}
    assert store.file("zoe", "portrait.png").startswith(b"\x89PNG")


def test_footage_is_kept_with_its_avatar(url: str, tmp_path: Path) -> None:
    made = filmed("zoe")
    AvatarStore(url, tmp_path / "cache").add(pack(made))
    loaded = AvatarStore(url, tmp_path / "other-cache").load("zoe")
    assert made.footage is not None
    assert loaded.footage is not None
    assert loaded.footage.mp4 == made.footage.mp4


def test_ids_are_given_once(url: str, tmp_path: Path) -> None:
    store = AvatarStore(url, tmp_path / "cache")
    store.add(packed("zoe", "First"))
    for taken in ("zoe", "default"):
        with pytest.raises(AvatarExists, match="which is taken"):
            store.add(packed(taken, "Second"))
    assert store.card("zoe").name == "First"


def test_a_bundle_that_would_not_load_is_not_stored(url: str, tmp_path: Path) -> None:
    store = AvatarStore(url, tmp_path / "cache")
    files = packed("zoe")
    for damaged in (
        {**files, "portrait.png": files["portrait.png"][:-10]},
        {name: content for name, content in files.items() if name != "matte.png"},
        {**files, "avatar.json": files["avatar.json"].replace(b'"version": 3', b'"version": 4')},
    ):
        with pytest.raises(AvatarInvalid):
            store.add(damaged)
    assert store.ids() == AvatarStore(None).ids()


def test_a_removed_avatar_is_gone_with_all_its_files(url: str, tmp_path: Path) -> None:
    store = AvatarStore(url, tmp_path / "cache")
    for avatar_id in ("eva", "zoe"):
        store.add(packed(avatar_id))
        store.load(avatar_id)
    store.remove("zoe")
    assert set(store.ids()) == {*AvatarStore(None).ids(), "eva"}
    for reader in (store, AvatarStore(url, tmp_path / "other-cache")):
        with pytest.raises(AvatarInvalid, match="expected an avatar of"):
            reader.load("zoe")
        assert reader.load("eva").avatar_id == "eva"
    assert not [path for path in tmp_path.rglob("*") if "zoe" in path.name or path.name.startswith(".")]
    store.add(packed("zoe", "Again"))
    assert store.load("zoe").name == "Again"


@pytest.mark.parametrize("avatar_id", ["nobody", "", "..", "../eva", "eva/", ".", "a" * 500])
def test_what_is_not_in_the_store_cannot_be_removed(url: str, tmp_path: Path, avatar_id: str) -> None:
    store = AvatarStore(url, tmp_path / "cache")
    store.add(packed("eva"))
    with pytest.raises(AvatarInvalid, match="expected an avatar of the store: eva; found"):
        store.remove(avatar_id)
    assert "eva" in store.ids()


def test_built_in_avatars_cannot_be_removed(url: str, tmp_path: Path) -> None:
    for store in (AvatarStore(url, tmp_path / "cache"), AvatarStore(None)):
        with pytest.raises(AvatarInvalid, match=r"built in|avatars\.store"):
            store.remove("default")
    assert AvatarStore(None).load("default").avatar_id == "default"


def test_removing_what_hides_a_built_in_avatar_shows_that_again(tmp_path: Path) -> None:
    add(tmp_path, "default", "Ours")
    AvatarStore(tmp_path).remove("default")
    assert AvatarStore(tmp_path).load("default").name == "Mara"


def test_a_store_that_cannot_be_reached_removes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="nosuch://bucket"):
        AvatarStore("nosuch://bucket/x", tmp_path).remove("zoe")


def test_other_files_never_reach_the_store(tmp_path: Path) -> None:
    store = AvatarStore(tmp_path / "there")
    store.add({**packed("zoe"), "../../evil": b"x", "run.sh": b"x"})
    names = set(MAX_BYTES) - set(OPTIONAL)
    assert {path.name for path in (tmp_path / "there" / "zoe").iterdir()} == names
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == names


def test_without_a_store_nothing_is_taken() -> None:
    store = AvatarStore(None)
    assert not store.takes_new_ones
    with pytest.raises(AvatarInvalid, match=r"avatars\.store"):
        store.add(packed("zoe"))


def test_of_two_that_add_the_same_id_one_wins(tmp_path: Path) -> None:
    files = [packed("zoe", name) for name in ("A", "B", "C", "D")]

    def add_one(one: dict[str, bytes]) -> bool:
        try:
            AvatarStore(tmp_path / "there").add(one)
        except AvatarExists:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add_one, files)) == 1
    assert AvatarStore(tmp_path / "there").load("zoe").name in "ABCD"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["zoe"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file, not a folder")
    with pytest.raises(StoreUnreachable, match="expected a folder to write"):
        AvatarStore(tmp_path / "there").add(packed("zoe"))


def remote(name: str) -> tuple[str, Any]:
    """Return the URL of a store behind fsspec, and its filesystem."""
    import fsspec

    return f"memory://{name}", fsspec.filesystem("memory")


def test_a_remote_bundle_is_read_once_and_then_without_its_store(tmp_path: Path) -> None:
    url, files = remote("cached")
    AvatarStore(url, tmp_path / "a").add(packed("zoe"))
    store = AvatarStore(url, tmp_path / "b")
    store.load("zoe")
    files.rm("/cached", recursive=True)
    assert store.load("zoe").avatar_id == "zoe"
    with pytest.raises(AvatarInvalid):
        AvatarStore(url, tmp_path / "c").load("zoe")


@pytest.mark.parametrize("damage", ["cut", "missing", "too long", "other id"])
def test_a_damaged_remote_bundle_is_refused_and_not_cached(tmp_path: Path, damage: str) -> None:
    url, files = remote(f"damaged-{damage.replace(' ', '-')}")
    AvatarStore(url, tmp_path / "a").add(packed("zoe"))
    place = f"{url.removeprefix('memory:/')}/zoe"
    if damage == "missing":
        files.rm_file(f"{place}/matte.png")
    elif damage == "other id":
        for name, content in packed("eva").items():
            files.pipe_file(f"{place}/{name}", content)
    else:
        content = files.cat_file(f"{place}/portrait.png")
        longer = content + bytes(MAX_BYTES["portrait.png"])
        files.pipe_file(f"{place}/portrait.png", content[:-9] if damage == "cut" else longer)
    with pytest.raises(AvatarInvalid):
        AvatarStore(url, tmp_path / "b").load("zoe")
    assert not list((tmp_path / "b").glob("zoe"))


def test_what_an_interrupted_write_leaves_is_no_avatar(tmp_path: Path) -> None:
    url, files = remote("interrupted")
    AvatarStore(url, tmp_path / "a").add(packed("zoe"))
    files.rm_file("/interrupted/zoe/avatar.json")
    store = AvatarStore(url, tmp_path / "b")
    assert store.ids() == AvatarStore(None).ids()
    with pytest.raises(AvatarInvalid, match="expected an avatar of"):
        store.load("zoe")


def test_a_store_that_cannot_be_reached_is_told_without_its_secrets(tmp_path: Path) -> None:
    store = AvatarStore("nosuch://user:secret@bucket/x?key=secret", tmp_path)
    with pytest.raises(StoreUnreachable) as caught:
        store.ids()
    assert "nosuch://bucket/x" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_damaged_bundles_do_not_hide_the_others(tmp_path: Path) -> None:
    add(tmp_path, "zoe", "Zoe")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "avatar.json").write_text("{")
    assert {card.avatar_id for card in AvatarStore(tmp_path).cards()} == {*AvatarStore(None).ids(), "zoe"}


def test_new_ids_are_ids_and_rise_with_time() -> None:
    ids = [new_avatar_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(is_avatar_id(one) and len(one) == 31 for one in ids)
    assert ids[0][:14] <= ids[-1][:14]
