"""The README's clients in JavaScript, as they stand there, in Chromium against the real server."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.readme import Block, blocks, title_of
from tests.server import Server

pytestmark = pytest.mark.browser

CLIENTS = blocks("js")
WAIT_MS = 20_000


def test_the_clients_are_found() -> None:
    headings = [block.heading for block in CLIENTS]
    assert headings == [
        "Audio-to-Video",
        "NavTalk",
        "OpenAI Realtime",
        "AG2",
        "WHEP and SmallWebRTC",
        "WHEP and SmallWebRTC",
    ]


@pytest.mark.parametrize("block", CLIENTS, ids=title_of)
def test_browser_client_sees_the_avatar(browser: Browser, server: Server, block: Block) -> None:
    context = browser.new_context(permissions=["microphone"])
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    try:
        page.goto(f"{server.http}/healthz")
        page.set_content("<video autoplay muted playsinline></video>")
        page.evaluate(
            f"(async () => {{ const video = document.querySelector('video');\n{block.against(server)} }})()"
        )
        page.wait_for_function(
            "(() => { const video = document.querySelector('video');"
            " return video.videoWidth === 512 && video.getVideoPlaybackQuality().totalVideoFrames > 20; })()",
            timeout=WAIT_MS,
        )
        kinds = page.evaluate("document.querySelector('video').srcObject.getTracks().map(({kind}) => kind)")
        assert sorted(kinds) == ["audio", "video"]
        assert failures == []
    finally:
        page.goto("about:blank")
        context.close()
