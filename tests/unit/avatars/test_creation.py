"""Avatars are made one at a time in processes of their own, and few may wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from serve_app.avatars.creation import CreationBusy, CreationFailed, Creations, Order, create_avatar
from serve_app.avatars.landmarks import ToolsMissing
from serve_app.avatars.photo import PhotoRefused
from tests.avatar_tools import HOPPER, TOOLS, marked_face, needs_tools, video_file
from tests.unit.avatars.test_landmarks import pretend

pytestmark = pytest.mark.unit


CLIP = video_file([marked_face(marks=False)] * 25, 10)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "creation_process" in " ".join(child.cmdline())]


async def test_places_are_few_and_given_back() -> None:
    creations = Creations(max_waiting=1)
    async with creations.place(), creations.place():
        with pytest.raises(CreationBusy) as caught:
            async with creations.place():
                pass
        assert caught.value.retry_after_s > 0
    async with creations.place():
        pass


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (Order("x", "X", b"some text"), "not_an_image"),
        (Order("x", "X", HOPPER.read_bytes()[:9000]), "damaged"),
        (Order("x", "X", url="http://pictures.example/x.png"), "bad_url"),
        (Order("x", "X", url="https://127.0.0.1/x.png"), "bad_url"),
        (Order("x", "X", HOPPER.read_bytes(), background="purple"), "bad_request"),
        (Order("x", "X", HOPPER.read_bytes(), background_image=b"no picture"), "not_an_image"),
        (Order("x", "X", HOPPER.read_bytes(), is_video=True), "not_a_video"),
        (Order("x", "X", CLIP[:2000], is_video=True), "damaged"),
        (Order("x", "X", CLIP, is_video=True, background="green"), "bad_request"),
        (Order("x", "X", CLIP), "not_an_image"),
    ],
)
async def test_refusals_come_out_of_the_process(order: Order, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PhotoRefused) as caught:
        await create_avatar(order, tools=tmp_path)
    assert caught.value.reason == reason
    assert caught.value.suggestion


async def test_missing_tools_come_out_of_the_process(tmp_path: Path) -> None:
    with pytest.raises(ToolsMissing, match="avatar tools"):
        await create_avatar(Order("x", "X", HOPPER.read_bytes()), tools=tmp_path)


async def test_a_creation_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    tools = pretend(tmp_path / "tools", f"echo $$ > {tmp_path / 'pid'}; exec sleep 60")
    with pytest.raises(CreationFailed, match="expected an avatar within"):
        await create_avatar(Order("x", "X", HOPPER.read_bytes()), tools=tools, timeout_s=4.0)
    assert children() == []
    started = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE


async def test_a_cancelled_creation_leaves_no_process(tmp_path: Path) -> None:
    tools = pretend(tmp_path / "tools", "exec sleep 60")
    making = asyncio.create_task(create_avatar(Order("x", "X", HOPPER.read_bytes()), tools=tools))
    while not children():  # noqa: ASYNC110 - a process tells nobody when it begins
        await asyncio.sleep(0.01)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert children() == []


@needs_tools
async def test_an_avatar_comes_out_of_the_process() -> None:
    steps: list[int] = []
    order = Order("grace", "Grace", HOPPER.read_bytes(), source="US Navy", background="#102030")
    creations = Creations(TOOLS)
    async with creations.place():
        created = await creations.create(order, lambda number, text: steps.append(number))
    assert steps == [0, 1, 2, 3, 4]
    assert created.bundle.avatar_id == "grace"
    assert tuple(created.bundle.portrait[5, 5]) == (16, 32, 48)
    assert set(created.files) > {"avatar.json", "portrait.png"}


@needs_tools
async def test_a_filmed_avatar_comes_out_of_the_process() -> None:
    steps: list[str] = []
    order = Order("grace", "Grace", CLIP, is_video=True)
    created = await create_avatar(order, tools=TOOLS, progress=lambda number, text: steps.append(text))
    assert created.bundle.footage is not None
    assert 10 <= len(created.bundle.footage.faces) <= 25
    assert any(text.startswith("following the face (25 of") for text in steps)
