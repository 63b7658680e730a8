"""Document 003: a page, a backend of AG2's or the server's own, and a beta call between page and server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from serve_app.client.received import Receiver
from tests.ag2_backend import backend
from tests.asgi_server import served
from tests.integration.echoes import assert_echoed, assert_heard
from tests.integration.keys import ADA
from tests.integration.listener import Listener
from tests.realtime_call import RealtimeCall, joining, spoken
from tests.server import Server

pytestmark = pytest.mark.integration

CLOUDY = '/call get_weather {"location": "Rome"}'


@dataclass
class Page:
    """AG2's script, in Python: a call, and messages that it passes on both ways."""

    config: dict[str, Any]
    call: RealtimeCall
    listener: Listener
    passed_on: list[dict[str, Any]] = field(default_factory=list)

    async def to_call(self, socket: ClientConnection) -> None:
        """Pass on everything that the backend sends."""
        async for text in socket:
            self.call.send(json.loads(text))

    async def to_backend(self, socket: ClientConnection) -> None:
        """Pass on what may be a function's call, as AG2's script tells it."""
        async for event in self.call.follow():
            if "function" in event["type"]:
                self.passed_on.append(event)
                await socket.send(json.dumps(event))


@asynccontextmanager
async def page(address: str, *, with_picture: bool) -> AsyncIterator[Page]:
    """Open a backend's page and begin its call.

    Args:
        address: of the backend's socket.
        with_picture: whether to ask for a face; AG2's own script does not.
    """
    listener = Listener()
    receiver = Receiver(on_video=listener.see, on_sound=listener.hear)
    async with websockets.connect(address, proxy=None) as socket:
        first = json.loads(await socket.recv())
        assert first["type"] == "ag2.init"
        config = first["config"]
        url = f"{config['base_url']}?model={config['model']}"
        secret = config["client_secret"]["value"]
        async with joining(url, secret, receiver=receiver, with_picture=with_picture) as call:
            opened = Page(config, call, listener)
            for event in first["init"]:
                call.send(event)
            lanes = [asyncio.create_task(lane(socket)) for lane in (opened.to_call, opened.to_backend)]
            try:
                yield opened
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)


async def with_tools(call: RealtimeCall) -> dict[str, Any]:
    """Return the settings of a call, once the backend has told its tools."""
    async with asyncio.timeout(10):
        async for event in call.follow():
            assert event["type"] != "error", event
            if event["type"] == "session.updated" and event["session"]["tools"]:
                return dict(event["session"])
    raise AssertionError("expected tools, found the end")


async def test_a_function_of_ag2s_own_backend_is_called_and_its_result_spoken(doors: Server) -> None:
    with served(backend(f"{doors.http}/v1/realtime/sessions", ADA)) as host:
        async with page(f"ws://{host}/session", with_picture=False) as opened:
            call = opened.call
            settings = await with_tools(call)
            call.type_text(CLOUDY)
            await call.until("output_audio_buffer.stopped")
            said = spoken("What is the weather like in Rome today?")
            opened.listener.clear()
            seen = len(call.events)
            await call.say(said)
            await call.until("output_audio_buffer.stopped", seen)
    assert opened.config["base_url"] == f"{doors.http}/v1/realtime"
    assert settings["instructions"] == "Start by saying 'How can I help you'?"
    assert [tool["name"] for tool in settings["tools"]] == ["get_weather"]
    [done] = [event for event in opened.passed_on if event["type"].endswith(".done")]
    assert (done["name"], done["arguments"]) == ("get_weather", '{"location": "Rome"}')
    words = [event["transcript"] for event in call.of("response.audio_transcript.done")]
    assert words[0] == "get_weather says: The weather is cloudy."
    assert_heard(opened.listener.sound(), said)


async def test_the_servers_own_backend_calls_configured_functions(doors: Server) -> None:
    address = f"ws://127.0.0.1:{doors.port}/session?token={ADA}"
    async with page(address, with_picture=True) as opened:
        call = opened.call
        settings = await with_tools(call)
        call.type_text(CLOUDY)
        await call.until("output_audio_buffer.stopped")
        said = spoken("And what about London?")
        opened.listener.clear()
        seen = len(call.events)
        await call.say(said)
        await call.until("output_audio_buffer.stopped", seen)
    assert opened.config["video"] is True
    assert [tool["name"] for tool in settings["tools"]] == ["get_weather", "get_temperature"]
    words = [event["transcript"] for event in call.of("response.audio_transcript.done")]
    assert words[0] == "get_weather says: The weather is cloudy."
    assert_echoed(opened.listener, said)


async def test_the_page_and_its_script_are_served_and_a_stranger_is_told(doors: Server) -> None:
    async with httpx.AsyncClient(base_url=doors.http) as http:
        shown = await http.get("/start-chat/")
        script = await http.get("/static/webrtc.js")
    assert "text/html" in shown.headers["content-type"]
    assert script.status_code == 200
    async with websockets.connect(f"ws://127.0.0.1:{doors.port}/session", proxy=None) as socket:
        told = json.loads(await socket.recv())
        await socket.wait_closed()
    assert (told["type"], told["code"], socket.close_code) == ("ag2.error", "invalid_api_key", 3000)
