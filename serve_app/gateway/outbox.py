"""What a socket has still to send: bounded, in order, by one writer."""

from __future__ import annotations

import asyncio

from starlette.websockets import WebSocket


class Outbox:
    """Queues texts for one WebSocket.

    Args:
        websocket: accepted.
        max_waiting: texts that may wait for a slow reader.
        patience_s: how long a full outbox may stay full.
    """

    def __init__(self, websocket: WebSocket, *, max_waiting: int, patience_s: float) -> None:
        self._websocket = websocket
        self._patience_s = patience_s
        self._waiting: asyncio.Queue[str] = asyncio.Queue(max_waiting)

    async def put(self, text: str) -> None:
        """Queue a text; wait while the outbox is full, which slows down whoever fills it.

        Raises:
            TimeoutError: it stayed full for `patience_s`.
        """
        if self._waiting.full():
            await asyncio.wait_for(self._waiting.put(text), self._patience_s)
        else:
            self._waiting.put_nowait(text)

    async def write(self) -> None:
        """Send what is queued, for ever.

        Raises:
            WebSocketDisconnect: the client is gone.
        """
        while True:
            text = await self._waiting.get()
            await self._websocket.send_text(text)
            self._waiting.task_done()

    async def drained(self) -> None:
        """Return when everything queued has been sent."""
        await self._waiting.join()
