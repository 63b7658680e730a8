"""The server's side: a session that shows numbered pictures, and a peer for whoever offers.

Run in the server's namespace; see `orders` for how it is driven. It is what a session host does for a
session, less Ray: one source, a new peer for each offer, and the one before it closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np

from serve_app.clock import MonotonicClock
from serve_app.config import EncoderConfig, IceConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, Picture
from serve_app.rtc.encoder import H264Encoder, OpusEncoder
from serve_app.rtc.ice import try_ice_servers
from serve_app.rtc.peer import Peer, PeerState
from serve_app.rtc.picture import PictureStream
from tests.network.orders import serve
from tests.network.picture import FPS, SIDE, live, numbered_loop

ENCODER = EncoderConfig()


class Session:
    """Shows and plays; has one peer at a time."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        loop = numbered_loop()
        encoded = EncodedLoop(loop, H264Encoder(SIDE, SIDE, FPS, ENCODER).encode, ENCODER.gop_s)
        self._pictures = PictureStream(loop, encoded, ENCODER, executor)
        self._opus = OpusEncoder()
        self._tone = (6000 * np.sin(2 * np.pi * 400 * np.arange(PACKET_SAMPLES) / SOUND_HZ)).astype(np.int16)
        self._clock = MonotonicClock()
        self._start_s = self._clock.now_s()
        self._peer: Peer | None = None
        self._states: list[dict[str, Any]] = []
        self._ended = asyncio.Event()
        self._speaks = True
        self._sent: list[tuple[float, int]] = []
        self._keyframes = 0

    # --- rtc.tracks.MediaSource ---------------------------------------------------------------------

    def sound_packet(self, index: int) -> bytes:
        return self._opus.encode(self._tone)

    async def picture_packet(self, index: int) -> bytes | None:
        unit = await self._pictures.encode(live(index) if self._speaks else Picture(index, None))
        self._sent.append((time.monotonic(), len(unit)))
        return unit

    def picture_frame(self, index: int) -> av.VideoFrame:
        raise NotImplementedError("this suite's client takes H.264")

    def request_keyframe(self) -> None:
        self._keyframes += 1
        self._pictures.request_keyframe()

    def set_target_bitrate(self, bps: int) -> None:
        self._pictures.target_bitrate_bps = bps

    # --- orders -------------------------------------------------------------------------------------

    async def answer(self, offer: str, ice: dict[str, Any], speaks: bool = True) -> dict[str, Any]:
        """Answer an offer with a new peer, as a session does."""
        self._speaks = speaks
        states: list[dict[str, Any]] = []
        ended = asyncio.Event()
        self._states, self._ended = states, ended

        def on_state(state: PeerState) -> None:
            states.append(
                {"name": state.name, "detail": state.detail, "pairs": state.pairs, "s": time.monotonic()}
            )
            if state.name != "connecting":
                ended.set()

        config = IceConfig.model_validate(ice)
        peer = Peer(self, self._clock, self._start_s, FPS, config, on_state)
        start_s = time.monotonic()
        sdp = await peer.answer(offer)
        took_s = time.monotonic() - start_s
        previous, self._peer = self._peer, peer
        if previous is not None:
            await previous.close()
        return {"sdp": sdp, "took_s": took_s}

    async def try_servers(self, ice: dict[str, Any]) -> None:
        """Do what a session host does with its ICE servers before it has sessions."""
        await try_ice_servers(IceConfig.model_validate(ice))

    async def states(self) -> list[str]:
        """Return what became of the peer so far."""
        return [state["name"] for state in self._states]

    async def await_end(self) -> dict[str, Any]:
        """Wait until the peer has failed or is connected; return its state, and after how long it came."""
        await self._ended.wait()
        ended = next(state for state in self._states if state["name"] != "connecting")
        return ended | {"after_s": ended["s"] - self._states[0]["s"]}

    async def figures(self) -> dict[str, Any]:
        """Return what was sent: access units with their times, keyframes asked for, the peer's figures."""
        stats = {} if self._peer is None else self._peer.stats()
        return {"sent": self._sent[-1200:], "keyframes": self._keyframes, **stats}

    async def hang_up(self) -> None:
        """Close the peer."""
        if self._peer is not None:
            await self._peer.close()
            self._peer = None


async def main() -> None:
    with ThreadPoolExecutor(1) as executor:
        session = Session(executor)
        orders = (
            session.answer,
            session.try_servers,
            session.states,
            session.await_end,
            session.figures,
            session.hang_up,
        )
        await serve({order.__name__: order for order in orders})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
