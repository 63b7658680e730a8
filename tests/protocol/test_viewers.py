"""Those who only watch a session, over real peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from serve_app.clock import MonotonicClock
from serve_app.config import AppConfig, EncoderConfig, PlayoutConfig, SessionConfig
from serve_app.errors import AdmissionRefused, InvalidCandidate, InvalidDescription, SessionNotFound
from serve_app.media.playout import Playout
from serve_app.session.broadcast import Broadcast
from serve_app.session.lane import Lane
from serve_app.session.viewers import Viewers
from tests.protocol.test_peer import ENCODED, FPS, LOOP
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.protocol

WAIT_S = 10.0


class Stage:
    """The viewers of one session; `lanes` are those that were made for them."""

    def __init__(self, executor: ThreadPoolExecutor, max_viewers: int) -> None:
        clock = MonotonicClock()
        config = AppConfig(session=SessionConfig(max_viewers=max_viewers, retry_after_s=3.0))
        broadcast = Broadcast(Playout(FPS, PlayoutConfig()), FPS, clock, lambda: None)

        def new_lane() -> Lane:
            self.lanes.append(Lane(broadcast, LOOP, ENCODED, EncoderConfig(), executor))
            return self.lanes[-1]

        self.lanes: list[Lane] = []
        self.viewers = Viewers("sess_1", new_lane, config, clock, clock.now_s())
        self._clients: list[RTCPeerConnection] = []

    async def offer(self) -> tuple[RTCPeerConnection, str]:
        """Return a new client and its offer."""
        client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._clients.append(client)
        client.addTransceiver("audio", direction="recvonly")
        client.addTransceiver("video", direction="recvonly")
        await client.setLocalDescription(await client.createOffer())
        return client, str(client.localDescription.sdp)

    async def watch(self) -> tuple[RTCPeerConnection, str]:
        """Return a client that sees pictures, and its viewer's id."""
        client, offer = await self.offer()
        viewing = await self.viewers.add(offer)
        await client.setRemoteDescription(RTCSessionDescription(viewing.answer_sdp, "answer"))
        picture = client.getTransceivers()[1].receiver.track
        frame = await asyncio.wait_for(picture.recv(), WAIT_S)
        assert (frame.width, frame.height) == (LOOP.width, LOOP.height)
        return client, viewing.viewer_id

    async def close(self) -> None:
        await self.viewers.close()
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def staged(max_viewers: int = 2) -> AsyncIterator[Stage]:
    with ThreadPoolExecutor(1) as executor:
        stage = Stage(executor, max_viewers)
        try:
            yield stage
        finally:
            await stage.close()


async def test_viewers_see_the_session_each_by_a_way_of_its_own() -> None:
    async with staged() as stage:
        (_, one), (_, other) = await stage.watch(), await stage.watch()
        assert one != other
        assert len(stage.viewers) == len(stage.lanes) == 2


async def test_there_are_no_more_viewers_than_there_may_be() -> None:
    async with staged(1) as stage:
        client, viewer_id = await stage.watch()
        with pytest.raises(AdmissionRefused, match="at most 1 viewers") as refused:
            await stage.viewers.add((await stage.offer())[1])
        assert refused.value.retry_after_s == 3.0
        assert await stage.viewers.remove(viewer_id)
        await until(lambda: client.connectionState == "closed")
        await stage.watch()


async def test_offers_that_come_together_keep_the_limit() -> None:
    async with staged(1) as stage:
        offers = [(await stage.offer())[1] for _ in range(3)]
        results = await asyncio.gather(*map(stage.viewers.add, offers), return_exceptions=True)
        assert sum(isinstance(result, AdmissionRefused) for result in results) == 2
        assert len(stage.viewers) == 1


async def test_nobody_may_watch_where_no_viewers_are_wanted() -> None:
    async with staged(0) as stage:
        with pytest.raises(AdmissionRefused):
            await stage.viewers.add((await stage.offer())[1])


@pytest.mark.parametrize("offer", ["", "v=0\r\n", "nonsense"])
async def test_an_offer_that_cannot_be_used_takes_no_place(offer: str) -> None:
    async with staged(1) as stage:
        with pytest.raises(InvalidDescription):
            await stage.viewers.add(offer)
        assert len(stage.viewers) == 0
        await stage.watch()


async def test_a_viewer_that_leaves_is_forgotten() -> None:
    async with staged() as stage:
        client, viewer_id = await stage.watch()
        await client.close()
        await until(lambda: len(stage.viewers) == 0)
        assert not await stage.viewers.remove(viewer_id)
        with pytest.raises(SessionNotFound):
            await stage.viewers.add_candidate(viewer_id, None)


async def test_candidates_reach_their_viewer() -> None:
    async with staged() as stage:
        _, viewer_id = await stage.watch()
        line = "candidate:1 1 udp 1 127.0.0.1 9 typ host"
        await stage.viewers.add_candidate(viewer_id, {"candidate": line, "sdpMid": "0"})
        await stage.viewers.add_candidate(viewer_id, None)
        with pytest.raises(InvalidCandidate):
            await stage.viewers.add_candidate(viewer_id, {"candidate": "nonsense", "sdpMid": "0"})
        with pytest.raises(SessionNotFound, match="no such viewer"):
            await stage.viewers.add_candidate("guess", {"candidate": line, "sdpMid": "0"})


async def test_all_are_sent_away_when_the_session_ends() -> None:
    async with staged() as stage:
        clients = [(await stage.watch())[0] for _ in range(2)]
        await stage.viewers.close()
        assert len(stage.viewers) == 0
        await until(lambda: all(client.connectionState == "closed" for client in clients))
