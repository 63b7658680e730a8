"""Document 002's page in Chromium: its own functions, with our address, against the door and real peers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from serve_app.clock import MonotonicClock
from serve_app.config import AppConfig, IceConfig
from serve_app.gateway.auth import Keyring
from serve_app.gateway.navtalk.door import NavTalkDoor
from serve_app.rtc.peer import Peer, PeerState
from serve_app.session.events import ConversationEvent, PeerChanged
from tests.asgi_server import served
from tests.fakes import FakeSessionLink, FakeSessionOpener
from tests.protocol.test_peer import FPS, Source

pytestmark = pytest.mark.browser

WAIT_MS = 15_000
ICE = IceConfig(loopback=True)

DOCUMENT_002 = """
<video id="character-video" autoplay playsinline muted></video>
<script>
const NavTalkMessageType = Object.freeze({
  CONNECTED_SUCCESS: "conversation.connected.success",
  REALTIME_SESSION_UPDATED: "realtime.session.updated",
  WEB_RTC_OFFER: "webrtc.signaling.offer",
  WEB_RTC_ANSWER: "webrtc.signaling.answer",
  WEB_RTC_ICE_CANDIDATE: "webrtc.signaling.iceCandidate",
});
const configuration = { iceServers: [] };
const seen = { connections: 0, answers: 0, frames: 0, microphones: 0, errors: [] };
let peerConnection;

const socket = new WebSocket(`ws://${location.host}/wss/v2/realtime-chat?license=sk&name=Mara`);
socket.onmessage = (event) => handleReceivedMessage(JSON.parse(event.data));

async function handleReceivedMessage(data) {
  const nav_data = data.data;
  switch (data.type) {
    case NavTalkMessageType.CONNECTED_SUCCESS:
      handleConnectionSuccess(nav_data);
      break;
    case NavTalkMessageType.REALTIME_SESSION_UPDATED:
      seen.microphones += 1;
      break;
    case NavTalkMessageType.WEB_RTC_OFFER:
      handleOffer(nav_data);
      break;
    case NavTalkMessageType.WEB_RTC_ANSWER:
      handleAnswer(nav_data);
      break;
    case NavTalkMessageType.WEB_RTC_ICE_CANDIDATE:
      handleIceCandidate(nav_data);
      break;
  }
}
function sendOfferMessage(sdp) {
  socket.send(JSON.stringify({ type: NavTalkMessageType.WEB_RTC_OFFER, data: { sdp: sdp } }));
}
function sendAnswerMessage(sdp) {
  socket.send(JSON.stringify({ type: NavTalkMessageType.WEB_RTC_ANSWER, data: { sdp: sdp } }));
}
function sendIceMessage(candidate) {
  const message = { type: NavTalkMessageType.WEB_RTC_ICE_CANDIDATE, data: { candidate: candidate } };
  socket.send(JSON.stringify(message));
}
function handleConnectionSuccess(data) {
  if (Array.isArray(data.iceServers) && data.iceServers.length > 0) {
    configuration.iceServers = data.iceServers;
  }
}
function handleOffer(message) {
  const offer = new RTCSessionDescription(message.sdp);
  seen.connections += 1;
  peerConnection = new RTCPeerConnection(configuration);
  peerConnection.setRemoteDescription(offer)
    .then(() => peerConnection.createAnswer())
    .then((answer) => peerConnection.setLocalDescription(answer))
    .then(() => {
      sendAnswerMessage(peerConnection.localDescription);
      renegotiateWhenNeeded();
    })
    .catch((error) => seen.errors.push(String(error)));
  peerConnection.ontrack = (event) => {
    const remoteVideo = document.getElementById("character-video");
    if (remoteVideo && event.streams && event.streams[0]) {
      remoteVideo.srcObject = event.streams[0];
      remoteVideo.play().catch(() => {});
    }
  };
  peerConnection.onicecandidate = (event) => {
    if (event.candidate) {
      sendIceMessage(event.candidate);
    }
  };
}
function handleAnswer(message) {
  seen.answers += 1;
  peerConnection.setRemoteDescription(new RTCSessionDescription(message.sdp))
    .catch((error) => seen.errors.push(String(error)));
}
function handleIceCandidate(message) {
  peerConnection.addIceCandidate(new RTCIceCandidate(message.candidate))
    .catch((error) => seen.errors.push(String(error)));
}
function renegotiateWhenNeeded() {
  peerConnection.onnegotiationneeded = async () => {
    try {
      const offer = await peerConnection.createOffer();
      await peerConnection.setLocalDescription(offer);
      sendOfferMessage(peerConnection.localDescription);
    } catch (error) {
      seen.errors.push(String(error));
    }
  };
}

