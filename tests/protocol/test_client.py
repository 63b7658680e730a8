"""The client against a door over plain aiortc: the same messages, real sockets, real peers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from serve_app.client.a2v import A2vClient, DoorError
from serve_app.client.cli import main
from serve_app.client.received import Mp4Writer, Received, Receiver
from serve_app.client.speech_file import wav_header
from serve_app.errors import SessionError
from serve_app.nouns import Int16
from tests.benchmarks.load import CountingMedia
from tests.benchmarks.plain_aiortc import PlainDoor, is_speaking

pytestmark = pytest.mark.protocol


def tone(seconds: float, hz: int = 16_000) -> Int16:
    return (8000 * np.sin(np.arange(round(seconds * hz)) * 2 * np.pi * 440 / hz)).astype(np.int16)


def wav(samples: Int16, hz: int = 16_000) -> bytes:
    return wav_header(hz, samples.nbytes) + samples.tobytes()


@pytest.fixture
async def door() -> AsyncIterator[PlainDoor]:
    door = PlainDoor()
    yield door
    await door.close()


@pytest.fixture
async def url(door: PlainDoor) -> str:
    return await door.start()


async def test_speech_comes_back_as_speaking_pictures_and_voiced_sound(url: str) -> None:
    pictures: list[Received] = []
    sounds: list[Received] = []
    async with A2vClient(url, on_video=pictures.append, on_sound=sounds.append) as client:
        spoken = await client.speak_wav(wav(tone(0.6)))
        completed = await client.completed(spoken)
    assert completed.message["chunk_index"] == spoken.chunk_index
    speaking = [p for p in pictures if is_speaking(p.y_plane())]
    voiced = [s for s in sounds if np.abs(s.samples().astype(int)).max() > 2000]
    assert 0.4 < (speaking[-1].timestamp - speaking[0].timestamp) / 90_000 < 0.8
    assert 0.5 < (voiced[-1].timestamp - voiced[0].timestamp) / 48_000 < 0.75
    assert pictures[0].frame.width == 512
    assert all(p.decoded_s >= p.arrived_s for p in pictures)


async def test_speech_streamed_live_at_another_rate_keeps_its_pace_and_length(url: str) -> None:
    sounds: list[Received] = []
    places: list[int] = []
    flowing = asyncio.Event()

    def heard(sound: Received) -> None:
        sounds.append(sound)
        flowing.set()

    async with A2vClient(url, on_sound=heard) as client:
        # The plain server plays to whoever is there: what it says before its media flows is lost.
        await asyncio.wait_for(flowing.wait(), 10)
        with client.inbox() as inbox:
            spoken = await client.stream(
                tone(0.5, 24_000), 24_000, chunk_ms=100, on_sent=lambda place, _: places.append(place)
            )
            while (event := await inbox.get()) is not None and event.type != "generation.completed":
                pass
    assert places == [0, 2400, 4800, 7200, 9600]
    assert spoken.sent_s[-1] - spoken.sent_s[0] == pytest.approx(0.4, abs=0.1)
    voiced = [s for s in sounds if np.abs(s.samples().astype(int)).max() > 2000]
    assert 0.4 < (voiced[-1].timestamp - voiced[0].timestamp) / 48_000 < 0.65


async def test_interrupt_silences(url: str) -> None:
    sounds: list[Received] = []
    async with A2vClient(url, on_sound=sounds.append) as client:
        with client.inbox() as inbox:
            await client.speak(tone(5.0), 16_000)
            started = await inbox.get()
            assert started is not None
            assert started.type == "generation.started"
            await client.interrupt()
            completed = await inbox.get()
        assert completed is not None
        assert completed.received_s - started.received_s < 1.0


async def test_an_error_of_the_door_is_raised_with_its_code(url: str) -> None:
    async with A2vClient(url) as client:
        with pytest.raises(DoorError, match="AUDIO_3001") as caught:
            await client.completed(await client.speak_wav(b"RIFF" + bytes(60)))
    assert caught.value.door_code == "AUDIO_3001"


async def test_a_cut_socket_is_replaced_and_the_picture_goes_on(door: PlainDoor, url: str) -> None:
    pictures: list[Received] = []
    async with A2vClient(url, on_video=pictures.append) as client:
        session_id, peer = client.session_id, client.peer
        with client.inbox() as inbox:
            for socket in list(door.sockets):
                socket.transport.abort()
            welcome = await inbox.get()
        assert welcome is not None
        assert welcome.message["resumed"] is True
        assert (client.session_id, client.peer, client.resumes) == (session_id, peer, 1)
        await client.completed(await client.speak(tone(0.3), 16_000))
    gaps_s = np.diff([p.arrived_s for p in pictures])
    assert max(gaps_s) < 0.5


async def test_a_session_that_is_gone_gets_a_new_peer(door: PlainDoor, url: str) -> None:
    async with A2vClient(url) as client:
        old_peer = client.peer
        door.sessions.clear()
        with client.inbox() as inbox:
            for socket in list(door.sockets):
                socket.transport.abort()
            lost = await inbox.get()
            assert lost is not None
            assert lost.as_error().door_code == "WS_1001"
            welcome = await inbox.get()
            assert welcome is not None
            assert welcome.message["resumed"] is False
            answer = await inbox.get()
            assert answer is not None
            assert answer.type == "webrtc.answer"
        assert client.peer is not old_peer
        await client.completed(await client.speak(tone(0.3), 16_000))


async def test_a_session_taken_over_by_another_socket_is_not_taken_back(door: PlainDoor, url: str) -> None:
    async with A2vClient(url) as client:
        for socket in list(door.sockets):
            await socket.close(4409, "taken over")
        with pytest.raises(SessionError, match="4409"):
            await client.interrupt()
    assert client.resumes == 0


async def test_without_resume_a_cut_ends_the_session(door: PlainDoor, url: str) -> None:
    async with A2vClient(url, resume=False) as client:
        for socket in list(door.sockets):
            socket.transport.abort()
        with pytest.raises(SessionError, match="expected an open socket"):
            async for _ in client.events():
                pass
        with pytest.raises(SessionError, match="expected an open socket"):
            await client.interrupt()


async def test_no_door_is_said_with_its_address() -> None:
    with pytest.raises(SessionError, match=r"expected a door at ws://127\.0\.0\.1:9/webrtc, found"):
        async with A2vClient("ws://127.0.0.1:9/webrtc?token=secret"):
            pass


async def test_received_media_is_written_to_an_mp4_in_step(url: str, tmp_path: Path) -> None:
    path = tmp_path / "received.mp4"
    writer = Mp4Writer(path)
    spoke, silent = asyncio.Event(), asyncio.Event()

    def seen(received: Received) -> None:
        writer.write(received)
        if is_speaking(received.frame.to_ndarray()[:512].astype(np.uint8)):
            spoke.set()
        elif spoke.is_set():
            silent.set()

    receiver = Receiver(on_video=seen, on_sound=writer.write)
    async with A2vClient(url, media=receiver) as client:
        spoken = await client.speak(tone(1.0), 16_000)
        await client.completed(spoken)
        # The last pictures are on their way when the door says that they were sent.
        await asyncio.wait_for(silent.wait(), 10)
        lag_s = receiver.sound_lag_s()
    await asyncio.to_thread(writer.finish, lag_s)

    with av.open(str(path)) as file:
        speaking_s = [
            float(f.pts * f.time_base)
            for f in file.decode(video=0)
            if is_speaking(f.to_ndarray()[:512].astype(np.uint8))
        ]
    with av.open(str(path)) as file:
        voiced_s = [
            float(f.pts * f.time_base) for f in file.decode(audio=0) if np.abs(f.to_ndarray()).max() > 0.1
        ]
    assert speaking_s[0] == pytest.approx(voiced_s[0], abs=0.08)
    assert speaking_s[-1] - speaking_s[0] == pytest.approx(0.97, abs=0.08)


async def test_connecting_notes_its_moments_in_order(url: str) -> None:
    before_s = time.monotonic()
    async with A2vClient(url) as client:
        moments = client.moments
    steps = [
        before_s,
        moments.opening_s,
        moments.established_s,
        moments.offered_s,
        moments.answered_s,
        moments.connected_s,
        moments.media_s,
    ]
    assert all(a is not None and b is not None and a <= b for a, b in itertools.pairwise(steps))


async def test_the_command_line_speaks_a_file_and_keeps_what_came_back(url: str, tmp_path: Path) -> None:
    speech, received = tmp_path / "speech.wav", tmp_path / "received.mp4"
    speech.write_bytes(wav(tone(0.5)))
    arguments = ["speak", str(speech), "--url", url, "-o", str(received), "--live"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 0, result.output
    assert "generation.completed (utterance 0)" in result.output
    assert "speech sent → first speaking frame" in result.output
    with av.open(str(received)) as file:
        assert {stream.type for stream in file.streams} == {"video", "audio"}


async def test_a_counting_client_sees_every_frame_without_decoding(url: str) -> None:
    media = CountingMedia()
    async with A2vClient(url, media=media) as client:
        media.video.restart()
        media.sound.restart()
        await client.completed(await client.speak(tone(1.0), 16_000))
    assert 25 <= media.video.frames <= 40
    assert 45 <= media.sound.frames <= 60
    assert media.video.bytes > media.sound.bytes
