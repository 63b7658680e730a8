"""A photo is uploaded to a running server, and its face is shown without a restart."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_app.client.received import Received, Receiver
from serve_app.nouns import SPEECH_HZ
from tests.avatar_tools import HOPPER, TOOLS, needs_tools
from tests.integration.listener import Listener, next_event, session, speech
from tests.server import Server, animator, running

pytestmark = [pytest.mark.integration, needs_tools]


@pytest.fixture(scope="module", params=["folder", "url"])
def gallery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an empty store, of two replicas of its model."""
    folder = tmp_path_factory.mktemp("store")
    # fsspec's "local" is a filesystem like any other: read through the cache, as S3 is.
    store = str(folder) if request.param == "folder" else f"local://{folder}"
    args = {
        "animators": {"portrait": animator(num_replicas=2)},
        "avatars": {"store": store, "tools": str(TOOLS)},
    }
    with running(args, environ={"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}) as server:
        yield server


def upload(server: Server, content: bytes) -> httpx.Response:
    return httpx.post(
        f"{server.http}/v1/avatars/upload-face",
        files={"file": ("face.jpg", content, "image/jpeg")},
        timeout=60,
    )


def listed(server: Server) -> set[str]:
    """Return the ids that the server lists."""
    avatars = httpx.get(f"{server.http}/v1/avatars", timeout=10).json()["avatars"]
    return {avatar["avatar_id"] for avatar in avatars}


def luma_of(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(httpx.get(url, timeout=10).content)) as image:
        return np.asarray(image.convert("L"), np.int16)


async def test_an_uploaded_face_is_shown_and_speaks(gallery: Server) -> None:
    answer = await asyncio.to_thread(upload, gallery, HOPPER.read_bytes())
    assert answer.status_code == 200, answer.text
    avatar_id = answer.json()["avatar_id"]
    portrait = await asyncio.to_thread(luma_of, answer.json()["image_url"])
    assert avatar_id in await asyncio.to_thread(listed, gallery)
    pictures: list[np.ndarray] = []
    listener = Listener()

    def see(received: Received) -> None:
        pictures.append(received.y_plane().astype(np.int16))

    media = Receiver(on_video=see, on_sound=listener.hear)
    async with session(gallery.url(model="portrait", avatar=avatar_id), media=media) as (client, _, inbox):
        said = speech(2.0, seed=1)
        await client.speak(said, SPEECH_HZ)
        await next_event(inbox, "generation.completed")
        await asyncio.sleep(0.3)
    assert pictures
    # Video has a luma of 16 to 235.
    shown = (np.mean(pictures[-20:], axis=0) - 16) * 255 / 219
    assert np.abs(shown - portrait).mean() < 12
    others = (np.mean(pictures, axis=0) - 16) * 255 / 219
    assert np.corrcoef(others.ravel(), portrait.ravel())[0, 1] > 0.9
    assert listener.find(said).is_whole


def test_bad_photos_leave_the_store_as_it_was(gallery: Server) -> None:
    before = listed(gallery)
    content = HOPPER.read_bytes()
    for bad, status in ((b"text", 415), (content[:9000], 422), (bytes(10_000_001), 413)):
        answer = upload(gallery, bad)
        assert answer.status_code == status
        assert answer.json()["error"]["suggestion"]
    assert listed(gallery) == before