const video = document.getElementById("character-video");
const count = () => {
  seen.frames += 1;
  video.requestVideoFrameCallback(count);
};
video.requestVideoFrameCallback(count);
async function addCamera() {
  const camera = document.createElement("canvas");
  camera.getContext("2d").fillRect(0, 0, 8, 8);
  peerConnection.addTrack(camera.captureStream(5).getVideoTracks()[0]);
}
</script>
"""


class PeerLink(FakeSessionLink):
    """A session that shows a face over real peers, one after the other, as the link's interface has it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        super().__init__("sess_1")
        self._source = Source(executor)
        self._clock = MonotonicClock()
        self._start_s = self._clock.now_s()
        self._peer: Peer | None = None
        self._offered: Peer | None = None
        self._early: list[dict[str, object] | None] = []

    async def offer(self) -> str:
        await super().offer()
        self._offered = self._new_peer()
        return await self._offered.offer()

    async def accept(self, answer_sdp: str) -> None:
        await super().accept(answer_sdp)
        assert self._offered is not None
        await self._offered.accept(answer_sdp)
        await self._take(self._offered)

    async def answer(self, offer_sdp: str) -> str:
        await super().answer(offer_sdp)
        peer = self._new_peer()
        answer = await peer.answer(offer_sdp)
        await self._take(peer)
        return answer

    async def add_candidate(self, candidate: dict[str, object] | None) -> None:
        if self._offered is not None or self._peer is None:
            self._early.append(candidate)
        else:
            await self._peer.add_candidate(candidate)

    async def close(self) -> None:
        for peer in (self._peer, self._offered):
            if peer is not None:
                await peer.close()
        await super().close()

    def _new_peer(self) -> Peer:
        def on_state(state: PeerState) -> None:
            if peer is self._peer and state.name == "connected":
                self.emit(PeerChanged(state.name, state.detail, list(state.pairs)))

        peer = Peer(self._source, self._clock, self._start_s, FPS, ICE, on_state)
        return peer

    async def _take(self, peer: Peer) -> None:
        before, self._peer, self._offered = self._peer, peer, None
        for candidate in self._early:
            await peer.add_candidate(candidate)
        self._early.clear()
        if before is not None:
            await before.close()


@pytest.fixture
def link() -> Iterator[PeerLink]:
    with ThreadPoolExecutor(1) as executor:
        link = PeerLink(executor)
        link.emit(ConversationEvent({"type": "session.created", "session": {}}))
        yield link


@pytest.fixture
def page(browser: Browser, link: PeerLink) -> Iterator[Page]:
    async def document(request: Request) -> Response:
        return HTMLResponse(DOCUMENT_002)

    config = AppConfig(ice=ICE)
    door = NavTalkDoor(FakeSessionOpener(link), Keyring(config.auth), config)
    app = Starlette(routes=[*door.routes(), Route("/", document)])
    context = browser.new_context()
    with served(app) as host:
        opened = context.new_page()
        opened.goto(f"http://{host}/")
        yield opened
        opened.close()
        assert link.closed.wait(10), "the session ends with its socket"
    context.close()


def seen(page: Page, what: str) -> object:
    return page.evaluate(f"seen.{what}")


def watch(page: Page, frames: int = 20) -> None:
    """Return when so many more frames have been shown, of sound and picture in one stream."""
    page.wait_for_function(f"seen.frames >= {seen(page, 'frames')} + {frames}", timeout=WAIT_MS)
    assert (
        page.evaluate("video.srcObject.getTracks().map((track) => track.kind).sort().join()") == "audio,video"
    )
    assert seen(page, "errors") == []


def test_the_page_shows_the_avatar_and_opens_its_microphone_once(page: Page, link: PeerLink) -> None:
    watch(page)

    assert seen(page, "microphones") == 1
    assert seen(page, "connections") == 1
    assert link.names()[:2] == ["offer", "accept"]


def test_a_camera_that_is_added_is_negotiated_and_the_avatar_stays(page: Page, link: PeerLink) -> None:
    watch(page)

    page.evaluate("addCamera()")
    page.wait_for_function("seen.answers === 1", timeout=WAIT_MS)
    watch(page)

    assert page.evaluate("peerConnection.signalingState") == "stable"
    assert seen(page, "connections") == 1
    assert link.names() == ["offer", "accept", "answer"]


def test_a_restart_of_ice_becomes_a_new_connection(page: Page, link: PeerLink) -> None:
    watch(page)

    page.evaluate("peerConnection.restartIce()")
    page.wait_for_function("seen.connections === 2", timeout=WAIT_MS)
    watch(page)

    assert link.names() == ["offer", "accept", "offer", "accept"]


def test_a_lost_peer_is_followed_by_a_new_connection(page: Page, link: PeerLink) -> None:
    watch(page)

    link.emit(PeerChanged("failed", "its network is gone"))
    page.wait_for_function("seen.connections === 2", timeout=WAIT_MS)
    watch(page)

    assert link.names() == ["offer", "accept", "offer", "accept"]
