"""Document 003's server, made with AG2's own RealtimeAgent (ag2 0.13.4), the last release that has it."""

from __future__ import annotations

import logging
import warnings
from typing import Annotated

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

with warnings.catch_warnings():
    # The package says that this part of it will go, and imports others that complain.
    warnings.simplefilter("ignore")
    from autogen.agentchat.realtime.experimental import RealtimeAgent


def backend(mint_address: str, key: str) -> Starlette:
    """Return document 003's server, all but its page.

    Args:
        mint_address: where it mints: the one address of AG2's that can be set.
        key: API key to mint with.
    """
    config = {
        "config_list": [{"model": "gpt-4o-mini-realtime-preview", "api_key": key, "base_url": mint_address}],
        "temperature": 0.8,
    }

    async def handle_media_stream(websocket: WebSocket) -> None:
        await websocket.accept()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            realtime_agent = RealtimeAgent(
                name="Weather Bot",
                system_message="Start by saying 'How can I help you'?",
                llm_config=config,
                websocket=websocket,
                logger=logging.getLogger("ag2"),
            )

        @realtime_agent.register_realtime_function(name="get_weather", description="Get the current weather")
        def get_weather(location: Annotated[str, "city"]) -> str:
            return "The weather is cloudy." if location == "Rome" else "The weather is sunny."

        await realtime_agent.run()

    return Starlette(routes=[WebSocketRoute("/session", handle_media_stream)])
