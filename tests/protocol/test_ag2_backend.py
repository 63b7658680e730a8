"""AG2's own backend (ag2 0.13.4, document 003), with only its mint address pointed at this server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import websockets

from tests.ag2_backend import backend
from tests.asgi_server import served
from tests.fakes import ANSWER
from tests.protocol.realtime_door import KEY, OFFER, Doors, with_keys

pytestmark = pytest.mark.protocol


async def test_a_stock_backend_mints_here_and_its_page_calls_here() -> None:
    doors = Doors(with_keys())
    with served(doors.app) as host, served(backend(f"http://{host}/v1/realtime/sessions", KEY)) as own:
        async with websockets.connect(f"ws://{own}/session") as page:
            first: list[Any] = [json.loads(await page.recv()) for _ in range(3)]
            init, instructions, tools = first
            assert init["type"] == "ag2.init"
            config = init["config"]
            assert config["base_url"] == f"http://{host}/v1/realtime"
            assert config["video"] is True
            assert init["init"][0]["session"]["turn_detection"] == {"type": "server_vad"}
            assert instructions["session"] == {"instructions": "Start by saying 'How can I help you'?"}
            assert tools["session"]["tools"][0]["name"] == "get_weather"

            # The page's part, as AG2's script does it.
            async with httpx.AsyncClient() as browser:
                answer = await browser.post(
                    f"{config['base_url']}?model={config['model']}",
                    content=OFFER,
                    headers={
                        "Authorization": f"Bearer {config['client_secret']['value']}",
                        "Content-Type": "application/sdp",
                    },
                )
            assert (answer.status_code, answer.text) == (201, ANSWER)

            called = {"call_id": "call_1", "name": "get_weather", "arguments": '{"location": "Rome"}'}
            await page.send(json.dumps({"type": "response.function_call_arguments.done", **called}))
            item = json.loads(await page.recv())
            assert item["item"]["output"] == "The weather is cloudy."
            assert json.loads(await page.recv()) == {"type": "response.create"}
    spec = doors.opened().conversation
    assert spec is not None
    assert (spec.dialect, spec.model) == ("beta", "gpt-4o-mini-realtime-preview")
    assert spec.session == {"voice": "alloy"}
    assert doors.opened().key_id == "ada"
