"""One small model with two avatars for all tests of this folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from serve_app.avatars.bundle import AvatarBundle
from serve_app.avatars.store import AvatarStore
from serve_app.models.liveportrait.model import LivePortrait


@pytest.fixture(scope="package")
def bundle() -> AvatarBundle:
    """Return the built-in avatar."""
    return AvatarStore(None).load("default")


@pytest.fixture(scope="package")
def model(bundle: AvatarBundle) -> LivePortrait:
    """Return the model with `default` and `other`, which differs in picture, matte and so in its patch."""
    torch.set_num_threads(1)
    model = LivePortrait(fps=25, device="cpu", weights="random")
    model.prepare(bundle)
    matte = bundle.matte.copy()
    matte[:, :200] = 0
    mirrored = bundle.portrait[:, ::-1].copy()
    model.prepare(dataclasses.replace(bundle, avatar_id="other", portrait=mirrored, matte=matte))
    return model
