"""Official files: found where scripts put them, read whatever the age of their names, refused when wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from serve_app.errors import ModelNotLoaded
from serve_app.models.musetalk.architecture import OFFICIAL, SMALL, check
from serve_app.models.musetalk.networks import Networks, build, load, locate, read
from serve_app.models.neural.checkpoint import invent

pytestmark = pytest.mark.unit

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(key: str) -> str:
    for new, old in OLD_NAMES.items():
        key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.") if "mid_block" in key else key
    return key


ATTENTIVE = {**SMALL.vae, "mid_block_add_attention": True}
"""With the attention whose layers were renamed."""


@pytest.fixture(scope="module")
def architecture() -> Any:
    return type(SMALL)(SMALL.unet, ATTENTIVE, SMALL.whisper)


@pytest.fixture(scope="module")
def networks(architecture: Any) -> Networks:
    torch.set_num_threads(1)
    made = build(architecture)
    for seed, module in enumerate((made.unet, made.vae, made.whisper), 7):
        invent(module, seed)
    return made


def write(networks: Networks, folder: Path, *, safetensors: bool) -> None:
    """Write networks as their publishers do; Whisper's file holds a decoder, too."""
    for name in ("musetalkV15", "sd-vae", "whisper"):
        (folder / name).mkdir(parents=True)
    notes = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0"}
    (folder / "musetalkV15/musetalk.json").write_text(json.dumps(dict(networks.architecture.unet) | notes))
    (folder / "sd-vae/config.json").write_text(json.dumps(dict(networks.architecture.vae)))
    (folder / "whisper/config.json").write_text(json.dumps(dict(networks.architecture.whisper)))
    whisper = {f"model.encoder.{key}": value for key, value in networks.whisper.state_dict().items()}
    whisper |= {"model.decoder.embed_tokens.weight": torch.zeros(5, 4), "proj_out.weight": torch.zeros(5, 4)}
    vae = {old_name(key): value for key, value in networks.vae.state_dict().items()}
    torch.save(networks.unet.state_dict(), folder / "musetalkV15/unet.pth")
    if safetensors:
        save_file(vae, folder / "sd-vae/diffusion_pytorch_model.safetensors")
        save_file(whisper, folder / "whisper/model.safetensors")
    else:
        torch.save(vae, folder / "sd-vae/diffusion_pytorch_model.bin")
        torch.save(whisper, folder / "whisper/pytorch_model.bin")


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("place", [".", "models"])
@pytest.mark.parametrize("safetensors", [True, False])
def test_official_layout_is_read(
    networks: Networks, architecture: Any, tmp_path: Path, place: str, safetensors: bool
) -> None:
    write(networks, tmp_path / place, safetensors=safetensors)
    assert any("proj_attn" in old_name(key) for key in networks.vae.state_dict())
    found = read(locate(tmp_path), architecture)
    assert same(found.unet, networks.unet)
    assert same(found.vae, networks.vae)
    assert same(found.whisper, networks.whisper)


def test_all_that_is_missing_is_named(networks: Networks, tmp_path: Path) -> None:
    write(networks, tmp_path, safetensors=True)
    (tmp_path / "musetalkV15/unet.pth").unlink()
    (tmp_path / "whisper/config.json").unlink()
    with pytest.raises(ModelNotLoaded) as caught:
        load(str(tmp_path), torch.device("cpu"), torch.float32)
    text = str(caught.value)
    assert "musetalkV15/unet.pth" in text
    assert "whisper/config.json" in text
    assert "sd-vae" not in text
    assert "avatar models pull musetalk" in text


def test_no_folder_names_the_command() -> None:
    with pytest.raises(ModelNotLoaded, match="avatar models pull musetalk"):
        load(None, torch.device("cpu"), torch.float32)


def test_version_1_0_is_refused(networks: Networks, tmp_path: Path) -> None:
    write(networks, tmp_path, safetensors=True)
    with pytest.raises(ModelNotLoaded, match=r"cross_attention_dim: expected 384, found 16"):
        load(str(tmp_path), torch.device("cpu"), torch.float32)


def test_another_network_is_refused(networks: Networks, architecture: Any, tmp_path: Path) -> None:
    write(networks, tmp_path, safetensors=True)
    tensors = networks.unet.state_dict()
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :4]
    tensors["extra.weight"] = tensors.pop("conv_out.bias")
    torch.save(tensors, tmp_path / "musetalkV15/unet.pth")
    with pytest.raises(ModelNotLoaded) as caught:
        read(locate(tmp_path), architecture)
    for part in ("unet.pth", "conv_in.weight", "extra.weight", "conv_out.bias"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_configuration_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelNotLoaded, match=r"config\.json"):
        check(tmp_path / "config.json", OFFICIAL.vae)


def test_invented_networks_paint_the_same_every_time() -> None:
    one, other = (load("random", torch.device("cpu"), torch.float32) for _ in range(2))
    torch.manual_seed(0)
    faces = torch.rand(2, 3, 256, 256)
    prompts = torch.randn(2, 30, SMALL.whisper["d_model"])
    latents = one.encode(faces)
    assert latents.shape == (2, 8, 32, 32)
    painted = one.paint(latents, prompts)
    assert painted.shape == (2, 3, 256, 256)
    assert painted.isfinite().all()
    torch.testing.assert_close(painted, other.paint(other.encode(faces), prompts))
    assert (painted - one.paint(latents, -prompts)).abs().max() > 1e-4


def test_masked_latents_do_not_see_the_lower_half() -> None:
    networks = load("random", torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    faces = torch.rand(1, 3, 256, 256)
    changed = faces.clone()
    changed[:, :, 128:] = 0.5
    one, other = networks.encode(faces), networks.encode(changed)
    torch.testing.assert_close(one[:, :4], other[:, :4])
    assert (one[:, 4:] - other[:, 4:]).abs().max() > 1e-3


def test_painting_is_one_graph() -> None:
    networks = load("random", torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    latents, prompts = torch.randn(2, 8, 32, 32), torch.randn(2, 30, SMALL.whisper["d_model"])
    captured = torch.compile(networks.paint, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        torch.testing.assert_close(captured(latents, prompts), networks.paint(latents, prompts))
