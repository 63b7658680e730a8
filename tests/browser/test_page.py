"""The page in the hands of a person: sample, microphone, keyboard, phone, and a socket that is cut."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser
from websockets.sync.client import connect

from tests.browser.conftest import Visit, visiting
from tests.server import Server

pytestmark = pytest.mark.browser

MOVING = 1.5
"""Change of the mouth in grey levels: the idle face reaches 1 with a key frame, a speaking one 2 to 30."""


class Cable:
    """A TCP relay to the server that can be cut.

    Attributes:
        address: where the server is seen through it.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection that runs through the relay; new ones are taken."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    # Closing with a linger time of zero sends a reset, as a broken path does.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                pair = (near, socket.create_connection(("127.0.0.1", self._port)))
                self._pairs.append(pair)
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    @staticmethod
    def _relay(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError), near, far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(65_536)
                    if not data:
                        return
                    (far if source is near else near).sendall(data)


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    relay = Cable(server.port)
    yield relay
    relay.close()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """The page as anybody opens it."""
    with visiting(browser, server.http) as opened:
        opened.watch()
        yield opened


def largest_change(visit: Visit, since_ms: float) -> float:
    frames = visit.frames()
    return float(frames[frames[:, 0] > since_ms, 1].max())


def test_sample_is_spoken_and_its_latency_seen(visit: Visit) -> None:
    visit.page.wait_for_timeout(600)
    since_ms = visit.now_ms()
    visit.page.get_by_role("button", name="Speak a sample").click()
    visit.until("avatarPage.speaking")
    visit.until("avatarPage.lastLatencyMs !== null")

    assert visit.page.evaluate("avatarPage.latencySource") == "picture"
    assert 0 < visit.page.evaluate("avatarPage.lastLatencyMs") < 600
    assert "seen in the picture" in visit.page.inner_text("#latency-note")
    assert visit.page.inner_text("#overall") == "Speaking"
    visit.until("!avatarPage.speaking")
    assert largest_change(visit, since_ms) > MOVING
    assert "Finished after 5." in visit.page.inner_text("#log")
    assert visit.complaints() == []


def test_microphone_is_spoken_live(visit: Visit) -> None:
    visit.page.wait_for_timeout(600)
    since_ms = visit.now_ms()
    visit.page.get_by_role("button", name="Microphone").click()
    visit.until("avatarPage.speaking")
    visit.until("avatarPage.lastLatencyMs !== null")
    visit.page.wait_for_timeout(1500)

    assert visit.page.get_attribute("#microphone", "aria-pressed") == "true"
    assert 0 < visit.page.evaluate("avatarPage.lastLatencyMs") < 3000
    assert largest_change(visit, since_ms) > MOVING

    visit.page.get_by_role("button", name="Stop listening").click()
    visit.until("!avatarPage.speaking")
    assert visit.page.get_attribute("#microphone", "aria-pressed") == "false"
    assert visit.complaints() == []


def test_a_cut_socket_resumes_its_session_and_the_picture_goes_on(browser: Browser, cable: Cable) -> None:
    with visiting(browser, cable.address) as visit:
        visit.watch()
        visit.page.wait_for_timeout(500)
        session_id = visit.page.evaluate("avatarPage.sessionId")
        cable.cut()
        visit.until("document.getElementById('log').innerText.includes('Back in the same session')")
        visit.page.wait_for_timeout(1000)

        assert [message["resumed"] for message in visit.established] == [False, True]
        assert visit.page.evaluate("avatarPage.sessionId") == session_id
        assert np.diff(visit.frames()[:, 0]).max() < 700, "the picture stood still"
        assert visit.page.inner_text("#log").count("The picture is here.") == 1, "the peer was kept"

        since_ms = visit.now_ms()
        visit.page.get_by_role("button", name="Speak a sample").click()
        visit.until("avatarPage.speaking")
        visit.page.wait_for_timeout(800)
        assert largest_change(visit, since_ms) > MOVING


def test_leaving_the_page_ends_its_session(visit: Visit, server: Server) -> None:
    first = visit.established[0]
    visit.open(server.http)
    assert visit.established[-1]["session_id"] != first["session_id"]

    with connect(
        server.url(session_id=first["session_id"], resume_token=first["resume_token"]), proxy=None
    ) as late:
        answer = json.loads(late.recv(timeout=5))
    assert answer["type"] == "error"
    assert answer["details"]["code"] == "WS_1001"


def test_everything_works_from_the_keyboard(visit: Visit) -> None:
    keyboard = visit.page.keyboard
    reached: list[str] = []
    while "sample" not in reached:
        keyboard.press("Tab")
        reached.append(visit.page.evaluate("document.activeElement.id"))
        assert len(reached) < 10, f"expected the sample button, Tab reached {reached}"
    outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focus is seen"

    keyboard.press("Enter")
    visit.until("avatarPage.speaking")
    keyboard.press("Escape")
    visit.until("!avatarPage.speaking", 3000)
    assert "Interrupted" in visit.page.inner_text("#log")

    following = []
    for _ in range(3):
        keyboard.press("Tab")
        following.append(visit.page.evaluate("document.activeElement.id"))
    assert following[:2] == ["file-button", "microphone"]
    assert visit.complaints() == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    browser: Browser, server: Server, width: int
) -> None:
    options = {
        "viewport": {"width": width, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    }
    with visiting(browser, server.http, **options) as visit:
        visit.page.tap("#sample")
        visit.until("avatarPage.speaking")
        # A phone lays out a wider page by zooming out, so both widths are asked for.
        inner, scrolled = visit.page.evaluate("[innerWidth, document.scrollingElement.scrollWidth]")
        assert (inner, scrolled) == (width, width)
        stage = visit.page.locator("#stage").bounding_box()
        sample = visit.page.locator("#sample").bounding_box()
        assert stage is not None
        assert sample is not None
        assert stage["y"] + stage["height"] <= 844, "the whole face is on the first screen"
        assert sample["height"] >= 44, "a thumb finds the buttons"
        assert visit.complaints() == []
