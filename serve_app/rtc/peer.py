"""One client's WebRTC connection: descriptions in and out, tracks and events running until it ends.

aiortc's exceptions end here; callers see this application's errors and four states.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from aiortc import (
    RTCBundlePolicy,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.rtcrtpparameters import RTCRtpCodecCapability

from serve_app.clock import Clock
from serve_app.config import IceConfig
from serve_app.errors import ClientError, InvalidCandidate, InvalidDescription
from serve_app.nouns import Int16
from serve_app.rtc.association import Association
from serve_app.rtc.candidate import MALFORMED, MAX_CANDIDATES, CandidateInit, parse_candidate
from serve_app.rtc.channel import EventChannel
from serve_app.rtc.description import Line, Offer, read_answer, read_offer
from serve_app.rtc.ice import PeerFailure, apply_ice_config, describe_failure, rtc_configuration
from serve_app.rtc.inbound import Inbound
from serve_app.rtc.microphone import Microphone
from serve_app.rtc.receiver import SoundReceiver
from serve_app.rtc.sender import PacketSender, outbound_stats
from serve_app.rtc.tracks import MediaSource, PictureTrack, SoundTrack

logger = logging.getLogger("serve_app.rtc")

CLOSE_TIMEOUT_S = 5.0

REFUSED = (OperationError, InvalidAccessError, InvalidStateError, InternalError)
"""What aiortc raises at a description it understands and cannot serve."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """What became of a peer.

    Attributes:
        name: "connecting", "connected", "failed" or "closed"; the last two are final.
        detail: for "failed", one sentence for a person: why, and what to do.
        pairs: for "failed", the candidate pairs that were tried, as text.
        cause: for "failed", why, for counting.
    """

    name: str
    detail: str = ""
    pairs: tuple[str, ...] = ()
    cause: PeerFailure | None = None


class Peer:
    """A session's connection to one client. Answers one offer or makes one; another takes another peer.

    Args:
        source: what is shown and played.
        clock: the media clock.
        start_s: when packet 0 and frame 0 of the source are due.
        fps: frames per second of the picture.
        ice: how to gather, and how long to wait.
        on_state: called on the event loop with every change of state.
        inbound: takes the client's microphone and its events. With it an offer needs no video line; without
            it nobody listens, and a microphone is not asked for.
    """

    def __init__(
        self,
        source: MediaSource,
        clock: Clock,
        start_s: float,
        fps: int,
        ice: IceConfig,
        on_state: Callable[[PeerState], None],
        *,
        inbound: Inbound | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._start_s = start_s
        self._fps = fps
        self._ice = ice
        self._on_state = on_state
        self._inbound = inbound
        self._configuration = rtc_configuration(ice)
        self._pc = RTCPeerConnection(self._configuration)
        self._pc.on("connectionstatechange", self._on_connection_state)
        self._events: EventChannel | None = None
        if inbound is not None:
            self._events = EventChannel(inbound, clock, self._fail_because)
            self._pc.on("datachannel", self._events.take)
        self._state: PeerState | None = None
        self._codec: str | None = None
        self._used: list[RTCRtpTransceiver] = []
        self._mids: tuple[str, ...] = ()
        self._is_bundled = False
        self._offered = ""
        self._awaits_answer = False
        self._is_negotiated = False
        self._early: list[RTCIceCandidate] = []
        self._num_candidates = 0
        self._timeout: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        self._has_inbound_failed = False

    @property
    def codec(self) -> str | None:
        """Name of the picture's codec, "H264" or "VP8"; None before the answer, and without picture."""
        return self._codec

    @property
    def state(self) -> PeerState | None:
        """The last reported state; None before the first description."""
        return self._state

    # --- signalling --------------------------------------------------------------------------------

    async def answer(self, offer_sdp: str, *, rtcp_mux_only: bool = False) -> str:
        """Return the answer to a client's offer; sound and picture start when ICE and DTLS are through.

        Lines that are of no use here, a camera or a second microphone, are answered as inactive or refused.
        Candidates of the offer are tried after the answer is made, so that a name that does not resolve
        costs the answer no time.

        Args:
            offer_sdp: the offer.
            rtcp_mux_only: whether to answer a=rtcp-mux-only, as WHEP wants (draft-ietf-wish-whep-04).

        Raises:
            InvalidDescription: the offer cannot be parsed, or has no line that this server can use: a video
                line it can fill, or with `inbound` also an audio line.
        """
        offer = read_offer(offer_sdp, hears=self._inbound is not None)
        try:
            await self._negotiate(offer)
        except (*MALFORMED, *REFUSED) as error:
            raise InvalidDescription(
                f"the offer cannot be answered: {error or type(error).__name__}"
            ) from error
        self._mids = offer.mids
        self._use_candidates(offer.candidates)
        self._report(PeerState("connecting"))
        self._set_timeout()
        return offer.complete(str(self._pc.localDescription.sdp), rtcp_mux_only=rtcp_mux_only)

    async def offer(self) -> str:
        """Return an offer of sound and picture, with all of this server's candidates inside.

        The client has `connect_timeout_s` to answer, and as much again to connect; then the peer fails.
        `inbound` is not asked for anything here: who is offered to only listens.

        Raises:
            InvalidDescription: this peer has made or answered an offer already, or is closed.
        """
        if self._used:
            raise InvalidDescription("expected a new peer to make an offer, found one in use")
        # One transport for both lines: a client that cannot bundle is told so by `accept`.
        self._configuration.bundlePolicy = RTCBundlePolicy.MAX_BUNDLE
        try:
            self._used = [self._offered_transceiver(kind) for kind in ("audio", "video")]
            apply_ice_config(self._pc, self._ice)
            await self._pc.setLocalDescription(await self._pc.createOffer())
        except REFUSED as error:
            raise InvalidDescription("expected a new peer to make an offer, found one in use") from error
        self._offered = str(self._pc.localDescription.sdp)
        self._awaits_answer = True
        if self._events is not None:
            self._events.negotiated(None)
        self._report(PeerState("connecting"))
        self._set_timeout()
        return self._offered

    async def accept(self, answer_sdp: str) -> None:
        """Take the client's answer to `offer`; sound and picture start when ICE and DTLS are through.

        Raises:
            InvalidDescription: there is no offer to answer, or the answer cannot be parsed, does not fit the
                offer or refuses the picture. Another answer may follow.
        """
        if not self._awaits_answer:
            raise InvalidDescription("expected one answer to an offer of this server, found no offer open")
        answer = read_answer(answer_sdp, self._offered)
        self._awaits_answer = False
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp=answer.sdp, type="answer"))
        except (*MALFORMED, *REFUSED) as error:
            raise InvalidDescription(f"the answer cannot be used: {error or type(error).__name__}") from error
        sound, picture = self._used
        if answer.with_sound:
            self._attach_sound(sound)
        self._attach_picture(picture)
        self._mids = (str(sound.mid),) * 2
        self._is_bundled = True
        self._use_candidates(answer.candidates)
        self._set_timeout()

    @staticmethod
    def check_candidate(candidate: CandidateInit | None) -> None:
        """Refuse what `add_candidate` would refuse.

        Raises:
            InvalidCandidate: it cannot be parsed.
        """
        parse_candidate(candidate)

    async def add_candidate(self, candidate: CandidateInit | None) -> None:
        """Add a remote candidate; those before the client's description are kept until it comes.

        The end of candidates (None, or an empty string) is not passed on: a client that names no address
        may still be found by the packets it sends.

        Args:
            candidate: W3C RTCIceCandidateInit.

        Raises:
            InvalidCandidate: it cannot be parsed, or there were too many.
        """
        parsed = parse_candidate(candidate)
        if parsed is None:
            return
        self._num_candidates += 1
        if self._num_candidates > MAX_CANDIDATES:
            raise InvalidCandidate(f"expected at most {MAX_CANDIDATES} candidates")
        if self._is_negotiated:
            self._add(parsed)
        else:
            self._early.append(parsed)

    # --- events ------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Send one event over the client's data channel `oai-events`, in the order of calls.

        What is sent before the channel opens waits for it. Nothing happens when the client has no data
        channel, closed it, or is gone. A client that does not read, or never opens the channel while much
        waits, fails the peer.

        Raises:
            ClientError: the event is longer than the client's data channel takes, or this peer was made
                without `inbound` and carries no events.
        """
        if self._events is None:
            raise ClientError("expected a peer with somebody to take its events, found one without inbound")
        self._events.send(text)

    # --- life --------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the connection; returns when its sockets are closed. Safe to call more than once."""
        await asyncio.shield(self._begin_closing())

    def stats(self) -> dict[str, object]:
        """Return figures of the connection.

        Returns:
            state, codec, target_bitrate_bps (None before the receiver's first estimate), rtt_s, fraction_lost
            (of the picture, 0 to 1), packets and bytes sent as video_packets, video_bytes, audio_packets,
            audio_bytes, and of a microphone microphone_packets and microphone_lost.
        """
        figures: dict[str, object] = {
            "state": None if self._state is None else self._state.name,
            "codec": self._codec,
            "target_bitrate_bps": None,
            "rtt_s": None,
            "fraction_lost": 0.0,
        }
        for transceiver in self._used:
            receiver = transceiver.receiver
            if isinstance(receiver, SoundReceiver):
                figures["microphone_packets"] = receiver.packets
                figures["microphone_lost"] = receiver.lost
            if transceiver.direction == "recvonly":
                continue
            sent = outbound_stats(transceiver.sender)
            figures[f"{transceiver.kind}_packets"] = sent["packets"]
            figures[f"{transceiver.kind}_bytes"] = sent["bytes"]
            if sent["rtt_s"] is not None:
                figures["rtt_s"] = sent["rtt_s"]
            if transceiver.kind == "video":
                figures["fraction_lost"] = sent["fraction_lost"]
                figures["target_bitrate_bps"] = sent["target_bps"]
        return figures

    # --- inside ------------------------------------------------------------------------------------

    async def _negotiate(self, offer: Offer) -> None:
        pc = self._pc
        # aiortc's default shares transports before the client's bundling is known, and then closes them.
        self._configuration.bundlePolicy = RTCBundlePolicy.MAX_COMPAT
        self._used = [self._transceiver(line) for line in offer.lines]
        await pc.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
        for transceiver in self._used:
            if transceiver.kind == "video":
                self._attach_picture(transceiver)
            elif transceiver.direction != "recvonly":
                self._attach_sound(transceiver)
        for transceiver in pc.getTransceivers():
            if transceiver not in self._used:
                transceiver.direction = "inactive"
        if pc.sctp is not None:
            Association.adopt(pc.sctp)
        if self._events is not None:
            self._events.negotiated(offer.channel_bytes)
        apply_ice_config(pc, self._ice)
        await pc.setLocalDescription(await pc.createAnswer())

    def _transceiver(self, line: Line) -> RTCRtpTransceiver:
        transceiver = self._pc.addTransceiver(line.kind, direction=line.direction)
        # aiortc takes the first line of its kind unless a transceiver already has one.
        transceiver._set_mid(line.mid)  # noqa: SLF001
        transceiver._set_mline_index(line.index)  # noqa: SLF001
        transceiver.setCodecPreferences(_preferred(line.kind))
        if line.direction != "sendonly":
            microphone = Microphone(self._hear, self._clock.now_s())
            SoundReceiver.adopt(transceiver.receiver, microphone, self._clock)
        return transceiver

    def _offered_transceiver(self, kind: str) -> RTCRtpTransceiver:
        transceiver = self._pc.addTransceiver(kind, direction="sendonly")
        transceiver.setCodecPreferences(_preferred(kind))
        return transceiver

    def _attach_sound(self, transceiver: RTCRtpTransceiver) -> None:
        transceiver.sender.replaceTrack(SoundTrack(self._source, self._clock, self._start_s))
        PacketSender.adopt(transceiver.sender)

    def _attach_picture(self, transceiver: RTCRtpTransceiver) -> None:
        self._codec = str(transceiver._codecs[0].name).upper()  # noqa: SLF001 - getParameters is missing
        encoded = self._codec == "H264"
        track = PictureTrack(self._source, self._clock, self._start_s, self._fps, encoded)
        transceiver.sender.replaceTrack(track)
        if encoded:
            PacketSender.adopt(transceiver.sender)

    def _hear(self, samples: Int16, hz: int) -> None:
        if self._inbound is None or self._closing is not None:
            return
        try:
            self._inbound.sound(samples, hz)
        except Exception:  # raised into aiortc, it would end the connection
            if not self._has_inbound_failed:
                self._has_inbound_failed = True
                logger.exception("what listens to a microphone failed; later failures are not logged")

    def _use_candidates(self, candidates: tuple[RTCIceCandidate, ...]) -> None:
        self._is_negotiated = True
        for candidate in [*candidates, *self._early]:
            self._add(candidate)
        self._early.clear()

    def _add(self, candidate: RTCIceCandidate) -> None:
        if candidate.sdpMid is None:
            # Lines that were left out of what aiortc saw still count in the client's numbers.
            index = candidate.sdpMLineIndex
            if not 0 <= index < len(self._mids):
                return
            candidate.sdpMid = self._mids[index]
        if self._is_bundled:
            candidate.sdpMid = self._mids[0]
        candidate.sdpMLineIndex = None
        task = asyncio.ensure_future(self._add_when_resolved(candidate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _add_when_resolved(self, candidate: RTCIceCandidate) -> None:
        try:
            await self._pc.addIceCandidate(candidate)
        except (OSError, *MALFORMED) as error:  # a multicast socket for mDNS may be forbidden here
            logger.warning("a remote candidate was not used: %s", type(error).__name__)

    def _on_connection_state(self) -> None:
        name = self._pc.connectionState
        if name == "connected":
            self._cancel_timeout()
            self._report(PeerState("connected"))
        elif name == "failed" or (name == "closed" and self._is_lost()):
            self._fail()
        elif name == "closed":
            self._report(PeerState("closed"))

    def _is_lost(self) -> bool:
        # aiortc closes a connection whose consent expired (RFC 7675) before it says "failed".
        transports = [transceiver.receiver.transport.transport for transceiver in self._used]
        return self._closing is None and any(transport.state == "failed" for transport in transports)

    def _set_timeout(self) -> None:
        self._cancel_timeout()
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._timeout = loop.call_later(self._ice.connect_timeout_s, self._on_timeout)

    def _on_timeout(self) -> None:
        if self._state is None or self._state.name != "connecting":
            return
        if self._awaits_answer:
            self._fail_because(
                f"The client did not answer the server's offer within {self._ice.connect_timeout_s:g} s: "
                "call pc.setRemoteDescription(offer), pc.createAnswer() and send the answer back.",
                "no_sdp_answer",
            )
        else:
            self._fail()

    def _fail_because(self, detail: str, cause: PeerFailure = "data_channel") -> None:
        self._report(PeerState("failed", detail, cause=cause))
        self._begin_closing()

    def _begin_closing(self) -> asyncio.Future[None]:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        return self._closing

    def _fail(self) -> None:
        if self._state is not None and self._state.name == "connected":
            detail = (
                "The client stopped answering for about 30 s: it is gone or lost its network; connect again."
            )
            self._report(PeerState("failed", detail, cause="consent_lost"))
        else:
            found = describe_failure(self._pc)
            self._report(PeerState("failed", found.detail, found.pairs, found.cause))
        self._begin_closing()

    def _report(self, state: PeerState) -> None:
        if self._state is not None and (self._state.name in {"failed", "closed"} or self._state == state):
            return
        self._state = state
        self._on_state(state)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    async def _close(self) -> None:
        self._cancel_timeout()
        for task in self._tasks:
            task.cancel()
        if self._events is not None:
            await self._events.drain()
        closing = asyncio.ensure_future(self._pc.close())
        _, pending = await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        if pending:
            logger.warning("a peer connection did not close within %.0f s", CLOSE_TIMEOUT_S)
        self._report(PeerState("closed"))


def _preferred(kind: str) -> list[RTCRtpCodecCapability]:
    names = ("opus",) if kind == "audio" else ("h264", "vp8", "rtx")
    codecs = RTCRtpSender.getCapabilities(kind).codecs
    return [codec for name in names for codec in codecs if codec.name.lower() == name]
