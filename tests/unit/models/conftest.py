"""One prepared portrait for all tests of this folder: preparing takes a second."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from serve_app.avatars.store import AvatarStore
from serve_app.models.portrait import Portrait


@pytest.fixture(scope="package")
def portrait() -> Portrait:
    """Return the model with two avatars: `default`, and `other`, which differs in picture and face."""
    torch.set_num_threads(1)
    model = Portrait(fps=30, device="cpu")
    bundle = AvatarStore(None).load("default")
    model.prepare(bundle)
    shorter = bundle.landmarks.jaw * np.array([1.0, 0.98], np.float32)
    face = dataclasses.replace(bundle.landmarks, jaw=shorter)
    darker, wall = (
        (picture * np.array([0.7, 0.8, 0.9])).astype(np.uint8)
        for picture in (bundle.portrait, bundle.background)
    )
    other = dataclasses.replace(bundle, avatar_id="other", portrait=darker, background=wall, landmarks=face)
    model.prepare(other)
    return model
