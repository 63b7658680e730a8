"""configs/prod.yaml on this machine, as it is: its models with invented weights, and its secrets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from serve_app.avatars.store import AvatarStore
from serve_app.client.a2v import A2vClient
from serve_app.client.received import Received, Receiver
from serve_app.models import idle
from serve_app.models.registry import RANDOM, load_model
from serve_app.nouns import SPEECH_HZ
from tests.integration.keys import ADA, SECRETS
from tests.integration.listener import next_event, speech
from tests.server import ROOT, Server, running

pytestmark = pytest.mark.integration

FPS = 25
SAID_S = 2.0

NODE = {"CPU": 64, "rtc_slot": 8}
"""What a small machine says it has, so that Ray places here what is meant for a cluster."""

ONE_MACHINE = {
    "session": {"hosts": 1},
    "gateway": {"num_replicas": 1},
    "ice": {"loopback": True, "servers": []},
}

BLOCK = 8
"""Pixels of a side that are compared as one: what coding does to single ones is not looked at."""

Luma = npt.NDArray[np.int16]
Blocks = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def prod() -> Iterator[Server]:
    """A server of prod.yaml, whose models' weights are random."""
    environ = {
        **SECRETS,
        "AVATAR_RANDOM_WEIGHTS": "1",
        "AVATAR_API_KEYS": f"ada:{ADA}",
        "RAY_OVERRIDE_RESOURCES": json.dumps(NODE),
    }
    with running(ONE_MACHINE, config=ROOT / "configs" / "prod.yaml", environ=environ, ready_s=300) as server:
        yield server


def mouth() -> tuple[slice, slice]:
    """Return rows and columns around the lips of the default avatar."""
    face = AvatarStore(None).load("default").landmarks
    lips = np.concatenate([face.upper_lip_outer, face.lower_lip_outer])
    left, top = lips.min(axis=0)
    right, bottom = lips.max(axis=0)
    return slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)


def mouths(pictures: Luma) -> Blocks:
    """Return the mean of each block around the mouth, [..., h, w], of Y planes [..., 512, 512]."""
    rows, columns = mouth()
    part = pictures[..., rows, columns]
    height, width = (size // BLOCK for size in part.shape[-2:])
    part = part[..., : height * BLOCK, : width * BLOCK]
    return part.reshape(*part.shape[:-2], height, BLOCK, width, BLOCK).mean(axis=(-3, -1))


def resting_mouths(model: str) -> Blocks:
    """Return the mouths of the default avatar's base loop; LivePortrait alone renders it with networks."""
    default = AvatarStore(None).load("default")
    if model == "musetalk":
        loop = idle.base_loop(default, FPS, torch.device("cpu")).loop
    else:
        loaded = load_model(model, fps=FPS, device="cpu", weights=RANDOM)
        loaded.prepare(default)
        loop = loaded.base_loop("default")
    assert loop.fps == FPS
    return mouths(loop.frames[:, : 512 * 512].reshape(-1, 512, 512).astype(np.int16))


class Watch:
    """Keeps the pictures and whether they were shown while speech was heard."""

    def __init__(self) -> None:
        self.pictures: list[tuple[int, Luma]] = []
        self.sound: list[tuple[int, int]] = []

    def see(self, received: Received) -> None:
        self.pictures.append((received.timestamp, received.y_plane().astype(np.int16)))

    def hear(self, received: Received) -> None:
        self.sound.append((received.timestamp, int(np.abs(received.samples().astype(np.int32)).max())))


@pytest.mark.timeout(400)  # the first also waits for the server
@pytest.mark.parametrize("model", ["musetalk", "liveportrait"])
def test_neural_model_speaks_in_a_session_that_names_it(prod: Server, model: str) -> None:
    said = speech(SAID_S, seed=70)
    watch = Watch()

    async def scenario() -> None:
        media = Receiver(on_video=watch.see, on_sound=watch.hear)
        url = prod.url(model=model)
        async with A2vClient(url, token=ADA, media=media, timeout_s=60) as client:
            with client.inbox() as inbox:
                await asyncio.sleep(1.0)
                before = len(watch.pictures)
                assert before > 5
                await client.speak(said, SPEECH_HZ)
                await next_event(inbox, "generation.started")
                watch.pictures[:] = watch.pictures[:before]
                await next_event(inbox, "generation.completed")
        spoken = [picture for _, picture in watch.pictures[before:]]
        watched.extend([[picture for _, picture in watch.pictures[:before]], spoken])

    watched: list[list[Luma]] = []
    asyncio.run(scenario())
    unspoken, spoken = watched
    loop = resting_mouths(model)

    def strangeness(picture: Luma) -> float:
        """Return the mean difference of a picture's mouth to that of the base frame most like it."""
        return float(np.abs(loop - mouths(picture)).mean(axis=(1, 2)).min())

    # A busy machine shows many base frames: the model falls behind, and sound goes on.
    at_rest = max(strangeness(picture) for picture in unspoken)
    speaking = max(strangeness(picture) for picture in spoken)
    assert len(spoken) > 0.5 * SAID_S * FPS
    assert speaking > 2 * at_rest, (
        f"expected another mouth than at rest ({at_rest:.2f}), found {speaking:.2f}"
    )
    assert max(peak for _, peak in watch.sound) > 2000
    times = [timestamp for timestamp, _ in watch.pictures]
    assert set(np.diff(times[:10])) == {90_000 // FPS}
