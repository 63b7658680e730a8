"""Bundles survive the disk, and damaged ones are refused with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from serve_app.avatars.bundle import (
    MAX_BYTES,
    OPTIONAL,
    AvatarBundle,
    Motion,
    is_avatar_id,
    load_bundle,
    pack,
    save_bundle,
    unpack,
)
from serve_app.avatars.store import BUILTIN, AvatarStore
from serve_app.errors import AvatarInvalid
from tests.avatar_tools import filmed, moved

pytestmark = pytest.mark.unit


@pytest.fixture
def bundle() -> AvatarBundle:
    return load_bundle(BUILTIN / "default")


@functools.cache
def _packed() -> dict[str, bytes]:
    return pack(load_bundle(BUILTIN / "default"))


@functools.cache
def _filmed() -> dict[str, bytes]:
    return pack(filmed())


def put_all(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put_all(_packed(), tmp_path / "default")


@pytest.fixture
def filmed_folder(tmp_path: Path) -> Path:
    return put_all(_filmed(), tmp_path / "filmed")


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "avatar.json").read_text())
    document.update(changes)
    (folder / "avatar.json").write_text(json.dumps(document))


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    checksums = json.loads((folder / "avatar.json").read_text())["sha256"]
    edit(folder, sha256={**checksums, name: hashlib.sha256(content).hexdigest()})


def put_landmarks(folder: Path, **contours: Any) -> None:
    known = load_tensors((folder / "landmarks.safetensors").read_bytes())
    put(folder, "landmarks.safetensors", save_tensors({**known, **contours}))


def test_saved_bundle_loads_unchanged(bundle: AvatarBundle, folder: Path) -> None:
    loaded = load_bundle(folder)
    for name in ("portrait", "matte", "background"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(bundle, name))
    for name in ("avatar_id", "name", "source", "motion"):
        assert getattr(loaded, name) == getattr(bundle, name)
    contours = loaded.landmarks.contours()
    for name, points in bundle.landmarks.contours().items():
        np.testing.assert_array_equal(contours[name], points)


@pytest.mark.parametrize("avatar_id", AvatarStore(None).ids())
def test_built_in_bundles_load_and_name_their_source(avatar_id: str) -> None:
    assert load_bundle(BUILTIN / avatar_id).source


def test_saving_twice_gives_the_same_bytes(bundle: AvatarBundle, folder: Path, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in folder.iterdir()} == set(MAX_BYTES) - set(OPTIONAL)


def test_saved_footage_loads_unchanged(filmed_folder: Path) -> None:
    made, loaded = filmed().footage, load_bundle(filmed_folder).footage
    assert made is not None
    assert loaded is not None
    assert (loaded.mp4, loaded.fps, len(loaded.faces)) == (made.mp4, made.fps, len(made.faces))
    for mine, theirs in zip(loaded.faces, made.faces, strict=True):
        for name, points in theirs.contours().items():
            np.testing.assert_array_equal(mine.contours()[name], points)


def test_packed_bundle_unpacks_and_other_files_are_not_looked_at(bundle: AvatarBundle) -> None:
    files = {**pack(bundle), "notes.txt": b"x", "evil.pkl": b"y"}
    np.testing.assert_array_equal(unpack(files, "somewhere").portrait, bundle.portrait)


@pytest.mark.parametrize("name", MAX_BYTES)
def test_missing_file_is_named(filmed_folder: Path, name: str) -> None:
    files = {path.name: path.read_bytes() for path in filmed_folder.iterdir()}
    (filmed_folder / name).unlink()
    with pytest.raises(AvatarInvalid, match=name):
        load_bundle(filmed_folder)
    del files[name]
    with pytest.raises(AvatarInvalid, match=name):
        unpack(files, "somewhere")


@pytest.mark.parametrize("name", MAX_BYTES)
def test_cut_file_is_refused(filmed_folder: Path, name: str) -> None:
    content = (filmed_folder / name).read_bytes()
    (filmed_folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AvatarInvalid, match=name):
        load_bundle(filmed_folder)


@pytest.mark.parametrize("name", MAX_BYTES)
def test_file_that_is_too_large_is_refused_unread(filmed_folder: Path, name: str) -> None:
    with (filmed_folder / name).open("ab") as file:
        file.truncate(MAX_BYTES[name] + 1)
    with pytest.raises(AvatarInvalid, match=f"{name}: expected at most {MAX_BYTES[name]} bytes"):
        load_bundle(filmed_folder)


def test_newer_version_is_refused_with_both_versions(folder: Path) -> None:
    edit(folder, version=4)
    with pytest.raises(AvatarInvalid, match="expected version 3, found 4"):
        load_bundle(folder)


def test_bundle_of_the_first_version_is_refused(folder: Path) -> None:
    edit(folder, version=1, landmarks={})
    with pytest.raises(AvatarInvalid, match="expected version 3, found 1"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [name for name in MAX_BYTES if name != "avatar.json"])
def test_changed_file_does_not_match_its_checksum(filmed_folder: Path, name: str) -> None:
    with (filmed_folder / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(AvatarInvalid, match=f"{name}: expected sha256"):
        load_bundle(filmed_folder)


@pytest.mark.parametrize("name", ["portrait.png", "matte.png", "background.png"])
def test_picture_that_is_no_png_is_refused(folder: Path, name: str) -> None:
    put(folder, name, b"GIF89a")
    with pytest.raises(AvatarInvalid, match=f"{name}: expected a PNG"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",
        b"\xff" * 8,
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        save_tensors({"jaw": np.zeros((3, 2), np.float32)}),
    ],
)
def test_landmarks_that_are_no_safetensors_are_refused(folder: Path, content: bytes) -> None:
    put(folder, "landmarks.safetensors", content)
    with pytest.raises(AvatarInvalid, match=r"landmarks\.safetensors: expected"):
        load_bundle(folder)


@pytest.mark.parametrize("side", [256, 5_000, 60_000])
def test_other_sizes_are_refused_by_the_header_alone(folder: Path, side: int) -> None:
    content = bytearray((folder / "portrait.png").read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    put(folder, "portrait.png", bytes(content))
    with pytest.raises(AvatarInvalid, match=r"expected (512x512 pixels|a PNG), found"):
        load_bundle(folder)


def test_portrait_with_damaged_pixels_is_refused(folder: Path) -> None:
    content = bytearray((folder / "portrait.png").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    put(folder, "portrait.png", bytes(content))
    with pytest.raises(AvatarInvalid, match="expected a PNG"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"avatar_id": "../../etc"}, "avatar_id"),
        ({"avatar_id": 7}, "avatar_id: expected text"),
        ({"source": None}, "source: expected text"),
        ({"name": "x" * 500}, "name: expected at most 200 characters"),
        ({"source": "x" * 5_000}, "source: expected at most 1000 characters"),
        ({"motion": []}, "motion: expected a JSON object"),
        ({"motion": {"head_px": 400, "breath_px": 1, "blink_every_s": 3, "blink_s": 0.2}}, "head_px"),
        ({"motion": {"head_px": "3", "breath_px": 1, "blink_every_s": 3, "blink_s": 0.2}}, "head_px"),
        ({"motion": {"breath_px": 1, "blink_every_s": 3, "blink_s": 0.2}}, "head_px"),
        ({"sha256": None}, "sha256"),
    ],
)
def test_wrong_field_is_named(folder: Path, changes: dict[str, Any], reason: str) -> None:
    edit(folder, **changes)
    with pytest.raises(AvatarInvalid, match=reason):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 50_000, '{"version": 1'])
def test_json_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "avatar.json").write_text(text)
    with pytest.raises(AvatarInvalid, match=r"avatar\.json"):
        load_bundle(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 511.5, 512.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_landmarks_outside_of_the_portrait_are_refused(
    bundle: AvatarBundle, folder: Path, value: float, axis: int
) -> None:
    line = bundle.landmarks.upper_lip_inner.copy()
    line[0, axis] = value
    put_landmarks(folder, upper_lip_inner=line)
    with pytest.raises(AvatarInvalid, match="landmarks"):
        load_bundle(folder)


WRONG = [
    ("jaw", lambda jaw: jaw[::-1], "from left to right"),
    ("jaw", lambda jaw: jaw[:2], "3 to 64 points"),
    ("jaw", lambda jaw: np.repeat(jaw, 20, axis=0), "3 to 64 points"),
    ("jaw", lambda jaw: jaw.astype(np.float64), "float32"),
    ("jaw", lambda jaw: jaw.reshape(-1), "float32"),
    ("jaw", lambda jaw: jaw * [1, 0.5], "below"),
    ("jaw", lambda jaw: (jaw - [256, 0]) * [0.2, 1] + [256, 0], "within the jaw"),
    ("nose", lambda nose: nose + np.array([0, 60]), "below"),
    ("left_iris", lambda iris: iris * [0.01, 1], "4 px or more across"),
    ("lower_lip_inner", lambda lip: lip + np.array([0, 14]), "closed mouth"),
    ("right_brow", lambda brow: brow + np.array([0, 120]), "above the nose"),
    ("upper_lip_outer", lambda lip: lip * [1, 0.6], "below|between nose and chin"),
    ("left_eye_lower", lambda lid: lid - np.array([0, 20]), "open eye"),
]


@pytest.mark.parametrize(("name", "change", "reason"), WRONG)
def test_landmarks_that_no_face_has_are_refused(
    bundle: AvatarBundle, folder: Path, name: str, change: Callable[[Any], Any], reason: str
) -> None:
    before = bundle.landmarks.contours()[name]
    changed = change(before)
    kind = before.dtype if reason != "float32" else changed.dtype
    put_landmarks(folder, **{name: np.ascontiguousarray(changed, kind)})
    with pytest.raises(AvatarInvalid, match=reason):
        load_bundle(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), name=st.sampled_from(sorted(MAX_BYTES)))
def test_damaged_bundle_loads_whole_or_is_refused(place: int, value: int, name: str) -> None:
    files = _filmed()
    damaged = bytearray(files[name])
    damaged[place % len(damaged)] = value
    if name != "avatar.json":
        checksums = {**json.loads(files["avatar.json"])["sha256"], name: hashlib.sha256(damaged).hexdigest()}
        document = {**json.loads(files["avatar.json"]), "sha256": checksums}
        files = {**files, "avatar.json": json.dumps(document).encode()}
    with contextlib.suppress(AvatarInvalid):
        unpack({**files, name: bytes(damaged)}, "somewhere")


@pytest.mark.parametrize(
    ("footage", "reason"),
    [
        ([], "footage: expected a JSON object"),
        ({"fps": 20}, "found 20 and None"),
        ({"fps": 20.0, "frames": 12}, "whole numbers"),
        ({"fps": 20, "frames": True}, "whole numbers"),
        ({"fps": 120, "frames": 12}, "footage.fps: expected 10 to 30, found 120"),
        ({"fps": 20, "frames": 100_000}, "footage.frames: expected 10 to 240, found 100000"),
        ({"fps": 20, "frames": 13}, r"footage\.safetensors: upper_lip_outer: expected \[13, N, 2\]"),
    ],
)
def test_wrong_footage_is_named(filmed_folder: Path, footage: Any, reason: str) -> None:
    edit(filmed_folder, footage=footage)
    with pytest.raises(AvatarInvalid, match=reason):
        load_bundle(filmed_folder)


@pytest.mark.parametrize("value", [float("nan"), -1.0, 512.0, 500.0])
def test_faces_outside_of_the_footage_are_refused(filmed_folder: Path, value: float) -> None:
    faces = {name: points.copy() for name, points in load_tensors(_filmed()["footage.safetensors"]).items()}
    faces["jaw"][7, 3, 0] = value
    put(filmed_folder, "footage.safetensors", save_tensors(faces))
    with pytest.raises(AvatarInvalid, match=r"footage\.safetensors: jaw: expected points"):
        load_bundle(filmed_folder)


def test_footage_that_the_document_does_not_name_is_not_looked_at(filmed_folder: Path) -> None:
    edit(filmed_folder, footage=None)
    (filmed_folder / "footage.mp4").write_bytes(b"x")
    assert load_bundle(filmed_folder).footage is None


def test_eyes_may_blink_in_footage(tmp_path: Path) -> None:
    bundle = filmed()
    assert bundle.footage is not None
    face = bundle.footage.faces[0]
    lids = face.left_eye_upper.copy()
    lids[:, 1] = np.interp(lids[:, 0], face.left_eye_lower[:, 0], face.left_eye_lower[:, 1])
    shut = dataclasses.replace(face, left_eye_upper=lids)
    blinking = dataclasses.replace(bundle.footage, faces=(shut, *bundle.footage.faces[1:]))
    save_bundle(dataclasses.replace(bundle, footage=blinking), tmp_path / "blinking")
    assert load_bundle(tmp_path / "blinking").footage is not None


def test_bundle_that_would_not_load_is_not_saved(bundle: AvatarBundle, tmp_path: Path) -> None:
    small = dataclasses.replace(bundle, portrait=bundle.portrait[:256])
    deep = dataclasses.replace(bundle, matte=bundle.matte[..., None])
    fast = dataclasses.replace(bundle, motion=Motion(blink_s=9.0))
    footage = filmed().footage
    assert footage is not None
    short = dataclasses.replace(bundle, footage=dataclasses.replace(footage, faces=footage.faces[:3]))
    away = dataclasses.replace(
        bundle,
        footage=dataclasses.replace(footage, faces=tuple(moved(face, 300, 0) for face in footage.faces)),
    )
    uneven = dataclasses.replace(footage.faces[0], jaw=footage.faces[0].jaw[1:])
    odd = dataclasses.replace(
        bundle, footage=dataclasses.replace(footage, faces=(uneven, *footage.faces[1:]))
    )
    for wrong in (small, deep, fast, short, away, odd):
        with pytest.raises(AvatarInvalid):
            save_bundle(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("default", True),
        ("a-B_9", True),
        ("", False),
        ("..", False),
        ("a/b", False),
        ("a\n", False),
        ("x" * 65, False),
    ],
)
def test_avatar_ids_cannot_leave_their_folder(text: str, valid: bool) -> None:
    assert is_avatar_id(text) is valid
