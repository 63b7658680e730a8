"""A person makes an avatar of a photo on the page, and sees through the green behind another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from tests.avatar_tools import HOPPER, TOOLS, needs_tools
from tests.browser.conftest import visiting
from tests.server import Server, running

pytestmark = [pytest.mark.browser, needs_tools]

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an empty store."""
    with running(
        {"avatars": {"store": str(tmp_path_factory.mktemp("store")), "tools": str(TOOLS)}}
    ) as server:
        yield server


def test_a_photo_becomes_the_avatar_of_the_page(browser: Browser, gallery: Server) -> None:
    with visiting(browser, gallery.http) as visit:
        visit.page.set_input_files("#photo", HOPPER)
        visit.until("document.getElementById('avatar').value.startsWith('avat_')", 60_000)
        visit.until("avatarPage.media === 'playing' && avatarPage.sessionId", 20_000)
        visit.page.wait_for_timeout(500)
        ARTIFACTS.mkdir(exist_ok=True)
        visit.page.screenshot(path=ARTIFACTS / "page-new-avatar.png")
        assert visit.page.locator("#avatar option:checked").inner_text() == "grace_hopper"
        assert visit.complaints() == []


def test_a_photo_that_cannot_be_used_is_explained(browser: Browser, gallery: Server, tmp_path: Path) -> None:
    photo = tmp_path / "notes.jpg"
    photo.write_text("no picture")
    with visiting(browser, gallery.http) as visit:
        visit.page.set_input_files("#photo", photo)
        visit.until("!document.getElementById('hint').hidden")
        assert "Send a JPEG, PNG, GIF or WebP file" in visit.page.locator("#hint").inner_text()
        assert visit.page.locator("#photo-button").is_enabled()


def test_the_green_behind_an_avatar_is_seen_through(browser: Browser, gallery: Server) -> None:
    answer = httpx.post(
        f"{gallery.http}/v1/avatars/upload-face",
        files={"file": ("face.jpg", HOPPER.read_bytes(), "image/jpeg")},
        data={"background": "green", "name": "Green"},
        timeout=60,
    )
    avatar_id = answer.json()["avatar_id"]
    with visiting(browser, f"{gallery.http}/?key&avatar={avatar_id}") as visit:
        visit.until("document.querySelector('canvas.keyed')?.width > 300", 20_000)
        visit.page.wait_for_timeout(500)
        alpha = visit.page.evaluate(
            """() => {
              const canvas = document.querySelector("canvas.keyed");
              const gl = canvas.getContext("webgl");
              const at = (x, y) => {
                const pixel = new Uint8Array(4);
                const [left, up] = [x * canvas.width, (1 - y) * canvas.height];
                gl.readPixels(left, up, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
                return pixel[3];
              };
              return {wall: at(0.05, 0.1), face: at(0.5, 0.5), chest: at(0.5, 0.95)};
            }"""
        )
        visit.page.screenshot(path=ARTIFACTS / "page-keyed.png")
    assert alpha["wall"] < 10
    assert alpha["face"] > 245
    assert alpha["chest"] > 245
