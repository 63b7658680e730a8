"""A client of the Audio-to-Video door: speech in over the WebSocket, a face back over WebRTC.

    async with A2vClient("ws://localhost:8765/webrtc", on_video=show) as client:
        spoken = await client.speak_wav(Path("speech.wav"))
        await client.completed(spoken)

Nothing is contacted but the door and the ICE servers that it names. All times are monotonic seconds.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import websockets
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp
from websockets.asyncio.client import ClientConnection, connect

from serve_app.client.received import Media, Receiver, Sink
from serve_app.client.speech_file import read_speech, wav_header
from serve_app.errors import AvatarError, IceFailed, InvalidAudio, SessionError
from serve_app.nouns import SPEECH_HZ, Int16

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1_048_576
"""Longest message taken from a door; answers are a few kB."""

WHOLE_BYTES = 8 * 1_048_576
"""Speech up to this goes as one agent.speak; longer speech is streamed at LONG_PACE."""

LONG_PACE = 1.05
"""A little faster than it is heard, so that the door's limit of unplayed speech is never met."""

CHUNK_BYTES = 512 * 1024
"""Half of the door's limit for a chunk."""

RESUME_DELAYS_S = (0.0, 0.2, 0.4)
"""Waits before each attempt to take a session over after its socket was cut; the last one again and again."""

LEAST_LEASE_S = 15.0
"""How long to try at least; a door that says how long it keeps the session (`lease_s`) may ask for more."""

FINAL_CLOSE_CODES = frozenset((1000, 4401, 4408, 4409))
"""Closed for good: by intent, for want of a token, expired, taken over by another socket."""


