"""MuseTalk's networks, filled from files in the official layout, against the reference's numbers."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serve_app.models.musetalk.architecture import OFFICIAL
from serve_app.models.musetalk.networks import SCALING, Networks, build, load, vae_inputs
from serve_app.models.neural.checkpoint import fill
from tests.golden import recipe
from tests.golden.half import LIKENESS_DB, HalfPrecision, likeness_db

pytestmark = [pytest.mark.golden, pytest.mark.timeout(900)]

CASES = recipe.cases("musetalk")
CONFIGS = {
    "musetalkV15/musetalk.json": {**OFFICIAL.unet, "_class_name": "UNet2DConditionModel", "_note": 1},
    "sd-vae/config.json": OFFICIAL.vae,
    "whisper/config.json": OFFICIAL.whisper,
}


@dataclass(frozen=True)
class Filled:
    case: str
    networks: Networks

    def unet(self, latents: Tensor, audio: Tensor) -> Tensor:
        found: Tensor = self.networks.unet(
            latents, torch.zeros(1, dtype=torch.int64), encoder_hidden_states=audio, return_dict=False
        )[0]
        return found

    def face(self) -> Tensor:
        bgr = CASES.whole(f"{self.case}/vae/face_bgr_u8")
        return torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1])).permute(2, 0, 1)[None].float() / 255

    def check(self, candidate: Tensor, name: str) -> None:
        CASES.check(candidate, f"{self.case}/{name}")


@pytest.fixture(scope="module", params=["a", "b"])
def filled(request: pytest.FixtureRequest) -> Iterator[Filled]:
    """Return the networks at full size; case "a" comes from files, 3.7 GB that are gone once mapped."""
    torch.set_num_threads(1)
    networks = from_files("a") if request.param == "a" else from_recipe(request.param)
    with torch.inference_mode():
        yield Filled(request.param, networks)


def from_files(case: str) -> Networks:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe.write_checkpoints("musetalk", case, folder)
        for path, config in CONFIGS.items():
            (folder / path).write_text(json.dumps(dict(config)))
        return load(str(folder), torch.device("cpu"), torch.float32)


def from_recipe(case: str) -> Networks:
    networks = build(OFFICIAL, "meta")
    for module, name in ((networks.unet, "unet"), (networks.vae, "vae")):
        fill(module, recipe.state_dict("musetalk", case, name), file=Path("recipe"))
    return networks


@contextlib.contextmanager
def watched(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect what modules return, by name, as it stands when they do."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

    hooks = [
        part.register_forward_hook(lambda _part, _given, output, name=name: keep(name, output))
        for name, part in parts.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_unet(filled: Filled) -> None:
    unet = filled.networks.unet
    parts = {
        "time_embedding": unet.time_embedding,
        "conv_in": unet.conv_in,
        "down0": unet.down_blocks[0],
        "down2": unet.down_blocks[2],
        "mid": unet.mid_block,
        "up1": unet.up_blocks[1],
        "up3": unet.up_blocks[3],
    }
    latents = recipe.make_input(filled.case, "unet.latent", (1, 8, 32, 32))
    with watched(parts) as seen:
        out = filled.unet(latents, CASES.tensor(f"{filled.case}/unet/audio"))
    assert seen.keys() == parts.keys()
    filled.check(out, "unet/alone_out")
    for name, value in seen.items():
        filled.check(value, f"unet/alone_{name}")


def test_unet_of_other_inputs(filled: Filled) -> None:
    latents = recipe.make_input(filled.case, "unet.latent", (1, 8, 32, 32))
    noise = recipe.make_input(filled.case, "unet.audio", (1, 50, 384))
    filled.check(filled.unet(latents, noise), "unet/alone_out_random_audio")
    audio = CASES.tensor(f"{filled.case}/unet/audio")
    filled.check(filled.unet(torch.zeros_like(latents), audio), "unet/zero_out")


def test_vae(filled: Filled) -> None:
    vae = filled.networks.vae
    face = filled.face()
    for name, picture in zip(("reference", "masked"), vae_inputs(face), strict=True):
        filled.check(picture, f"vae/{name}_input")
        found = vae.encode(picture).latent_dist
        filled.check(found.mean, f"vae/{name}_mean")
        filled.check(found.logvar, f"vae/{name}_logvar")
    latents = recipe.make_input(filled.case, "vae.latent", (1, 4, 32, 32))
    filled.check(vae.decode(latents / SCALING).sample, "vae/decode_alone")
    filled.check(vae.decode(torch.zeros_like(latents)).sample, "vae/decode_zero")


def test_face_and_prompt_to_picture(filled: Filled) -> None:
    networks = filled.networks
    audio = CASES.tensor(f"{filled.case}/unet/audio")
    latents = networks.encode(filled.face())
    filled.check(latents, "unet/latent")
    with watched({"pred_latent": networks.unet, "decoded": networks.vae.decoder}) as seen:
        picture = networks.paint(latents, audio)
    for name, value in seen.items():
        filled.check(value, f"chain/{name}")
    assert len(seen) == 2
    rgb = (picture * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    CASES.check_pixels(np.ascontiguousarray(rgb[..., ::-1]), f"{filled.case}/chain/frame_bgr_u8")


def test_half_precision_paints_the_same(filled: Filled) -> None:
    networks = filled.networks
    audio = CASES.tensor(f"{filled.case}/unet/audio")
    latents = networks.encode(filled.face())
    exact = networks.paint(latents, audio)
    half = copy.deepcopy(networks)
    for network in (half.unet, half.vae):
        network.half()
    with HalfPrecision() as precision:
        picture = half.paint(latents.half(), audio.half())
    assert picture.dtype == torch.float16
    assert precision.rounded > 500
    assert likeness_db(picture, exact).min() >= LIKENESS_DB
