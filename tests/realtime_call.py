"""A caller of the OpenAI Realtime door over WebRTC: a microphone, a data channel, and what comes back."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from serve_app.client.received import Receiver
from serve_app.media.pcm import Resampler, decode_wav
from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ, Int16

WAIT_S = 20.0


def spoken(text: str, voice: str = "en") -> Int16:
    """Return a sentence of espeak-ng, [S] int16 at SOUND_HZ, without silence around it."""
    program = shutil.which("espeak-ng")
    assert program, "expected espeak-ng (scripts/system-packages installs it)"
    wav = subprocess.run([program, "-v", voice, "--stdout", text], capture_output=True, check=True).stdout
    samples, hz = decode_wav(wav)
    resampler = Resampler(hz, SOUND_HZ)
    sound = np.concatenate([resampler.push(samples), resampler.flush()])
    loud = np.flatnonzero(np.abs(sound) > 500)
    return sound[loud[0] : loud[-1] + 1]


class Microphone(MediaStreamTrack):
    """Sends silence, or what it is told to say; 20 ms at a time, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._start_s: float | None = None
        self._index = 0
        self._queue = np.zeros(0, np.int16)
        self._on_first: Callable[[float], None] | None = None

    def say(self, sound: Int16) -> asyncio.Future[float]:
        """Speak after what is being said; the result is when the first sample left, on time.monotonic()."""
        left: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        assert not len(self._queue), "one sentence at a time"
        self._queue, self._on_first = sound, left.set_result
        return left

    @property
    def is_speaking(self) -> bool:
        """Whether something is left to say."""
        return len(self._queue) > 0

    async def recv(self) -> av.AudioFrame:
        """Wait until the next 20 ms are due and return them."""
        if self._start_s is None:
            self._start_s = time.monotonic()
        await asyncio.sleep(max(0.0, self._start_s + self._index * PACKET_S - time.monotonic()))
        part, self._queue = self._queue[:PACKET_SAMPLES], self._queue[PACKET_SAMPLES:]
        if len(part) and self._on_first is not None:
            self._on_first(time.monotonic())
            self._on_first = None
        samples = np.pad(part, (0, PACKET_SAMPLES - len(part)))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, self._index * PACKET_SAMPLES
        frame.time_base = Fraction(1, SOUND_HZ)
        self._index += 1
        return frame


@dataclass
class Event:
    """A server event and when it came, on time.monotonic()."""

    body: dict[str, Any]
    at_s: float

    @property
    def type(self) -> str:
        return str(self.body["type"])


@dataclass
class RealtimeCall:
    """A call that is open.

    Attributes:
        call_id: "rtc_…"; empty where the answer names none.
        peer: the caller's end of the connection.
        microphone: what the caller says; None in a call without one.
        answer_s: how long the SDP answer took.
        events: every server event so far.
    """

    call_id: str
    peer: RTCPeerConnection
    microphone: Microphone | None
    answer_s: float
    events: list[Event] = field(default_factory=list)
    send: Callable[[dict[str, Any]], None] = lambda event: None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, text: str) -> None:
        """Note a message of the data channel."""
        self.events.append(Event(json.loads(text), time.monotonic()))
        self._news.set()

    async def until(self, kind: str, since: int = 0, timeout_s: float = WAIT_S) -> Event:
        """Return the first event of a type from event number `since` on; wait for it."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = next((event for event in self.events[since:] if event.type == kind), None)
                    if found is not None:
                        return found
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"expected {kind}, found {self.types(since)}") from None

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every server event, from the first on, for ever."""
        number = 0
        while True:
            while number < len(self.events):
                yield self.events[number].body
                number += 1
            self._news.clear()
            await self._news.wait()

    def types(self, since: int = 0) -> list[str]:
        """Return the types of the events from number `since` on."""
        return [event.type for event in self.events[since:]]

    def of(self, kind: str, since: int = 0) -> list[dict[str, Any]]:
        """Return the events of a type from number `since` on."""
        return [event.body for event in self.events[since:] if event.type == kind]

    async def say(self, sound: Int16) -> float:
        """Speak; return when the first sample left, on time.monotonic()."""
        assert self.microphone is not None, "a call with a microphone"
        return await self.microphone.say(sound)

    def type_text(self, text: str) -> None:
        """Write to the avatar, and ask it to answer."""
        content = [{"type": "input_text", "text": text}]
        self.send(
            {
                "type": "conversation.item.create",
                "item": {"type": "message", "role": "user", "content": content},
            }
        )
        self.send({"type": "response.create"})

    async def lost(self, timeout_s: float) -> str:
        """Return "failed" or "closed" when the server is gone; wait for that."""
        changed = asyncio.Event()
        self.peer.on("connectionstatechange", changed.set)
        async with asyncio.timeout(timeout_s):
            while self.peer.connectionState not in {"failed", "closed"}:
                await changed.wait()
                changed.clear()
        return str(self.peer.connectionState)

    def vanish(self) -> None:
        """Be gone as a machine without power is: nothing is sent or answered any more."""
        for transceiver in self.peer.getTransceivers():
            ice = transceiver.sender.transport.transport.iceGatherer._connection
            for protocol in ice._protocols:
                protocol.transport.abort()