class DoorError(AvatarError):
    """The door refused or reported an error.

    Attributes:
        door_code: the document's code, for example "AUDIO_3002", or "HTTP 401".
        detail: the door's sentence.
        retry_after_s: when to try again, or None.
    """

    code = "door_error"

    def __init__(self, door_code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(door_code, detail, retry_after_s)
        self.door_code = door_code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def is_of_a_proxy(self) -> bool:
        """Whether something before the door said it: a proxy that restarts knows no route (404) at first."""
        return self.door_code.startswith("HTTP ") and self.door_code not in {"HTTP 401", "HTTP 403"}

    def __str__(self) -> str:
        retry = "" if self.retry_after_s is None else f" (retry after {self.retry_after_s:g} s)"
        return f"{self.door_code}: {self.detail}{retry}"


@dataclass(frozen=True, slots=True)
class DoorEvent:
    """A message of the door.

    Attributes:
        type: for example "generation.started".
        message: the whole JSON object.
        received_s: when it came.
    """

    type: str
    message: dict[str, Any]
    received_s: float

    def as_error(self) -> DoorError:
        """Return an "error" message as an exception; the code stands in details.code."""
        details = self.message.get("details") or {}
        retry_after_s = details.get("retry_after_s")
        return DoorError(
            str(details.get("code", "unknown")), str(self.message.get("error", "")), retry_after_s
        )


@dataclass(frozen=True, slots=True)
class Spoken:
    """Speech that was sent.

    Attributes:
        chunk_index: names the utterance in the door's events.
        sent_s: when each message left, the first one's first.
    """

    chunk_index: int
    sent_s: tuple[float, ...]


@dataclass(slots=True)
class Moments:
    """When the steps of connecting were reached; None before."""

    opening_s: float | None = None
    established_s: float | None = None
    offered_s: float | None = None
    answered_s: float | None = None
    connected_s: float | None = None
    media_s: float | None = None


Inbox = asyncio.Queue[DoorEvent | None]


class A2vClient:
    """One session at a door. Use it as an async context manager; inside, media flows.

    Args:
        url: ws:// or wss:// address, with or without a query (for example `?model=tracer`).
        token: sent as x-api-key.
        on_video: called with each decoded picture, on the event loop.
        on_sound: called with each decoded sound, on the event loop.
        media: in place of the two sinks, something else to do with the packets.
        resume: whether to take the session over with a new socket when the socket is cut.
        timeout_s: longest wait for each of: the welcome, the answer, the first picture.

    Attributes:
        session_id: names the session; empty before the door gave it.
        ice_servers: what the door gave, W3C RTCIceServer objects.
        video: what the door said of its picture.
        moments: when the steps of connecting were reached.
        media: where the packets go; a `Receiver` unless another was given.
        resumes: how often a new socket replaced a cut one.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        on_video: Sink | None = None,
        on_sound: Sink | None = None,
        media: Media | None = None,
        resume: bool = True,
        timeout_s: float = 15.0,
    ) -> None:
        self.session_id = ""
        self.ice_servers: list[dict[str, Any]] = []
        self.video: dict[str, Any] = {}
        self.moments = Moments()
        self.resumes = 0
        self.media: Media = media or Receiver(on_video=on_video, on_sound=on_sound)
        self._url = url
        self._token = token
        self._may_resume = resume
        self._timeout_s = timeout_s
        self._resume_token = ""
        self._lease_s = 0.0
        self._resumed = False
        self._socket: ClientConnection | None = None
        self._socket_up = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: AvatarError | None = None
        self._peer: RTCPeerConnection | None = None
        self._peer_failed = asyncio.Event()
        self._early_candidates: list[dict[str, Any]] = []
        self._inboxes: list[Inbox] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_index = itertools.count()

    @property
    def peer(self) -> RTCPeerConnection:
        """The present peer.

        Raises:
            SessionError: there is none yet.
        """
        if self._peer is None:
            raise SessionError("expected a connected client, found one without a peer")
        return self._peer

    async def __aenter__(self) -> A2vClient:
        try:
            self.moments.opening_s = time.monotonic()
            await self._open_socket()
            self._own(self._read_until_ended())
            await self._negotiate()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session, its socket and its peer."""
        self._end(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()
        self.media.close()
        if self._peer is not None:
            await self._peer.close()

    # Speech.

    async def speak_wav(self, wav: Path | bytes) -> Spoken:
        """Send a sound file as one utterance. WAV goes as it is, other kinds are decoded here.

        Args:
            wav: a path or the file's bytes.

        Raises:
            InvalidAudio: the file is not a sound file.
            AvatarError: the session has ended.
        """
        data = wav if isinstance(wav, bytes) else await asyncio.to_thread(wav.read_bytes)
        if data[:4] == b"RIFF" and len(data) <= WHOLE_BYTES:
            hz = int.from_bytes(data[24:28], "little")
            return await self._speak(data, "wav", hz)
        samples, hz = await asyncio.to_thread(read_speech, data)
        return await self.speak(samples, hz)

    async def speak(self, samples: Int16, hz: int) -> Spoken:
        """Send speech as one utterance.

        Args:
            samples: [S] int16, mono.
            hz: their rate.
        """
        if samples.nbytes > WHOLE_BYTES:
            return await self.stream(samples, hz, chunk_ms=500, pace=LONG_PACE)
        return await self._speak(samples.astype("<i2").tobytes(), "pcm", hz)

    async def _speak(self, audio: bytes, audio_format: str, hz: int) -> Spoken:
        index = next(self._next_index)
        encoded = base64.b64encode(audio).decode()
        message = {
            "type": "agent.speak",
            "audio": encoded,
            "format": audio_format,
            "sample_rate": hz,
            "chunk_index": index,
            "is_final": True,
        }
        return Spoken(index, (await self.send(message),))

    async def stream(
        self,
        samples: Int16,
        hz: int,
        *,
        chunk_ms: float = 40.0,
        pace: float = 1.0,
        on_sent: Callable[[int, float], None] | None = None,
    ) -> Spoken:
        """Send speech in agent.audio.chunk messages, as a microphone or a TTS would.

        Chunks carry bare PCM at 16 kHz; at another rate the first one begins with a WAV header that names it.

        Args:
            samples: [S] int16, mono.
            hz: their rate.
            chunk_ms: sound in one message; ignored when `pace` is 0.
            pace: seconds of sound sent in one second; 1 is live, 0 as fast as the socket takes it.
            on_sent: called with the place of a message's first sample and the time it left.

        Raises:
            InvalidAudio: there are no samples.
            AvatarError: the session has ended.
        """
        if not len(samples):
            raise InvalidAudio("expected speech, got no samples", too_short=True)
        step = max(1, round(hz * chunk_ms / 1000)) if pace else CHUNK_BYTES // 2
        began_s = time.monotonic()
        sent_s: list[float] = []
        first_index = -1
        for start in range(0, len(samples), step):
            if pace:
                await asyncio.sleep(max(0.0, began_s + start / hz / pace - time.monotonic()))
            data = samples[start : start + step].astype("<i2").tobytes()
            if start == 0 and hz != SPEECH_HZ:
                data = wav_header(hz) + data
            index = next(self._next_index)
            first_index = index if start == 0 else first_index
            is_final = start + step >= len(samples)
            sent_s.append(await self._send_chunk(data, index, is_first=start == 0, is_final=is_final))
            if on_sent is not None:
                on_sent(start, sent_s[-1])
        return Spoken(first_index, tuple(sent_s))

    async def _send_chunk(self, data: bytes, index: int, *, is_first: bool, is_final: bool) -> float:
        return await self.send(
            {
                "type": "agent.audio.chunk",
                "chunk": base64.b64encode(data).decode(),
                "chunk_index": index,
                "is_first": is_first,
                "is_final": is_final,
            }
        )

    async def speak_end(self) -> float:
        """End the open stream; return when the message left."""
        return await self.send({"type": "agent.speak_end"})

    async def interrupt(self) -> float:
        """Drop everything that is queued or playing; return when the message left."""
        return await self.send({"type": "agent.interrupt"})

    async def send(self, message: dict[str, Any]) -> float:
        """Send a message with this session's id, waiting while a cut socket is replaced.

        A message that was under way when the socket was cut is not sent again.

        Returns:
            When it was handed to the socket.

        Raises:
            AvatarError: the session has ended.
        """
        text = json.dumps({**message, "session_id": self.session_id})
        while True:
            await self._unless_ended(self._socket_up.wait())
            assert self._socket is not None
            sent_s = time.monotonic()
            try:
                await self._socket.send(text)
            except websockets.ConnectionClosed:
                self._socket_up.clear()
            else:
                return sent_s

    # Events.

    @contextlib.contextmanager
    def inbox(self) -> Iterator[Inbox]:
        """Give a queue that gets the door's messages from now on, and None when the session ends."""
        queue: Inbox = asyncio.Queue()
        if self._ended.is_set():
            queue.put_nowait(None)
        self._inboxes.append(queue)
        try:
            yield queue
        finally:
            self._inboxes.remove(queue)

    async def events(self) -> AsyncIterator[DoorEvent]:
        """Yield the door's messages from the first `anext` on.

        Raises:
            AvatarError: the session ended, and not because this client closed it.
        """
        with self.inbox() as inbox:
            while (event := await inbox.get()) is not None:
                yield event
        if self._failure is not None:
            raise self._failure

    async def completed(self, spoken: Spoken) -> DoorEvent:
        """Wait until an utterance has been played and return its generation.completed.

        Call it right after the speech was sent: only messages from now on count.

        Raises:
            DoorError: the door reported an error meanwhile.
            AvatarError: the session ended.
        """
        async for event in self.events():
            if event.type == "error":
                raise event.as_error()
            if event.type == "generation.completed" and event.message["chunk_index"] == spoken.chunk_index:
                return event
        raise SessionError("expected generation.completed, found the client closed")

    # The socket.

    async def _open_socket(self) -> None:
        try:
            self._socket = await connect(
                self._address(),
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=self._timeout_s,
                additional_headers={} if self._token is None else {"x-api-key": self._token},
                proxy=None if _is_this_machine(self._url) else True,
            )
        except websockets.InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            raise DoorError(f"HTTP {error.response.status_code}", body or "the door refused") from error
        except (OSError, TimeoutError, websockets.InvalidHandshake, websockets.InvalidURI) as error:
            raise SessionError(f"expected a door at {_without_query(self._url)}, found: {error}") from error
        if not await _within(self._timeout_s, self._welcome(self._socket)):
            await self._socket.close()
            raise SessionError(f"expected connection.established in {self._timeout_s:g} s")
        self._socket_up.set()

    def _address(self) -> str:
        parts = urlsplit(self._url)
        query = parse_qsl(parts.query)
        if self._resume_token:
            query += [("session_id", self.session_id), ("resume_token", self._resume_token)]
        return urlunsplit(parts._replace(query=urlencode(query)))

    async def _welcome(self, socket: ClientConnection) -> None:
        refusal: DoorError | None = None
        while True:
            try:
                event = _parse(await socket.recv())
            except websockets.ConnectionClosed as error:
                raise refusal or SessionError(
                    f"expected connection.established, found a closed socket: {error}"
                ) from error
            if event.type == "connection.established":
                break
            # A session that cannot be resumed is reported, and a new one follows on the same socket.
            refusal = event.as_error() if event.type == "error" else refusal
            self._dispatch(event)
        message = event.message
        self.resumes += bool(self.session_id)
        self.moments.established_s = self.moments.established_s or event.received_s
        self._resumed = bool(message.get("resumed", False))
        self.session_id = str(message["session_id"])
        self._resume_token = str(message.get("resume_token") or "")
        self._lease_s = float(message.get("lease_s") or 0.0)
        self.ice_servers = list(message.get("ice_servers") or [])
        self.video = dict(message.get("video") or {})
        self._dispatch(event)

    async def _read_until_ended(self) -> None:
        while True:
            assert self._socket is not None
            reason = "the door closed it"
            try:
                async for text in self._socket:
                    await self._receive(_parse(text))
            except websockets.ConnectionClosed as error:
                reason = str(error)
            self._socket_up.clear()
            if not self._is_resumable(self._socket.close_code) or not await self._resume():
                self._end(SessionError(f"expected an open socket, found it closed: {reason}"))
                return

    def _is_resumable(self, close_code: int | None) -> bool:
        return self._may_resume and bool(self._resume_token) and close_code not in FINAL_CLOSE_CODES

    async def _resume(self) -> bool:
        """Take the session over, or open another in its place; return False when neither can be had."""
        given_up_s = time.monotonic() + max(self._lease_s, LEAST_LEASE_S)
        delays_s = itertools.chain(RESUME_DELAYS_S, itertools.repeat(RESUME_DELAYS_S[-1]))
        asked_for_s = 0.0
        while time.monotonic() < given_up_s:
            # Many clients are cut at the same moment when a server goes; they do not return as one.
            await asyncio.sleep(max(asked_for_s, next(delays_s) * random.uniform(0.8, 1.2)))
            asked_for_s = 0.0
            try:
                await self._open_socket()
            except DoorError as error:
                if error.retry_after_s is None and not error.is_of_a_proxy:
                    return False
                asked_for_s = error.retry_after_s or 0.0
            except SessionError as error:
                logger.info("session %s is not resumed yet: %s", self.session_id, error)
            else:
                if not self._resumed or self.peer.connectionState in ("failed", "closed"):
                    self._own(self._negotiate())
                return True
        return False

    async def _receive(self, event: DoorEvent) -> None:
        if event.type == "webrtc.ice_candidate" and event.message.get("candidate"):
            if self._peer is None or self._peer.remoteDescription is None:
                self._early_candidates.append(event.message["candidate"])
            else:
                await _add_candidate(self._peer, event.message["candidate"])
        self._dispatch(event)

    def _dispatch(self, event: DoorEvent) -> None:
        for inbox in self._inboxes:
            inbox.put_nowait(event)

    # The peer.

    async def _negotiate(self) -> None:
        if self._peer is not None:
            self.media.close()
            await self._peer.close()
        servers = [
            RTCIceServer(urls=s["urls"], username=s.get("username"), credential=s.get("credential"))
            for s in self.ice_servers
        ]
        peer = self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._peer_failed.clear()
        peer.on("connectionstatechange", lambda: self._note_state(peer))
        peer.addTransceiver("video", direction="recvonly")
        peer.addTransceiver("audio", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        with self.inbox() as inbox:
            offer = {"type": "webrtc.offer", "sdp": peer.localDescription.sdp}
            self.moments.offered_s = await self.send(offer)
            if not await _within(self._timeout_s, self._take_answer(peer, inbox)):
                raise self._late("webrtc.answer")
            self.media.attach(peer)
            for candidate in self._early_candidates:
                await _add_candidate(peer, candidate)
            self._early_candidates.clear()
            if not await _within(self._timeout_s, self._first_picture(inbox)):
                raise self._late("a first picture")
        self.moments.media_s = time.monotonic()

    def _note_state(self, peer: RTCPeerConnection) -> None:
        state = str(peer.connectionState)
        if self._peer is peer and state == "connected":
            self.moments.connected_s = time.monotonic()
        elif self._peer is peer and state == "failed":
            self._peer_failed.set()

    async def _take_answer(self, peer: RTCPeerConnection, inbox: Inbox) -> None:
        while (event := await inbox.get()) is not None:
            if event.type == "error":
                raise event.as_error()
            if event.type == "webrtc.answer":
                self.moments.answered_s = event.received_s
                answer = RTCSessionDescription(sdp=str(event.message["sdp"]), type="answer")
                await peer.setRemoteDescription(answer)
                return
        raise self._failure or SessionError("expected webrtc.answer, found the session ended")

    async def _first_picture(self, inbox: Inbox) -> None:
        picture = asyncio.ensure_future(self.media.video_seen.wait())
        failed = asyncio.ensure_future(self._peer_failed.wait())
        reported = asyncio.ensure_future(_first_error(inbox))
        try:
            await asyncio.wait((picture, failed, reported), return_when=asyncio.FIRST_COMPLETED)
            if picture.done():
                return
            if reported.done() and (error := reported.result()) is not None:
                raise error
            raise self._failure or IceFailed(
                "ICE failed: no candidate pair worked. Open the server's UDP ports to this machine, "
                "or configure a TURN server (ice.servers)."
            )
        finally:
            for waiter in (picture, failed, reported):
                waiter.cancel()

    def _late(self, expected: str) -> IceFailed:
        state = "" if self._peer is None else f"; the peer is {self._peer.connectionState}"
        return IceFailed(f"expected {expected} in {self._timeout_s:g} s, found none{state}")

    # The session's end.

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_done)

    def _note_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, AvatarError):
            logger.error("session %s failed", self.session_id, exc_info=error)
            error = SessionError(f"the client failed: {error!r}")
        self._end(error)

    def _end(self, failure: AvatarError | None) -> None:
        if not self._ended.is_set():
            self._failure = failure
            self._ended.set()
            for inbox in self._inboxes:
                inbox.put_nowait(None)

    async def _unless_ended(self, waiting: Coroutine[Any, Any, Any]) -> None:
        awaited = asyncio.ensure_future(waiting)
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((awaited, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            awaited.cancel()
            ended.cancel()
        if self._ended.is_set():
            raise self._failure or SessionError("expected an open session, found a closed client")


async def _within(timeout_s: float, work: Coroutine[Any, Any, None]) -> bool:
    """Return whether `work` came to its end in time; it is cancelled when not."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
    if done:
        task.result()
    return bool(done)


async def _first_error(inbox: Inbox) -> DoorError | None:
    while (event := await inbox.get()) is not None:
        if event.type == "error":
            return event.as_error()
    return None


async def _add_candidate(peer: RTCPeerConnection, init: dict[str, Any]) -> None:
    line = str(init.get("candidate", "")).removeprefix("candidate:")
    if not line:
        await peer.addIceCandidate(None)
        return
    candidate = candidate_from_sdp(line)
    candidate.sdpMid = init.get("sdpMid")
    candidate.sdpMLineIndex = init.get("sdpMLineIndex")
    await peer.addIceCandidate(candidate)


def _parse(text: str | bytes) -> DoorEvent:
    received_s = time.monotonic()
    try:
        message = json.loads(text)
        return DoorEvent(str(message["type"]), message, received_s)
    except (ValueError, TypeError, KeyError) as error:
        raise SessionError(f"expected a JSON object with a type, got {len(text)} characters") from error


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_query(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query="", netloc=urlsplit(url).netloc.rpartition("@")[2]))
