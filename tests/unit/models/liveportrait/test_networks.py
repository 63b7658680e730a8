"""Weights of LivePortrait: which files are taken, what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from serve_app.errors import ModelNotLoaded
from serve_app.models.liveportrait.appearance import AppearanceExtractor
from serve_app.models.liveportrait.generator import Generator
from serve_app.models.liveportrait.layers import SpectralConv2d
from serve_app.models.liveportrait.model import LivePortrait
from serve_app.models.liveportrait.networks import FILES, NESTED, build, fill_stitcher, load, place
from serve_app.models.liveportrait.sizes import OFFICIAL, SMALL
from serve_app.models.liveportrait.stitching import Stitcher
from serve_app.models.neural.checkpoint import invent

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def write(folder: Path, name: str, tensors: object, ending: str = ".pth") -> Path:
    file = folder / f"{FILES[name]}{ending}"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, file)
    return file


def appearance() -> dict[str, torch.Tensor]:
    return AppearanceExtractor(OFFICIAL).state_dict()


def test_missing_files_are_named_together(tmp_path: Path) -> None:
    write(tmp_path, "motion", {})
    with pytest.raises(ModelNotLoaded) as caught:
        LivePortrait(fps=25, device="cpu", weights=str(tmp_path))
    said = str(caught.value)
    for name, stem in FILES.items():
        assert (f"{stem}.pth" in said) == (name != "motion")
    assert "avatar models pull liveportrait" in said
    assert str(tmp_path) in said


def test_pulled_weights_are_looked_for_where_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATAR_MODELS", str(tmp_path))
    with pytest.raises(ModelNotLoaded, match=str(tmp_path / "liveportrait")):
        LivePortrait(fps=25, device="cpu")


def test_damaged_file_is_named(tmp_path: Path) -> None:
    for name in FILES:
        write(tmp_path / "liveportrait", name, {})
    file = write(tmp_path / "liveportrait", "appearance", appearance())
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not weights"):
        file.write_bytes(content)
        with pytest.raises(ModelNotLoaded, match=r"appearance_feature_extractor\.pth"):
            load(str(tmp_path), CPU)


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    for name in FILES:
        write(tmp_path, name, {})
    tensors = appearance()
    tensors["first.conv.weight"] = torch.zeros(32, 3, 3, 3)
    tensors["third.conv.weight"] = tensors.pop("second.weight")
    write(tmp_path, "appearance", tensors)
    with pytest.raises(ModelNotLoaded) as caught:
        load(str(tmp_path), CPU)
    said = str(caught.value)
    for part in ("second.weight", "third.conv.weight", "first.conv.weight", "[64, 3, 3, 3]", "[32, 3, 3, 3]"):
        assert part in said


@pytest.mark.parametrize("kind", ["nested", "flat", "prefixed"])
def test_three_networks_of_one_file(tmp_path: Path, kind: str) -> None:
    """Nested as published, or flat as safetensors are; the other networks' files are not reached."""
    small = Stitcher()
    invent(small, 0)
    file = tmp_path / (f"{FILES['stitcher']}.safetensors" if kind == "flat" else f"{FILES['stitcher']}.pth")
    file.parent.mkdir(parents=True)
    prefix = "module." if kind == "prefixed" else ""
    parts = {
        key: {f"{prefix}{name}": value for name, value in getattr(small, part).state_dict().items()}
        for part, key in NESTED.items()
    }
    if kind == "flat":
        save_file(
            {f"{key}.{name}": value for key, part in parts.items() for name, value in part.items()}, file
        )
    else:
        torch.save(parts, file)
    other = Stitcher()
    fill_stitcher(other, file)
    for name, value in small.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_file_without_the_three_networks_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "stitcher", {"something": torch.zeros(1)})
    with pytest.raises(ModelNotLoaded, match=r"retarget_shoulder.*something"):
        fill_stitcher(Stitcher(), file)


def test_folding_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    networks = build(SMALL)
    for network in (networks.warping, networks.generator, networks.appearance):
        invent(network, 1)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape))
        network.eval()
    picture = torch.rand(2, 3, SMALL.image, SMALL.image)
    points = [torch.rand(2, 21, 3) - 0.5 for _ in range(2)]

    def outputs() -> list[torch.Tensor]:
        with torch.inference_mode():
            feature = networks.appearance(picture)
            compressed = networks.warping.compressed(feature)
            return [feature, networks.picture(feature, compressed, *points)]

    before = outputs()
    place(networks, CPU)
    for one, other in zip(before, outputs(), strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.std()) + 1e-5)
    assert not any(isinstance(part, SpectralConv2d) for part in networks.generator.modules())
    assert not any(isinstance(part, torch.nn.BatchNorm3d) for part in networks.warping.modules())
    folded = outputs()[1]
    place(networks, CPU)
    assert torch.equal(folded, outputs()[1])


def test_spectral_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    reference = torch.nn.utils.spectral_norm(torch.nn.Conv2d(5, 7, 3, padding=1)).eval()
    conv = SpectralConv2d(5, 7, 3)
    conv.load_state_dict(reference.state_dict())
    x = torch.randn(2, 5, 9, 8)
    assert torch.allclose(conv(x), reference(x), atol=1e-6)
    assert torch.allclose(conv.folded()(x), reference(x), atol=1e-6)


def test_invented_networks_are_the_same_in_every_process() -> None:
    one, other = (load("random", CPU) for _ in range(2))
    for part in ("generator", "warping"):
        for (name, value), again in zip(
            getattr(one, part).state_dict().items(), getattr(other, part).state_dict().values(), strict=True
        ):
            assert torch.equal(value, again), name
    assert isinstance(one.generator, Generator)
    assert one.sizes == SMALL
