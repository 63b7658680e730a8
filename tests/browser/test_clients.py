"""Clients of other systems in Chromium, with nothing but their addresses changed, against the real server.

Their pages lie in `pages/`; they are put before the browser as if the server's own host served them, without
the policy of the product's page.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route
from websockets.sync.client import ClientConnection, connect

from tests.browser.conftest import say
from tests.server import Server

pytestmark = pytest.mark.browser

PAGES = Path(__file__).with_name("pages")
WAIT_MS = 20_000
LOUD = 0.005
"""Root mean square of speech; Opus's noise in silence stays far below."""


@contextlib.contextmanager
def client_page(browser: Browser, server: Server, address: str) -> Iterator[Page]:
    """Open one of `pages/` and leave it at the end; nothing may have gone wrong in it."""
    # A page that came from no network may open sockets to this machine only by permission.
    context = browser.new_context(permissions=["local-network-access", "microphone"])

    def serve(route: Route) -> None:
        name = route.request.url.partition("?")[0].rsplit("/", 1)[-1]
        route.fulfill(path=PAGES / name)

    context.route(f"{server.http}/pages/*", serve)
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    try:
        page.goto(f"{server.http}/pages/{address}")
        yield page
        assert page.evaluate("seen.errors") == []
        assert failures == []
    finally:
        page.goto("about:blank")
        context.close()


def watch(page: Page) -> None:
    """Return when the picture has gone on for two thirds of a second, with sound beside it."""
    page.wait_for_function("seen.frames > 20", timeout=WAIT_MS)
    kinds = page.evaluate("video.srcObject.getTracks().map((track) => track.kind).sort()")
    assert kinds == ["audio", "video"]


def hear(page: Page) -> None:
    """Return when the avatar has been heard for 0.3 s."""
    page.wait_for_function(
        f"seen.sound.filter(([, level]) => level > {LOUD}).length >= 15", timeout=WAIT_MS, polling=50
    )


@pytest.mark.parametrize("model", ["gpt-realtime", "transparency"])
def test_a_navtalk_page_sees_the_avatar_say_what_its_microphone_hears(
    browser: Browser, server: Server, model: str
) -> None:
    with client_page(browser, server, f"navtalk.html?model={model}") as page:
        watch(page)
        hear(page)
        events = page.evaluate("seen.events")
        assert events.index("conversation.connected.success") < events.index("webrtc.signaling.offer")
        assert events.count("realtime.session.updated") == 1
        assert "error" not in events


def test_openais_own_browser_code_talks_and_sees_a_face(browser: Browser, server: Server) -> None:
    with client_page(browser, server, "openai.html") as page:
        watch(page)
        hear(page)
        events = page.evaluate("seen.events")
        assert events[0] == "session.created"
        order = ["speech_started", "speech_stopped", "committed"]
        heard = [event for event in events if event.startswith("input_audio_buffer.")]
        assert heard[:3] == [f"input_audio_buffer.{name}" for name in order]
        assert "output_audio_buffer.started" in events
        assert "error" not in events


def test_a_whep_player_watches_a_session_of_another_door(browser: Browser, server: Server) -> None:
    with connect(server.url(model="portrait"), proxy=None) as socket:
        session_id = _receive(socket, "connection.established")["session_id"]
        with client_page(browser, server, f"whep.html?session={session_id}") as page:
            watch(page)
            assert page.evaluate(f"seen.sound.every(([, level]) => level < {LOUD})")
            _speak(socket, session_id, "Somebody watches.")
            hear(page)
            assert page.evaluate("leave()") == 200


def test_ag2s_page_calls_functions_of_this_server(browser: Browser, server: Server) -> None:
    # Waiting for a condition needs eval, which the page's policy forbids.
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    try:
        page.goto(f"{server.http}/start-chat/")
        page.evaluate(
            """async () => {
                const silence = new AudioContext().createMediaStreamDestination();
                const address = new URL("../session", location.href);
                address.protocol = "ws:";
                window.events = [];
                window.call = new ag2client.WebRTC(address.href, silence.stream.getAudioTracks()[0]);
                call.onEvent = (event) => events.push(event);
                await call.connect();
            }"""
        )
        _ask(page, '/call get_weather {"location": "Rome"}')
        said = "get_weather says: The weather is cloudy."
        page.wait_for_function(
            f"""events.some(({{ type, transcript }}) =>
                type === "response.audio_transcript.done" && transcript === {json.dumps(said)})""",
            timeout=WAIT_MS,
            polling=50,
        )
        [call] = page.evaluate(
            "events.filter(({ type }) => type === 'response.function_call_arguments.done')"
        )
        assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"location": "Rome"})
        assert page.evaluate("document.getElementById('avatar').videoWidth") == 512
        assert [
            event["error"] for event in page.evaluate("events.filter(({ type }) => type === 'error')")
        ] == []
        page.evaluate("call.close()")
    finally:
        page.goto("about:blank")
        context.close()


def _ask(page: Page, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
        page.evaluate("(event) => call.send(JSON.stringify(event))", event)


def _receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=10))
        if message["type"] == kind:
            return message


def _speak(socket: ClientConnection, session_id: str, text: str) -> None:
    # The door takes 16 kHz: every sample is taken where it falls, which is good enough to be heard.
    speech = say(text)
    at = np.arange(0, len(speech) - 1, 22_050 / 16_000).astype(np.int64)
    message = {
        "type": "agent.speak",
        "session_id": session_id,
        "audio": base64.b64encode(speech[at].tobytes()).decode(),
        "format": "pcm",
        "sample_rate": 16_000,
        "chunk_index": 0,
        "is_final": True,
    }
    socket.send(json.dumps(message))
