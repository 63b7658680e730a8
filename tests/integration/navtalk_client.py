"""A client of document 002: one socket, the server offers, and a microphone in slices of base64."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import websockets
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import ClientConnection

from serve_app.client.received import Receiver
from serve_app.nouns import Int16
from tests.integration.listener import Listener
from tests.server import Server

Event = dict[str, Any]

WAIT_S = 20.0
NAVTALK_HZ = 24_000

BLOCK_SAMPLES, SLICE_CHARS = 8192, 4096
"""The JavaScript SDK's ScriptProcessor, and how it cuts a block's base64."""


class NavTalkClient:
    """An open socket.

    Args:
        socket: connected.

    Attributes:
        events: everything the server sent.
        listener: what is seen and heard.
        peer: the present connection; None before the first offer.
        answers: how often an offer of the client's was answered.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.events: list[Event] = []
        self.listener = Listener()
        self.peer: RTCPeerConnection | None = None
        self.answers = 0
        self._socket = socket
        self._peers: list[tuple[RTCPeerConnection, Receiver]] = []
        self._ice_servers: list[Event] = []
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Take the server's events until the socket is closed."""
        try:
            async for text in self._socket:
                event = json.loads(text)
                await self._take(event)
                self.events.append(event)
                self._news.set()
        except websockets.ConnectionClosed:
            pass
        self._news.set()

    async def send(self, kind: str, **data: object) -> None:
        """Send a message, wrapped in `data`."""
        await self.send_bare({"type": kind, "data": data})

    async def send_bare(self, message: Event) -> None:
        """Send a message as it is."""
        await self._socket.send(json.dumps(message))

    async def speak(self, sound: Int16, kind: str = "realtime.input_audio_buffer.append") -> None:
        """Send sound ([S] int16 at NAVTALK_HZ) as the SDK does; unwrapped where `kind` has no prefix."""
        for at in range(0, len(sound), BLOCK_SAMPLES):
            block = base64.b64encode(sound[at : at + BLOCK_SAMPLES].astype("<i2").tobytes()).decode()
            for start in range(0, len(block), SLICE_CHARS):
                audio = {"audio": block[start : start + SLICE_CHARS]}
                is_wrapped = kind.startswith("realtime.")
                await self.send_bare({"type": kind, **({"data": audio} if is_wrapped else audio)})

    async def until(self, kind: str, since: int = 0, timeout_s: float = WAIT_S) -> Event:
        """Return the first event of a type from event number `since` on; wait for it."""
        return await self.when(lambda event: event["type"] == kind, kind, since, timeout_s)

    async def when(
        self, fits: Callable[[Event], bool], what: str, since: int = 0, timeout_s: float = WAIT_S
    ) -> Event:
        """Return the first event that fits from number `since` on; wait for it."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = next((event for event in self.events[since:] if fits(event)), None)
                    if found is not None:
                        return found
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"expected {what}, found {self.types(since)}") from None

    def types(self, since: int = 0) -> list[str]:
        """Return the types of the events from number `since` on."""
        return [event["type"] for event in self.events[since:]]

    def of(self, kind: str) -> list[Event]:
        """Return the events of a type."""
        return [event for event in self.events if event["type"] == kind]

    async def offer_again(self) -> None:
        """Offer with a new connection of one's own."""
        peer = self._new_peer()
        peer.addTransceiver("audio", direction="recvonly")
        peer.addTransceiver("video", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        await self.send("webrtc.signaling.offer", sdp={"type": "offer", "sdp": peer.localDescription.sdp})

    async def closed(self) -> tuple[int | None, str | None]:
        """Return the socket's close code and reason; wait for them."""
        await asyncio.wait_for(self._socket.wait_closed(), WAIT_S)
        return self._socket.close_code, self._socket.close_reason

    async def close(self) -> None:
        """Close the connections; `read` has ended, or an offer that it answers would meet a closed one."""
        for peer, receiver in self._peers:
            receiver.close()
            await peer.close()

    def _new_peer(self) -> RTCPeerConnection:
        servers = [RTCIceServer(**server) for server in self._ice_servers]
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        receiver = Receiver(on_video=self.listener.see, on_sound=self.listener.hear)
        self._peers.append((self.peer, receiver))
        return self.peer

    async def _take(self, event: Event) -> None:
        data = event.get("data") or {}
        if event["type"] == "conversation.connected.success":
            self._ice_servers = data["iceServers"]
        elif event["type"] == "webrtc.signaling.offer":
            peer = self._new_peer()
            await peer.setRemoteDescription(RTCSessionDescription(**data["sdp"]))
            await peer.setLocalDescription(await peer.createAnswer())
            self._peers[-1][1].attach(peer)
            await self.send(
                "webrtc.signaling.answer", sdp={"type": "answer", "sdp": peer.localDescription.sdp}
            )
        elif event["type"] == "webrtc.signaling.answer":
            assert self.peer is not None
            await self.peer.setRemoteDescription(RTCSessionDescription(**data["sdp"]))
            self._peers[-1][1].attach(self.peer)
            self.answers += 1


@asynccontextmanager
async def navtalk(server: Server, licence: str | None, **query: str) -> AsyncIterator[NavTalkClient]:
    """Open a socket; it is closed in the end, and its session with it."""
    fields = query if licence is None else {"license": licence, **query}
    address = f"ws://127.0.0.1:{server.port}/wss/v2/realtime-chat?{urlencode(fields)}"
    async with websockets.connect(address, proxy=None, max_size=None) as socket:
        client = NavTalkClient(socket)
        reading = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            await socket.close()
            await reading
            await client.close()