async def mint(
    base_url: str, *, session: dict[str, Any] | None = None, key: str | None = None, dialect: str = "ga"
) -> str:
    """Return a new ephemeral key.

    Args:
        base_url: of the server, "http://…".
        session: settings in the shape of the dialect.
        key: API key to mint with; None on an open server.
        dialect: "ga" or "beta".
    """
    async with httpx.AsyncClient(base_url=base_url, timeout=WAIT_S) as http:
        settings = {"model": "gpt-realtime", **(session or {})}
        path, body = (
            ("client_secrets", {"session": {"type": "realtime", **settings}})
            if dialect == "ga"
            else ("sessions", settings)
        )
        answer = await http.post(f"/v1/realtime/{path}", json=body, headers=bearer(key))
        answer.raise_for_status()
        secret = answer.json() if dialect == "ga" else answer.json()["client_secret"]
        return str(secret["value"])


@asynccontextmanager
async def joining(
    url: str,
    secret: str | None,
    *,
    receiver: Receiver | None = None,
    with_microphone: bool = True,
    with_picture: bool = True,
) -> AsyncIterator[RealtimeCall]:
    """Call with a key, and leave at the end without hanging up.

    Args:
        url: where the offer is posted.
        secret: an ephemeral key, or an API key; None on an open server.
        receiver: decodes what comes; None throws it away.
        with_microphone: whether the caller can be heard.
        with_picture: whether a face is wanted.

    Raises:
        httpx.HTTPStatusError: the call is refused.
    """
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        microphone = Microphone() if with_microphone else None
        if microphone is not None:
            peer.addTrack(microphone)
        else:
            peer.addTransceiver("audio", direction="recvonly")
        if with_picture:
            peer.addTransceiver("video", direction="recvonly")
        channel = peer.createDataChannel("oai-events")
        opened = asyncio.Event()
        channel.on("open", opened.set)
        await peer.setLocalDescription(await peer.createOffer())
        asked_s = time.monotonic()
        async with httpx.AsyncClient(timeout=WAIT_S) as http:
            answer = await http.post(
                url,
                content=peer.localDescription.sdp,
                headers=bearer(secret) | {"content-type": "application/sdp"},
            )
        answer.raise_for_status()
        assert answer.status_code == 201
        call_id = answer.headers.get("location", "").rpartition("/")[2]
        call = RealtimeCall(call_id, peer, microphone, time.monotonic() - asked_s)
        call.send = lambda event: channel.send(json.dumps(event))
        channel.on("message", call.take)
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        (receiver or Receiver()).attach(peer)
        await asyncio.wait_for(opened.wait(), WAIT_S)
        await call.until("session.created")
        yield call
    finally:
        if receiver is not None:
            receiver.close()
        await peer.close()


@asynccontextmanager
async def calling(
    base_url: str,
    *,
    session: dict[str, Any] | None = None,
    receiver: Receiver | None = None,
    with_microphone: bool = True,
    with_picture: bool = True,
    key: str | None = None,
    query: str = "",
    dialect: str = "ga",
) -> AsyncIterator[RealtimeCall]:
    """Mint an ephemeral key, call with it, and hang up at the end.

    Args:
        base_url: of the server, "http://…".
        session: session settings to mint with, in the shape of the dialect.
        receiver: decodes what comes; None throws it away.
        with_microphone: whether the caller can be heard.
        with_picture: whether a face is wanted.
        key: API key to mint with; None on an open server.
        query: of the call's address, "?…".
        dialect: "ga" or "beta".
    """
    secret = await mint(base_url, session=session, key=key, dialect=dialect)
    path = "/v1/realtime/calls" if dialect == "ga" else "/v1/realtime"
    async with joining(
        f"{base_url}{path}{query}",
        secret,
        receiver=receiver,
        with_microphone=with_microphone,
        with_picture=with_picture,
    ) as call:
        try:
            yield call
        finally:
            await hang_up(base_url, call.call_id, key)


async def hang_up(base_url: str, call_id: str, key: str | None = None) -> int:
    """End a call; return the status of the answer."""
    async with httpx.AsyncClient(base_url=base_url, timeout=WAIT_S) as http:
        answer = await http.post(f"/v1/realtime/calls/{call_id}/hangup", headers=bearer(key))
        return answer.status_code


def bearer(key: str | None) -> dict[str, str]:
    """Return the headers that bring a key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
