import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.rtp import RtcpPsfbPacket, RtpPacket, pack_remb_fci

from serve_app.clock import MonotonicClock
from serve_app.config import EncoderConfig, IceConfig
from serve_app.errors import InvalidCandidate, InvalidDescription
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import Picture
from serve_app.rtc.candidate import MAX_CANDIDATES
from serve_app.rtc.encoder import SILENCE, H264Encoder, OpusEncoder
from serve_app.rtc.peer import Peer, PeerState
from serve_app.rtc.picture import PictureStream
from serve_app.rtc.sender import split_nals
from tests.unit.rtc.callers import until
from tests.unit.rtc.portrait import base_loop, compose, psnr, speaking

pytestmark = pytest.mark.protocol

FPS = 30
CONFIG = EncoderConfig(start_bitrate_bps=600_000)
LOOP = base_loop(30, 256)
ENCODED = EncodedLoop(LOOP, H264Encoder(256, 256, FPS, CONFIG).encode, 1.0)

Connect = Callable[..., Awaitable["Client"]]


class Source:
    """Shows the base loop, or a speaking face, and plays a tone."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.pictures = PictureStream(LOOP, ENCODED, CONFIG, executor)
        self.opus = OpusEncoder()
        self.speaks = False
        self.units: dict[int, bytes] = {}
        self.sent: list[bytes] = []
        self.bitrates: list[int] = []
        self.keyframes = 0
        self.tone = (6000 * np.sin(2 * np.pi * 400 * np.arange(960) / 48_000)).astype(np.int16)

    def picture(self, index: int) -> Picture:
        return speaking(LOOP, index) if self.speaks else Picture(index, None)

    def sound_packet(self, index: int) -> bytes:
        return self.opus.encode(self.tone) if self.speaks else SILENCE

    async def picture_packet(self, index: int) -> bytes | None:
        self.units[index] = await self.pictures.encode(self.picture(index))
        self.sent.append(self.units[index])
        return self.units[index]

    def picture_frame(self, index: int) -> av.VideoFrame:
        return self.pictures.frame(self.picture(index))

    def request_keyframe(self) -> None:
        self.keyframes += 1
        self.pictures.request_keyframe()

    def set_target_bitrate(self, bps: int) -> None:
        self.bitrates.append(bps)
        self.pictures.target_bitrate_bps = bps


class Client:
    """A plain aiortc receiver, the peer it talks to, and everything that arrived."""

    def __init__(self, pc: RTCPeerConnection, peer: Peer, states: list[PeerState]) -> None:
        self.pc = pc
        self.peer = peer
        self.states = states
        self.tracks: dict[str, MediaStreamTrack] = {}
        self.streams: dict[str, str] = {}
        pc.on("track", self.on_track)

    def on_track(self, track: MediaStreamTrack) -> None:
        self.tracks[track.kind] = track

    async def frames(self, kind: str, count: int) -> list[Any]:
        return [await asyncio.wait_for(self.tracks[kind].recv(), 10) for _ in range(count)]

    async def feed_back(self, fmt: int, fci: Callable[[int], bytes] = lambda _: b"") -> None:
        """Send RTCP feedback about the picture, as a receiver would."""
        video = next(t for t in self.peer._pc.getTransceivers() if t.kind == "video")
        ssrc = video.sender._ssrc
        packet = RtcpPsfbPacket(fmt=fmt, ssrc=1, media_ssrc=ssrc, fci=fci(ssrc))
        await self.pc.getTransceivers()[0].receiver.transport._send_rtp(bytes(packet))


@pytest.fixture
def executor() -> Any:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def source(executor: ThreadPoolExecutor) -> Source:
    return Source(executor)


@pytest.fixture
async def connect(source: Source) -> AsyncIterator[Connect]:
    """Yields a function that connects a new client; all are closed at the end."""
    clients: list[Client] = []
    clock = MonotonicClock()
    start_s = clock.now_s() - 0.7

    async def start(
        *, codec: str | None = None, kinds: tuple[str, ...] = ("video", "audio"), ice: IceConfig | None = None
    ) -> Client:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for kind in kinds:
            transceiver = pc.addTransceiver(kind, direction="recvonly")
            if kind == "video" and codec is not None:
                known = RTCRtpSender.getCapabilities("video").codecs
                transceiver.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
        await pc.setLocalDescription(await pc.createOffer())
        states: list[PeerState] = []
        peer = Peer(source, clock, start_s, FPS, ice or IceConfig(), states.append)
        client = Client(pc, peer, states)
        clients.append(client)
        answer = await peer.answer(pc.localDescription.sdp)
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        return client

    yield start
    for client in clients:
        await client.peer.close()
        await client.pc.close()


def is_idr(unit: bytes) -> bool:
    return any(nal[0] & 0x1F == 5 for nal in split_nals(unit))


async def test_sound_and_picture_arrive_in_one_stream(connect: Connect, source: Source) -> None:
    source.speaks = True
    client = await connect()
    frames = await client.frames("video", 15)
    sound = await client.frames("audio", 15)
    assert client.peer.codec == "H264"
    assert (frames[0].width, frames[0].height) == (256, 256)
    assert max(np.abs(frame.to_ndarray()).max() for frame in sound) > 3000
    lines = client.pc.remoteDescription.sdp.splitlines()
    assert len({line.split()[0] for line in lines if line.startswith("a=msid:")}) == 1
    assert [state.name for state in client.states] == ["connecting", "connected"]


async def test_the_picture_that_arrives_is_the_one_that_was_made(connect: Connect, source: Source) -> None:
    source.speaks = True
    client = await connect()
    frames = await client.frames("video", 20)
    first = min(source.units)
    shown = frames[-1].to_ndarray().reshape(-1)
    index = first + round((frames[-1].pts - frames[0].pts) / 3000)
    assert psnr(shown, compose(LOOP, speaking(LOOP, index))) > 30


async def test_frames_have_the_distance_of_their_rate(connect: Connect) -> None:
    client = await connect()
    frames = await client.frames("video", 10)
    assert {later.pts - earlier.pts for earlier, later in pairwise(frames)} == {3000}
    sound = await client.frames("audio", 10)
    assert {later.pts - earlier.pts for earlier, later in pairwise(sound)} == {960}


async def test_a_lost_picture_is_answered_with_an_idr(connect: Connect, source: Source) -> None:
    client = await connect()
    await client.frames("video", 5)
    await until(lambda: source.pictures.is_riding)
    asked = source.keyframes
    last = max(source.units)
    await client.feed_back(1)
    await until(lambda: source.keyframes > asked)
    await until(lambda: max(source.units) > last + 2)
    assert any(is_idr(source.units[n]) for n in range(last + 1, last + 3))


async def test_a_small_estimate_lowers_the_bitrate(connect: Connect, source: Source) -> None:
    client = await connect()
    await client.frames("video", 5)
    await until(lambda: source.pictures.is_riding)
    video = next(t for t in client.pc.getTransceivers() if t.kind == "video").receiver
    video._RTCRtpReceiver__remote_bitrate_estimator = None  # its own estimates would contradict
    await client.feed_back(15, lambda ssrc: pack_remb_fci(200_000, [ssrc]))
    await until(lambda: 200_000 in source.bitrates)
    first = max(source.units) + 15
    await until(lambda: max(source.units) >= first + 30)
    # A busy machine may leave a frame out.
    sent_bps = 8 * sum(len(source.units.get(n, b"")) for n in range(first, first + 30))
    assert not source.pictures.is_riding
    assert sent_bps < 300_000 < ENCODED.bitrate_bps
    assert client.peer.stats()["target_bitrate_bps"] == 200_000


async def test_lost_packets_are_sent_again(connect: Connect, source: Source) -> None:
    client = await connect()
    transport = client.pc.getTransceivers()[0].receiver.transport
    receive, seen = transport._handle_rtp_data, 0

    async def lossy(data: bytes, arrival_time_ms: int) -> None:
        nonlocal seen
        seen += 1
        if seen % 9 or RtpPacket.parse(data).payload_type == 96:
            await receive(data, arrival_time_ms)

    transport._handle_rtp_data = lossy
    asked = source.keyframes
    frames = await client.frames("video", 40)
    missing = sum((later.pts - earlier.pts) // 3000 - 1 for earlier, later in pairwise(frames))
    # A busy machine may leave a picture out, and a client that is late asks for a new start: what was lost
    # before it stays lost.
    left_out = max(source.units) - min(source.units) + 1 - len(source.units)
    assert missing <= left_out or source.keyframes > asked
    assert missing < 10


async def test_a_client_without_h264_gets_vp8(connect: Connect, source: Source) -> None:
    client = await connect(codec="VP8")
    frames = await client.frames("video", 10)
    assert client.peer.codec == "VP8"
    assert not source.units
    assert (frames[-1].width, frames[-1].height) == (256, 256)
    assert float(np.std(frames[-1].to_ndarray())) > 10


async def test_an_offer_of_picture_alone_is_answered(connect: Connect) -> None:
    client = await connect(kinds=("video",))
    assert await client.frames("video", 3)
    assert "m=audio" not in client.pc.remoteDescription.sdp


async def test_the_order_of_the_lines_does_not_matter(connect: Connect) -> None:
    client = await connect(kinds=("audio", "video"))
    assert await client.frames("video", 3)
    assert await client.frames("audio", 3)


async def test_a_second_peer_shows_a_picture_at_once(connect: Connect, source: Source) -> None:
    first = await connect()
    await first.frames("video", 20)
    await first.peer.close()
    # Counted before the second connects: its first picture may be on its way by the time `connect` returns.
    count = len(source.sent)
    second = await connect()
    frame = (await second.frames("video", 1))[0]
    assert is_idr(source.sent[count])
    assert float(np.std(frame.to_ndarray())) > 10


async def test_two_viewers_of_the_base_loop_share_its_packets(connect: Connect, source: Source) -> None:
    client = await connect()
    await client.frames("video", 5)
    await until(lambda: source.pictures.is_riding)
    last = max(source.units)
    assert source.units[last] is ENCODED.packet(last)


async def test_figures_are_those_of_the_stream(connect: Connect) -> None:
    client = await connect()
    await client.frames("video", 20)
    await until(lambda: client.peer.stats()["rtt_s"] is not None)
    figures = client.peer.stats()
    assert (figures["state"], figures["codec"], figures["fraction_lost"]) == ("connected", "H264", 0.0)
    assert int(str(figures["video_packets"])) > 20
    assert int(str(figures["audio_packets"])) > 20
    assert int(str(figures["video_bytes"])) > 1000
    assert float(str(figures["rtt_s"])) < 1


async def test_closing_is_quick_and_said_once(connect: Connect) -> None:
    client = await connect()
    await client.frames("video", 3)
    start_s = time.monotonic()
    await asyncio.gather(client.peer.close(), client.peer.close())
    assert time.monotonic() - start_s < 0.2
    assert [state.name for state in client.states] == ["connecting", "connected", "closed"]


async def test_a_client_that_hangs_up_closes_the_peer(connect: Connect) -> None:
    client = await connect()
    await client.frames("video", 3)
    await client.pc.close()
    await until(lambda: client.states[-1].name == "closed")


async def test_a_client_that_vanishes_is_noticed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.01)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 2)
    client = await connect()
    await client.frames("video", 3)
    for protocol in client.pc.getTransceivers()[0].receiver.transport.transport._connection._protocols:
        protocol.transport.abort()
    await until(lambda: client.states[-1].name == "failed")
    assert "stopped answering" in client.states[-1].detail


async def test_connecting_and_closing_leaves_the_neighbour_undisturbed(
    connect: Connect, source: Source
) -> None:
    neighbour = await connect()
    await neighbour.frames("video", 10)
    arrivals: list[float] = []

    async def watch() -> None:
        while True:
            await neighbour.tracks["video"].recv()
            arrivals.append(time.monotonic())

    watching = asyncio.ensure_future(watch())
    other = Source(source.pictures._executor)  # type: ignore[arg-type]
    clock = MonotonicClock()
    for _ in range(3):
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        peer = Peer(other, clock, clock.now_s(), FPS, IceConfig(), lambda _: None)
        await peer.answer(pc.localDescription.sdp)
        await peer.close()
        await pc.close()
        await asyncio.sleep(0.1)
    watching.cancel()
    assert max(np.diff(arrivals)) < 0.15


@pytest.mark.parametrize(
    ("offer", "found"),
    [
        ("", "other text"),
        ("hello", "other text"),
        ("v=0\r\nm=video nonsense\r\n", "not valid SDP"),
        ("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", "addTransceiver('video'"),
        ("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 opus/48000/2\r\n", "addTransceiver('video'"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 AV1/90000\r\n", "AV1"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\na=sendonly\r\n", "sendonly"),
        ("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\n", "a=fingerprint"),
        ("v=0\r\n" + "a=x\r\n" * 20_000, "65536"),
    ],
)
async def test_an_offer_that_cannot_be_used_is_refused(source: Source, offer: str, found: str) -> None:
    clock = MonotonicClock()
    states: list[PeerState] = []
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), states.append)
    with pytest.raises(InvalidDescription, match=found.replace("(", r"\(")):
        await peer.answer(offer)
    await peer.close()
    assert [state.name for state in states] == ["closed"]


async def test_an_offer_without_ice_credentials_is_refused(source: Source) -> None:
    clock = MonotonicClock()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    offer = (
        "\r\n".join(x for x in pc.localDescription.sdp.splitlines() if not x.startswith("a=ice-")) + "\r\n"
    )
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), lambda _: None)
    with pytest.raises(InvalidDescription, match="ice-ufrag"):
        await peer.answer(offer)
    await peer.close()
    await pc.close()


async def trickle(
    source: Source, *, before: bool, ice: IceConfig | None = None
) -> tuple[list[PeerState], float]:
    """Connect a client whose candidates come apart from its offer; return states and the answer's time."""
    clock = MonotonicClock()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    lines = pc.localDescription.sdp.splitlines()
    candidates = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    offer = "\r\n".join(line for line in lines if "candidate" not in line) + "\r\n"
    states: list[PeerState] = []
    peer = Peer(source, clock, clock.now_s(), FPS, ice or IceConfig(), states.append)

    async def send_candidates() -> None:
        for text in candidates:
            await peer.add_candidate({"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0})
        await peer.add_candidate({"candidate": "", "sdpMid": "0"})
        await peer.add_candidate(None)

    if before:
        await send_candidates()
    start_s = time.monotonic()
    answer = await peer.answer(offer)
    answered_s = time.monotonic() - start_s
    if not before:
        await send_candidates()
    # Without our candidates the client cannot find us first: theirs must be the ones that work.
    blind = "\r\n".join(line for line in answer.splitlines() if "candidate" not in line) + "\r\n"
    await pc.setRemoteDescription(RTCSessionDescription(blind, "answer"))
    await until(lambda: states[-1].name == "connected")
    await peer.close()
    await pc.close()
    return states, answered_s


@pytest.mark.parametrize("before", [True, False], ids=["before the offer", "after the answer"])
async def test_trickled_candidates_are_used(source: Source, before: bool) -> None:
    states, _ = await trickle(source, before=before)
    assert [state.name for state in states][:2] == ["connecting", "connected"]


async def test_a_warm_answer_takes_less_than_30_ms(source: Source) -> None:
    await trickle(source, before=False)
    assert min([(await trickle(source, before=False))[1] for _ in range(3)]) < 0.03


async def test_a_client_without_candidates_is_found_by_its_packets(source: Source) -> None:
    clock = MonotonicClock()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    offer = "\r\n".join(x for x in pc.localDescription.sdp.splitlines() if "candidate:" not in x) + "\r\n"
    states: list[PeerState] = []
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), states.append)
    await pc.setRemoteDescription(RTCSessionDescription(await peer.answer(offer), "answer"))
    await until(lambda: states[-1].name == "connected")
    await peer.close()
    await pc.close()


