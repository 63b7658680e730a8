"""AG2's page in Chromium: its socket and its script against the doors, with a peer behind them."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from typing import Any

import pytest
from aiortc import (
    AudioStreamTrack,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from playwright.sync_api import Browser, Page

from serve_app.config import Ag2Config, AppConfig
from tests.asgi_server import served
from tests.browser.conftest import VIOLATIONS
from tests.protocol.realtime_door import KEY, CallLink, Doors, with_keys

pytestmark = pytest.mark.browser

EXAMPLES = AppConfig(ag2=Ag2Config(functions=["serve_app.gateway.ag2.examples:functions"]))
WAIT_S = 15.0


class PeerLink(CallLink):
    """A session that shows a picture, and a conversation that asks for the weather once it is set up.

    Attributes:
        told: events that came on the data channel.
        offers: as they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        self.offers: list[str] = []
        self._peer: RTCPeerConnection | None = None

    async def answer(self, offer_sdp: str) -> str:
        self.offers.append(offer_sdp)
        peer = self._peer = RTCPeerConnection()
        peer.on("datachannel", self._follow)
        await peer.setRemoteDescription(RTCSessionDescription(offer_sdp, "offer"))
        peer.addTrack(AudioStreamTrack())
        peer.addTrack(VideoStreamTrack())
        await peer.setLocalDescription(await peer.createAnswer())
        return str(peer.localDescription.sdp)

    def _follow(self, channel: RTCDataChannel) -> None:
        def hear(data: str) -> None:
            event = json.loads(data)
            self.told.put(event)
            if "tools" in event.get("session", {}):
                call = {"call_id": "call_1", "name": "get_weather", "arguments": '{"location": "Rome"}'}
                tell({"type": "response.function_call_arguments.delta", "delta": "{"})
                tell({"type": "response.function_call_arguments.done", **call})
            elif event["type"] == "response.create":
                tell({"type": "response.audio_transcript.done", "transcript": "It is cloudy."})

        def tell(event: dict[str, Any]) -> None:
            channel.send(json.dumps(event))

        assert channel.label == "oai-events"
        channel.on("message", hear)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(permissions=["microphone"])
    context.add_init_script(VIOLATIONS)
    opened = context.new_page()
    yield opened
    opened.goto("about:blank")
    context.close()


def test_the_page_talks_shows_the_avatar_and_lets_it_call_functions(page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    link = PeerLink()
    doors = Doors(with_keys(EXAMPLES), link)
    with served(doors.app) as host:
        page.goto(f"http://{host}/start-chat/?token={KEY}")
        assert KEY not in page.url
        page.get_by_role("button", name="Start talking").click()
        page.get_by_text("Connected: speak.").wait_for(timeout=WAIT_S * 1000)

        told = [link.told.get(timeout=WAIT_S) for _ in range(5)]
        assert [event["type"] for event in told] == [
            "session.update",
            "session.update",
            "session.update",
            "conversation.item.create",
            "response.create",
        ]
        assert [sorted(event["session"]) for event in told[:3]] == [
            ["modalities", "temperature", "turn_detection", "voice"],
            ["instructions"],
            ["tool_choice", "tools"],
        ]
        assert told[3]["item"]["output"] == "The weather is cloudy."

        page.get_by_text("It is cloudy.").wait_for(timeout=WAIT_S * 1000)
        page.get_by_text("get_weather").wait_for(timeout=WAIT_S * 1000)
        page.wait_for_function("document.getElementById('avatar').videoWidth > 0", timeout=WAIT_S * 1000)
        [offer] = link.offers
        assert "m=audio" in offer
        assert "m=video" in offer
        assert "a=candidate" in offer

        page.get_by_role("button", name="Hang up").click()
        page.get_by_text("The call has ended.").wait_for(timeout=WAIT_S * 1000)
        assert page.evaluate("window.violations") == []
    assert complaints == []
    assert doors.opened().key_id == "ada"


def test_a_page_without_a_key_is_told(page: Page) -> None:
    with served(Doors(with_keys(EXAMPLES)).app) as host:
        page.goto(f"http://{host}/start-chat/")
        page.get_by_role("button", name="Start talking").click()
        page.get_by_text("expected an API key").wait_for(timeout=WAIT_S * 1000)
        assert page.get_by_role("button", name="Start talking").is_visible()
