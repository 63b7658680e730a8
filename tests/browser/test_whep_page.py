"""A WHEP player in Chromium (draft-ietf-wish-whep-04), which trickles, against the door and a real peer."""

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
from serve_app.gateway.tokens import SessionTokens
from serve_app.gateway.whep.door import WhepDoor
from serve_app.rtc.peer import Peer
from serve_app.session.facts import Viewing
from tests.asgi_server import served
from tests.fakes import FakeSessionLink, FakeSessionOpener
from tests.protocol.test_peer import FPS, Source

pytestmark = pytest.mark.browser

WAIT_MS = 15_000
ID = "sess_1"
ICE = IceConfig(loopback=True)

PLAYER = """
<video autoplay playsinline muted></video>
<script>
const seen = { frames: 0, statuses: [], answer: "" };
const video = document.querySelector("video");
const count = () => { seen.frames += 1; video.requestVideoFrameCallback(count); };
video.requestVideoFrameCallback(count);
let pc, resource, etag;
async function play() {
  pc = new RTCPeerConnection({ bundlePolicy: "max-bundle", rtcpMuxPolicy: "require" });
  pc.addTransceiver("audio", { direction: "recvonly" });
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.ontrack = (event) => { video.srcObject = event.streams[0]; };
  const early = [];
  pc.onicecandidate = (event) => {
    if (!event.candidate) return;
    if (resource) trickle(event.candidate); else early.push(event.candidate);
  };
  await pc.setLocalDescription();
  const headers = { "content-type": "application/sdp" };
  const posted = await fetch("/whep/sess_1", { method: "POST", headers, body: pc.localDescription.sdp });
  seen.statuses.push(posted.status);
  seen.answer = await posted.text();
  await pc.setRemoteDescription({ type: "answer", sdp: seen.answer });
  resource = posted.headers.get("location");
  etag = posted.headers.get("etag");
  early.forEach(trickle);
}
async function trickle(candidate) {
  const ufrag = /a=ice-ufrag:(\\S+)/.exec(pc.localDescription.sdp)[1];
  const pwd = /a=ice-pwd:(\\S+)/.exec(pc.localDescription.sdp)[1];
  const lines = [`a=ice-ufrag:${ufrag}`, `a=ice-pwd:${pwd}`, "m=audio 9 RTP/AVP 0",
                 `a=mid:${candidate.sdpMid}`, `a=${candidate.candidate}`, ""];
  const headers = { "content-type": "application/trickle-ice-sdpfrag", "if-match": etag };
  const patched = await fetch(resource, { method: "PATCH", headers, body: lines.join("\\r\\n") });
  seen.statuses.push(patched.status);
}
async function leave() {
  seen.statuses.push((await fetch(resource, { method: "DELETE" })).status);
}
</script>
"""


class ViewedLink(FakeSessionLink):
    """A session whose one viewer has a real peer."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        super().__init__(ID)
        self._executor = executor
        self._viewer: Peer | None = None

    async def view(self, offer_sdp: str) -> Viewing:
        viewing = await super().view(offer_sdp)
        clock = MonotonicClock()
        source = Source(self._executor)
        self._viewer = Peer(source, clock, clock.now_s(), FPS, ICE, lambda state: None)
        return Viewing(viewing.viewer_id, await self._viewer.answer(offer_sdp))

    async def add_viewer_candidate(self, viewer_id: str, candidate: dict[str, object] | None) -> None:
        await super().add_viewer_candidate(viewer_id, candidate)
        assert self._viewer is not None
        await self._viewer.add_candidate(candidate)

    async def end_view(self, viewer_id: str) -> bool:
        assert self._viewer is not None
        await self._viewer.close()
        return await super().end_view(viewer_id)


@pytest.fixture
def link() -> Iterator[ViewedLink]:
    with ThreadPoolExecutor(1) as executor:
        yield ViewedLink(executor)


@pytest.fixture
def page(browser: Browser, link: ViewedLink) -> Iterator[Page]:
    async def document(request: Request) -> Response:
        return HTMLResponse(PLAYER)

    config = AppConfig(ice=ICE)
    opener = FakeSessionOpener(link)
    opener.resumable[ID] = link
    door = WhepDoor(opener, Keyring(config.auth), SessionTokens(config.auth), config)
    app = Starlette(routes=[*door.routes(), Route("/", document)])
    context = browser.new_context()
    with served(app) as host:
        opened = context.new_page()
        opened.goto(f"http://{host}/")
        yield opened
        opened.close()
    context.close()


def test_a_player_watches_trickles_and_leaves(page: Page, link: ViewedLink) -> None:
    page.evaluate("play()")
    page.wait_for_function("seen.frames > 20", timeout=WAIT_MS)

    assert (
        page.evaluate("video.srcObject.getTracks().map((track) => track.kind).sort().join()") == "audio,video"
    )
    answer = str(page.evaluate("seen.answer"))
    assert answer.count("a=rtcp-mux-only") == answer.count("m=")
    assert answer.count("a=sendonly") == 2

    page.evaluate("leave()")
    statuses = page.evaluate("seen.statuses")
    assert (statuses[0], set(statuses[1:-1]), statuses[-1]) == (201, {204}, 200)
    assert link.viewers == set()
    assert not link.closed.is_set(), "the session goes on"