@pytest.mark.parametrize(
    "candidate",
    [
        {},
        {"candidate": 7, "sdpMid": "0"},
        {"candidate": "candidate:1 1 udp 1 192.0.2.1 5000 typ host"},
        {"candidate": "nonsense", "sdpMid": "0"},
        {"candidate": "candidate:1 1 udp 1 192.0.2.1 99999 typ host", "sdpMid": "0"},
        {"candidate": "candidate:1 x udp 1 192.0.2.1 5000 typ host", "sdpMid": "0"},
        {"candidate": "candidate:1 1 udp 1 192.0.2.1 5000 typ host", "sdpMid": 0},
    ],
)
async def test_a_candidate_that_cannot_be_parsed_is_refused(
    source: Source, candidate: dict[str, object]
) -> None:
    clock = MonotonicClock()
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), lambda _: None)
    with pytest.raises(InvalidCandidate):
        Peer.check_candidate(candidate)
    with pytest.raises(InvalidCandidate):
        await peer.add_candidate(candidate)
    await peer.close()


async def test_candidates_are_bounded(source: Source) -> None:
    clock = MonotonicClock()
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), lambda _: None)
    for n in range(MAX_CANDIDATES):
        await peer.add_candidate(
            {"candidate": f"candidate:1 1 udp 1 192.0.2.1 {5000 + n} typ host", "sdpMid": "0"}
        )
    with pytest.raises(InvalidCandidate, match=str(MAX_CANDIDATES)):
        await peer.add_candidate({"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0"})
    await peer.close()


