"""What was spoken can be fetched as a file, by those who were told its name."""

from __future__ import annotations

import http.client
import io
import re
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from serve_app.client.speech_file import read_speech
from serve_app.media.pcm import Resampler
from serve_app.nouns import SPEECH_HZ
from tests.integration.listener import find, next_event, session, speech
from tests.server import Server

pytestmark = pytest.mark.integration


def fetch(server: Server, path: str) -> httpx.Response:
    return httpx.get(f"{server.http}/{path}", timeout=10)


async def recorded(server: Server, *seeds: int, seconds: float = 2.0) -> list[str]:
    """Speak utterances and return their video_path."""
    paths = []
    async with session(server.url()) as (client, _, inbox):
        for seed in seeds:
            await client.speak(speech(seconds, seed), SPEECH_HZ)
            completed = await next_event(inbox, "generation.completed")
            paths.append(completed.message["video_path"])
    return paths


async def test_recording_holds_what_was_spoken(server: Server) -> None:
    [path] = await recorded(server, 70, seconds=3.0)
    answer = fetch(server, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content)) as container:
        pictures = list(container.decode(video=0))
        codec = container.streams.video[0].codec_context.name
    assert codec == "h264"
    assert (pictures[0].width, pictures[0].height) == (512, 512)
    assert abs(len(pictures) / 30 - 3.0) < 0.3
    assert abs(pictures[-1].time - pictures[0].time - 3.0) < 0.3
    samples, hz = read_speech(answer.content)
    assert abs(len(samples) / hz - 3.0) < 0.3
    resampler = Resampler(hz, SPEECH_HZ)
    heard = np.concatenate([resampler.push(samples), resampler.flush()])
    # The last 6.5 ms would come with a packet after the last: Opus looks that far ahead.
    assert find(speech(3.0, 70)[: round(2.99 * SPEECH_HZ)], heard).is_whole


async def test_every_utterance_has_a_file_with_a_name_that_cannot_be_guessed(server: Server) -> None:
    paths = await recorded(server, 71, 72, seconds=1.2)
    names = [re.fullmatch(r"recordings/([A-Za-z0-9_-]{22,})\.mp4", path) for path in paths]
    assert all(names), paths
    assert len(set(paths)) == 2
    assert fetch(server, "recordings/").status_code == 404


async def test_nothing_outside_the_folder_is_served(server: Server, recordings: Path) -> None:
    [path] = await recorded(server, 73, seconds=1.2)
    name = path.removeprefix("recordings/")
    outside = recordings.parent / "secret.mp4"
    outside.write_bytes(b"secret")
    (recordings / "link.mp4").symlink_to(outside)
    for wanted in (
        "../secret.mp4",
        "..%2fsecret.mp4",
        "%2e%2e/secret.mp4",
        f"{recordings.parent}/secret.mp4",
        "link.mp4",
        f"{name}.part",
        f"x/../{name}%00",
        ".",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", f"/recordings/{wanted}")
        answer = connection.getresponse()
        assert (answer.status, b"secret" in answer.read()) == (404, False), wanted
        connection.close()


async def test_interrupted_utterance_leaves_a_short_file(server: Server) -> None:
    async with session(server.url()) as (client, listener, inbox):
        await client.speak(speech(5.0, 74), SPEECH_HZ)
        await next_event(inbox, "generation.started")
        await listener.voice()
        await client.interrupt()
        completed = await next_event(inbox, "generation.completed")
    assert completed.message["interrupted"]
    answer = fetch(server, completed.message["video_path"])
    samples, hz = read_speech(answer.content)
    assert len(samples) / hz < 2.0
