"""The client's side: a peer connection that watches, and remembers what it saw.

Run in the client's namespace; see `orders` for how it is driven.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

import aioice.ice
from aioice.ice import CandidatePair, Connection
from aioice.stun import Message
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from tests.network.orders import serve
from tests.network.receiver import Loudspeaker, Screen

CONSENT_S = 1.0
"""Browsers check a working pair about every 2.5 s; aioice every 5 s."""


class NominatingConnection(Connection):  # type: ignore[misc, unused-ignore]
    """An ICE agent that names its pair in every check, as browsers do and as a moving client needs."""

    def build_request(self, pair: CandidatePair, nominate: bool) -> Message:
        return super().build_request(pair, nominate or pair in self._nominated.values())


class Viewer:
    """One peer connection at a time."""

    def __init__(self) -> None:
        self._pc: RTCPeerConnection | None = None
        self._screen: Screen | None = None
        self._loudspeaker: Loudspeaker | None = None
        self._hidden: Any = None

    async def offer(
        self, servers: list[dict[str, Any]], relay: bool = False, hides: str | None = None
    ) -> dict[str, Any]:
        """Return an offer to watch.

        Args:
            servers: RTCIceServer's arguments.
            relay: whether to use relays alone.
            hides: "published" puts a name of multicast DNS in place of the own address, "unknown" one that
                nobody resolves.
        """
        policy = RTCIceTransportPolicy.RELAY if relay else RTCIceTransportPolicy.ALL
        configuration = RTCConfiguration([RTCIceServer(**server) for server in servers])
        configuration.iceTransportPolicy = policy
        await self.close()
        pc = self._pc = RTCPeerConnection(configuration)
        picture = pc.addTransceiver("video", direction="recvonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        picture.setCodecPreferences([c for c in known if c.mimeType in {"video/H264", "video/rtx"}])
        sound = pc.addTransceiver("audio", direction="recvonly")
        Screen.adopt(picture.receiver)
        Loudspeaker.adopt(sound.receiver)
        self._screen, self._loudspeaker = picture.receiver, sound.receiver
        start_s = time.monotonic()
        await pc.setLocalDescription(await pc.createOffer())
        for transceiver in (picture, sound):
            transceiver.receiver.transport.transport._connection.__class__ = NominatingConnection
        sdp = str(pc.localDescription.sdp)
        if hides is not None:
            sdp = await self._hide(sdp, published=hides == "published")
        return {"sdp": sdp, "took_s": time.monotonic() - start_s}

    async def _hide(self, sdp: str, *, published: bool) -> str:
        assert self._screen is not None
        names: dict[str, str] = {}
        for candidate in self._screen.transport.transport.iceGatherer.getLocalCandidates():
            names.setdefault(candidate.ip, f"{uuid.uuid4()}.local")
        for address, name in names.items():
            sdp = sdp.replace(f" {address} ", f" {name} ")
            if published:
                self._hidden = self._hidden or await aioice.ice.get_or_create_mdns_protocol(self)
                await self._hidden.publish(name, address)
        return sdp

    async def accept(self, sdp: str) -> None:
        """Take the server's answer."""
        assert self._pc is not None
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def ask_for_keyframe(self) -> float:
        """Send a PLI and return when."""
        assert self._screen is not None
        sent_s = time.monotonic()
        await self._screen.ask_for_keyframe()
        return sent_s

    async def name_bitrate(self, bps: int) -> None:
        """Estimate this bitrate (REMB) from now on, whatever arrives."""
        assert self._screen is not None
        await self._screen.name_bitrate(bps)

    async def seen(self) -> dict[str, Any]:
        """Return everything that arrived."""
        assert self._screen is not None
        assert self._loudspeaker is not None
        seen = self._screen.seen
        return {
            "now_s": time.monotonic(),
            "frames": seen.frames,
            "received": seen.received,
            "estimates": seen.estimates,
            "keyframe_requests": seen.keyframe_requests,
            "asked_again": seen.asked_again,
            "sound": self._loudspeaker.arrivals,
        }

    async def close(self) -> None:
        """Hang up."""
        if self._pc is not None:
            await self._pc.close()
            self._pc = None


async def main() -> None:
    aioice.ice.CONSENT_INTERVAL = CONSENT_S
    viewer = Viewer()
    orders = (
        viewer.offer, viewer.accept, viewer.ask_for_keyframe, viewer.name_bitrate, viewer.seen, viewer.close
    )  # fmt: skip
    await serve({order.__name__: order for order in orders})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
