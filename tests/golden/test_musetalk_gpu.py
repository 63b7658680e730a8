"""MuseTalk on a GPU: half precision, compiled and captured, against float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.models.musetalk.architecture import OFFICIAL
from serve_app.models.musetalk.networks import Networks, build
from serve_app.models.neural.batching import BucketedStep
from serve_app.models.neural.checkpoint import fill
from tests.golden import recipe
from tests.golden.half import LIKENESS_DB, likeness_db

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]

CASES = recipe.cases("musetalk")
ROWS = 3


def filled(dtype: torch.dtype) -> Networks:
    networks = build(OFFICIAL, "meta")
    for module, name in ((networks.unet, "unet"), (networks.vae, "vae")):
        fill(module, recipe.state_dict("musetalk", "a", name), file=Path("recipe"))
    fill(
        networks.whisper,
        recipe.state_dict("musetalk", "a", "whisper"),
        file=Path("recipe"),
        rename=lambda key: key.removeprefix("encoder."),
    )
    return networks.to(torch.device("cuda"), dtype)


def inputs(networks: Networks) -> tuple[Tensor, Tensor]:
    """Return rows that differ: three faces with the reference's prompt."""
    bgr = CASES.whole("a/vae/face_bgr_u8")
    face = torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1])).permute(2, 0, 1).float() / 255
    faces = torch.stack([face, face.flip(2), face * 0.7])
    prompts = CASES.tensor("a/unet/audio").expand(ROWS, -1, -1)
    return networks.encode(faces), prompts.to(networks.device, networks.dtype).contiguous()


@pytest.fixture(scope="module")
def reference() -> Iterator[Tensor]:
    """Return the pictures in float32, one by one, [ROWS, 3, 256, 256] on the CPU."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    networks = filled(torch.float32)
    with torch.inference_mode():
        latents, prompts = inputs(networks)
        rows = [networks.paint(latents[row : row + 1], prompts[row : row + 1]) for row in range(ROWS)]
    yield torch.cat(rows).cpu()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(scope="module")
def half(reference: Tensor) -> Networks:
    """Return the networks in half precision, once the float32 ones are gone."""
    assert len(reference) == ROWS
    return filled(torch.float16)


@pytest.mark.parametrize("mode", ["eager", "compile", "graphs"])
def test_half_precision_paints_the_same(mode: str, half: Networks, reference: Tensor) -> None:
    step = BucketedStep(half.paint, buckets=(4,), device=half.device, mode=mode)
    with torch.inference_mode():
        given = inputs(half)
    pictures = step(*given).float().cpu()
    likeness = likeness_db(pictures, reference)
    assert likeness.min() >= LIKENESS_DB, f"{mode}: expected {LIKENESS_DB} dB, found {likeness.tolist()}"
