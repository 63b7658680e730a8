"""The disk of the recordings is full: the utterance has no file, and everything else goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import httpx
import pytest

from serve_app.nouns import SPEECH_HZ
from tests.chaos.conftest import DISK_BYTES, House
from tests.integration.listener import next_event, session, speech

pytestmark = pytest.mark.chaos


async def test_a_recording_that_finds_no_room_is_told_and_the_session_goes_on(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    if not house.has_own_disk:
        pytest.skip("mounting a small file system is not permitted here")
    said, after = speech(3.0, seed=95), speech(1.5, seed=96)
    filler = house.recordings / "filler"
    async with session(house.server.url()) as (client, listener, inbox):
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(DISK_BYTES // 64))
        spoken = await client.speak(said, SPEECH_HZ)
        told = (await next_event(inbox, "recording.failed")).message
        completed = (await next_event(inbox, "generation.completed")).message
        await asyncio.sleep(0.3)
        gap_s = listener.worst_picture_gap_s()
        filler.unlink()
        await client.speak(after, SPEECH_HZ)
        kept = (await next_event(inbox, "generation.completed")).message
        await asyncio.sleep(0.3)
        assert client.resumes == 0
    record_property("longest wait for a picture", f"{gap_s * 1000:.0f} ms")
    assert (told["chunk_index"], told["detail"]) == (spoken.chunk_index, "No space left on device")
    assert (completed["chunk_index"], completed["video_path"]) == (spoken.chunk_index, None)
    assert listener.find(said).is_whole
    assert listener.find(after).is_whole
    async with httpx.AsyncClient(base_url=house.server.http) as http:
        fetched = await http.get(f"/{kept['video_path']}")
    assert fetched.status_code == 200
    assert fetched.content[4:8] == b"ftyp"
    assert [path.name for path in house.recordings.iterdir() if path.name.endswith(".part")] == []
