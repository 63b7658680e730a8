"""Prepared avatars for all tests of this folder: looking at every frame of a loop takes seconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from serve_app.avatars.bundle import AvatarBundle, Footage
from serve_app.avatars.footage import encode
from serve_app.avatars.store import AvatarStore
from serve_app.models.musetalk.model import MuseTalk
from serve_app.models.neural.checkpoint import RANDOM
from tests.avatar_tools import filmed


def motionless() -> AvatarBundle:
    """Return an avatar that was filmed and did not move at all."""
    bundle = AvatarStore(None).load("default")
    footage = Footage(encode([bundle.portrait] * 3, 25), 25, (bundle.landmarks,) * 3)
    return dataclasses.replace(bundle, avatar_id="motionless", footage=footage)


@pytest.fixture(scope="package")
def musetalk() -> MuseTalk:
    """Return the model at its own rate with three avatars: `default`, `filmed` and `motionless`."""
    torch.set_num_threads(1)
    model = MuseTalk(fps=25, device="cpu", weights=RANDOM)
    for bundle in (AvatarStore(None).load("default"), filmed(), motionless()):
        model.prepare(bundle)
    return model


@pytest.fixture(scope="package")
def faster() -> MuseTalk:
    """Return the model at 30 frames a second, with `motionless`."""
    torch.set_num_threads(1)
    model = MuseTalk(fps=30, device="cpu", weights=RANDOM)
    model.prepare(motionless())
    return model