async def test_names_that_do_not_resolve_hold_up_nobody(source: Source) -> None:
    clock = MonotonicClock()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    hidden = "a=candidate:1 1 udp 1 0e5a4c6e-0000-4000-8000-000000000000.local 5000 typ host\r\n"
    peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(), lambda _: None)
    start_s = time.monotonic()
    await peer.answer(pc.localDescription.sdp + hidden * 3)
    await peer.add_candidate({"candidate": hidden.removeprefix("a=").strip(), "sdpMid": "0"})
    assert time.monotonic() - start_s < 0.2
    await peer.close()
    await pc.close()


async def test_a_client_that_cannot_be_reached_is_reported_with_a_reason(source: Source) -> None:
    clock = MonotonicClock()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    offer = "\r\n".join(x for x in pc.localDescription.sdp.splitlines() if "candidate" not in x) + "\r\n"
    for candidates, words in [
        ([], "offered no address"),
        (["candidate:1 1 udp 2130706431 192.0.2.77 5000 typ host"], "No UDP packet came back"),
    ]:
        states: list[PeerState] = []
        peer = Peer(source, clock, clock.now_s(), FPS, IceConfig(connect_timeout_s=0.3), states.append)
        await peer.answer(offer)
        for text in candidates:
            await peer.add_candidate({"candidate": text, "sdpMid": "0"})
        await until(lambda states=states: states[-1].name == "failed")  # type: ignore[misc]
        assert words in states[-1].detail
        assert "TURN" in states[-1].detail
        assert bool(states[-1].pairs) == bool(candidates)
        assert all("192.0.2.77:5000" in pair for pair in states[-1].pairs)
        await peer.close()
        assert [state.name for state in states] == ["connecting", "failed"]
    await pc.close()
