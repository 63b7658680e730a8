"""The baseline: an Audio-to-Video door over plain aiortc with its default encoder, in one process.

No model, no Ray: a picture that moves a little, and the sound that came in. It answers the same messages as
the server, so the same clients measure both, and tests of the client run against it.

    python -m tests.benchmarks.plain_aiortc --port 8790
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import secrets
import time
import wave
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from websockets import ConnectionClosedError
from websockets.asyncio.server import Server, ServerConnection, serve

from serve_app.nouns import PACKET_S, PACKET_SAMPLES, SOUND_HZ, SPEECH_HZ, Int16, UInt8

FPS = 30
SIZE = 512
MOUTH = slice(320, 400), slice(176, 336)
LUMA_SILENT, LUMA_SPEAKING = 60, 200

Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


def base_picture() -> UInt8:
    """Return a textured picture, [SIZE * 3 / 2, SIZE] uint8, I420 planes below each other."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    luma = 110 + 50 * np.sin(x / 37) * np.cos(y / 29) + rng.normal(0, 4, (SIZE, SIZE))
    picture = np.full((SIZE * 3 // 2, SIZE), 128, np.uint8)
    picture[:SIZE] = luma.clip(16, 235)
    return picture


def is_speaking(y_plane: UInt8) -> bool:
    """Say whether a decoded picture of this door speaks."""
    return bool(y_plane[MOUTH].mean() > (LUMA_SILENT + LUMA_SPEAKING) / 2)


@dataclass
class Session:
    """What one client said and still has to hear; both tracks read it."""

    send: Send
    session_id: str = field(default_factory=lambda: secrets.token_hex(8))
    resume_token: str = field(default_factory=lambda: secrets.token_hex(8))
    peer: RTCPeerConnection | None = None
    packets: deque[Int16] = field(default_factory=deque)
    open_index: int | None = None
    hz: int = SPEECH_HZ
    began_s: float = field(default_factory=time.monotonic)
    speaking: bool = False
    is_told: bool = False
    is_last_in: bool = True

    def feed(self, samples: Int16, hz: int) -> None:
        """Queue speech as packets of 20 ms at SOUND_HZ."""
        at = np.arange(0, len(samples) * SOUND_HZ // hz) * hz / SOUND_HZ
        sound = np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
        sound = np.pad(sound, (0, -len(sound) % PACKET_SAMPLES))
        self.packets.extend(sound.reshape(-1, PACKET_SAMPLES))


class SoundTrack(MediaStreamTrack):
    """The session's speech, silence where there is none; says when an utterance begins and ends."""

    kind = "audio"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._packet = -1
        self._tasks: set[asyncio.Task[None]] = set()

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms at their time."""
        if self.readyState != "live":
            raise MediaStreamError
        session = self._session
        self._packet = max(self._packet + 1, int((time.monotonic() - session.began_s) / PACKET_S))
        await asyncio.sleep(max(0.0, session.began_s + self._packet * PACKET_S - time.monotonic()))
        samples = session.packets.popleft() if session.packets else np.zeros(PACKET_SAMPLES, np.int16)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, self._packet * PACKET_SAMPLES
        frame.time_base = Fraction(1, SOUND_HZ)
        session.speaking = bool(samples.any())
        # A live stream may run dry between two chunks; its utterance ends with the last of them.
        ends = session.is_told and session.is_last_in and not session.speaking
        if ends or (session.speaking and not session.is_told):
            session.is_told = not ends
            self._tell("generation.completed" if ends else "generation.started")
        return frame

    def _tell(self, name: str) -> None:
        session = self._session
        extra = {"video_path": None} if name == "generation.completed" else {}
        message = {"type": name, "chunk_index": session.open_index, **extra}
        task = asyncio.create_task(_quietly(session.send(message)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class VideoTrack(MediaStreamTrack):
    """A picture whose mouth is bright while the session speaks."""

    kind = "video"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._picture = base_picture()
        self._index = -1

    async def recv(self) -> av.VideoFrame:
        """Return the next frame at its time."""
        if self.readyState != "live":
            raise MediaStreamError
        session = self._session
        self._index = max(self._index + 1, int((time.monotonic() - session.began_s) * FPS))
        await asyncio.sleep(max(0.0, session.began_s + self._index / FPS - time.monotonic()))
        picture = np.roll(self._picture, round(4 * np.sin(self._index / 15)), axis=1)
        picture[MOUTH] = LUMA_SPEAKING if session.speaking else LUMA_SILENT
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = self._index * 90_000 // FPS, Fraction(1, 90_000)
        return frame


async def _quietly(sending: Awaitable[None]) -> None:
    try:
        await sending
    except (ConnectionError, OSError):
        return


class PlainDoor:
    """A WebSocket server with one aiortc peer a session.

    Attributes:
        sessions: by id; they outlive their sockets until `close`.
        sockets: the open ones.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.sockets: set[ServerConnection] = set()
        self._server: Server | None = None

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1 and return the door's address."""
        self._server = await serve(self._serve, "127.0.0.1", port, max_size=16 * 1_048_576)
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/webrtc"

    async def close(self) -> None:
        """Close sockets and peers."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        peers = [session.peer for session in self.sessions.values() if session.peer is not None]
        await asyncio.gather(*(peer.close() for peer in peers))

    async def _serve(self, socket: ServerConnection) -> None:
        self.sockets.add(socket)

        async def send(message: dict[str, Any]) -> None:
            await socket.send(json.dumps(message))

        session, resumed = self._find(socket, send)
        try:
            if not resumed and "resume_token=" in _query(socket):
                details = {"code": "WS_1001"}
                await send(
                    {"type": "error", "error": "no such session; a new one follows", "details": details}
                )
            await send(
                {
                    "type": "connection.established",
                    "session_id": session.session_id,
                    "resume_token": session.resume_token,
                    "resumed": resumed,
                    "ice_servers": [],
                    "video": {"width": SIZE, "height": SIZE, "fps": FPS},
                }
            )
            async for text in socket:
                await self._take(session, json.loads(text))
        except ConnectionClosedError:
            return
        finally:
            self.sockets.discard(socket)
        if session.peer is not None and socket.close_code == 1000:
            await session.peer.close()
            self.sessions.pop(session.session_id, None)

    def _find(self, socket: ServerConnection, send: Send) -> tuple[Session, bool]:
        for session in self.sessions.values():
            if f"resume_token={session.resume_token}" in _query(socket):
                session.send = send
                return session, True
        session = Session(send)
        self.sessions[session.session_id] = session
        return session, False

    async def _take(self, session: Session, message: dict[str, Any]) -> None:
        match message["type"]:
            case "webrtc.offer":
                await self._answer(session, message["sdp"])
            case "agent.speak":
                await self._speak(session, message)
            case "agent.audio.chunk":
                self._chunk(session, message)
            case "agent.speak_end":
                session.is_last_in = True
            case "agent.interrupt":
                session.packets.clear()
                session.is_last_in = True

    async def _answer(self, session: Session, sdp: str) -> None:
        if session.peer is not None:
            await session.peer.close()
        session.peer = peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        await peer.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
        peer.addTrack(VideoTrack(session))
        peer.addTrack(SoundTrack(session))
        for transceiver in peer.getTransceivers():
            if transceiver.kind == "video":
                codecs = [c for c in transceiver._codecs if c.mimeType == "video/H264"]
                transceiver._codecs = codecs + [c for c in transceiver._codecs if c not in codecs]
        await peer.setLocalDescription(await peer.createAnswer())
        await session.send(
            {"type": "webrtc.answer", "session_id": session.session_id, "sdp": peer.localDescription.sdp}
        )

    async def _speak(self, session: Session, message: dict[str, Any]) -> None:
        audio = base64.b64decode(message["audio"])
        try:
            samples, hz = _wav(audio) if message["format"] == "wav" else (_pcm(audio), message["sample_rate"])
        except (wave.Error, EOFError) as error:
            details = {"code": "AUDIO_3001"}
            await session.send({"type": "error", "error": f"expected WAV, got: {error}", "details": details})
            return
        session.open_index, session.is_last_in = message["chunk_index"], True
        session.feed(samples, hz)

    def _chunk(self, session: Session, message: dict[str, Any]) -> None:
        data = base64.b64decode(message["chunk"])
        if message["is_first"]:
            session.open_index, session.hz = message["chunk_index"], SPEECH_HZ
            if data[:4] == b"RIFF":
                session.hz, data = int.from_bytes(data[24:28], "little"), data[44:]
        session.is_last_in = message["is_final"]
        session.feed(_pcm(data), session.hz)


def _query(socket: ServerConnection) -> str:
    return socket.request.path.partition("?")[2] if socket.request is not None else ""


def _pcm(data: bytes) -> Int16:
    return np.frombuffer(data, "<i2").astype(np.int16)


def _wav(data: bytes) -> tuple[Int16, int]:
    with wave.open(io.BytesIO(data)) as file:
        return _pcm(file.readframes(file.getnframes())), file.getframerate()


async def run(port: int) -> None:
    """Serve until cancelled."""
    door = PlainDoor()
    print(await door.start(port), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await door.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8790)
    asyncio.run(run(parser.parse_args().port))
