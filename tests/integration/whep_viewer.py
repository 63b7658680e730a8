"""A WHEP player: offers, shows what comes, and leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from serve_app.client.received import Receiver
from tests.integration.listener import Listener
from tests.realtime_call import bearer

WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Viewer:
    """A player that sees the avatar.

    Attributes:
        listener: what it sees and hears.
        peer: its connection.
        resource: where it may be ended.
        etag: of its answer.
    """

    listener: Listener
    peer: RTCPeerConnection
    resource: str
    etag: str


@asynccontextmanager
async def watching(url: str, token: str | None) -> AsyncIterator[Viewer]:
    """Watch a session; yields when the first picture was seen, and leaves in the end.

    Args:
        url: of the session's endpoint.
        token: a session's token, or an API key.

    Raises:
        httpx.HTTPStatusError: the player is refused.
    """
    listener = Listener()
    receiver = Receiver(on_video=listener.see, on_sound=listener.hear)
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    headers = bearer(token)
    async with httpx.AsyncClient(timeout=WAIT_S) as http:
        try:
            for kind in ("audio", "video"):
                peer.addTransceiver(kind, direction="recvonly")
            await peer.setLocalDescription(await peer.createOffer())
            answer = await http.post(
                url,
                content=peer.localDescription.sdp,
                headers={**headers, "content-type": "application/sdp"},
            )
            answer.raise_for_status()
            assert answer.status_code == 201
            resource = answer.headers["location"]
            await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            receiver.attach(peer)
            await asyncio.wait_for(receiver.video_seen.wait(), WAIT_S)
            yield Viewer(listener, peer, resource, answer.headers["etag"])
            await http.delete(resource, headers=headers)
        finally:
            receiver.close()
            await peer.close()
