from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from serve_app.errors import ModelNotLoaded
from serve_app.models.neural.checkpoint import fill, invent, read_tensors

pytestmark = pytest.mark.unit


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: torch.rand_like(value.float()) for key, value in network().state_dict().items()}


@pytest.mark.parametrize("name", ["new.pth", "old.pt", "plain.bin", "safe.safetensors"])
def test_every_published_format_is_read(tmp_path: Path, name: str) -> None:
    file, tensors = tmp_path / name, weights()
    if name.startswith("safe"):
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=not name.startswith("old"))
    found = read_tensors(file)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_mappings_within_mappings_are_kept(tmp_path: Path) -> None:
    torch.save({"generator": weights(), "epoch": 3}, tmp_path / "all.pth")
    found = read_tensors(tmp_path / "all.pth")
    assert found["epoch"] == 3
    assert set(found["generator"]) == set(weights())


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kept", [0, 9, 0.5, 0.98])
def test_file_that_is_cut_off_is_named(tmp_path: Path, name: str, kept: float) -> None:
    file = tmp_path / name
    if name.endswith("pth"):
        torch.save(weights(), file)
    else:
        save_file(weights(), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    with pytest.raises(ModelNotLoaded, match=r"w\.(pth|safetensors).*cut off"):
        read_tensors(file)


def test_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelNotLoaded, match="cannot be read"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_file_that_is_missing_or_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded, match="no such file"):
        read_tensors(tmp_path / "none.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ModelNotLoaded, match=r"expected a mapping.*found a list"):
        read_tensors(tmp_path / "list.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_prefix_that_all_keys_share_is_removed(prefix: str) -> None:
    module, tensors = network(), weights()
    fill(module, {prefix + key: value for key, value in tensors.items()}, file=Path("w"))
    assert torch.equal(module.state_dict()["0.weight"], tensors["0.weight"])


def test_prefix_that_the_network_has_stays() -> None:
    module = nn.ModuleDict({"model": nn.Linear(2, 2)})
    tensors = {"model.weight": torch.ones(2, 2), "model.bias": torch.zeros(2)}
    fill(module, tensors, file=Path("w"))
    assert torch.equal(module.state_dict()["model.weight"], tensors["model.weight"])


def test_dtype_is_the_networks_and_a_meta_network_becomes_real() -> None:
    tensors = {key: value.half() for key, value in weights().items()}
    module = network()
    fill(module, tensors, file=Path("w"))
    assert module.state_dict()["0.weight"].dtype == torch.float32
    with torch.device("meta"):
        ghost = network()
    fill(ghost, tensors, file=Path("w"))
    assert ghost(torch.zeros(1, 3, 3, 6).float()).shape == (1, 4, 1, 2)


def test_counters_of_training_steps_are_not_read() -> None:
    tensors = weights()
    del tensors["1.num_batches_tracked"]
    fill(network(), tensors, file=Path("w"))
    fill(
        nn.Conv2d(3, 4, 3),
        {"weight": tensors["0.weight"], "bias": tensors["0.bias"], "x.num_batches_tracked": 1},
        file=Path("w"),
    )


def test_keys_are_renamed_and_ignored() -> None:
    tensors = {f"old_{key}": value for key, value in weights().items()} | {"optimizer": torch.ones(1)}
    module = network()
    fill(
        module,
        tensors,
        file=Path("w"),
        rename=lambda key: key.removeprefix("old_"),
        ignore=lambda key: key == "optimizer",
    )
    assert torch.equal(module.state_dict()["2.bias"], tensors["old_2.bias"])
    with pytest.raises(ModelNotLoaded, match="found two"):
        fill(network(), tensors, file=Path("w"), rename=lambda _: "0.weight")


def test_every_kind_of_fault_is_named_with_at_most_eight_keys() -> None:
    tensors: dict[str, object] = dict(weights())
    del tensors["0.bias"]
    tensors["2.weight"] = torch.ones(2, 5)
    tensors["2.bias"] = "text"
    tensors |= {f"extra.{number}": torch.ones(1) for number in range(10)}
    with pytest.raises(ModelNotLoaded) as caught:
        fill(network(), tensors, file=Path("some.pth"))
    text = str(caught.value)
    assert "some.pth" in text
    assert "1 missing: 0.bias" in text
    assert "10 unexpected: extra.0" in text
    assert "extra.7, …" in text
    assert "extra.8" not in text
    assert "2.weight (expected [2, 4], found [2, 5])" in text
    assert "2.bias (expected [2], found str)" in text


def test_refused_weights_leave_the_network_as_it_was() -> None:
    module = network()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ModelNotLoaded):
        fill(module, {"0.weight": torch.ones(4, 3, 3, 3)}, file=Path("w"))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_invented_weights_repeat_and_keep_deep_networks_finite() -> None:
    layers = [nn.utils.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)) for _ in range(40)]
    deep = nn.Sequential(*layers).eval()
    invent(deep, 3)
    with torch.inference_mode():
        out = deep(torch.randn(1, 8, 16, 16))
        assert out.isfinite().all()
        assert 1e-6 < out.std() < 1e3
    first = {key: value.clone() for key, value in deep.state_dict().items()}
    invent(deep, 3)
    assert all(torch.equal(first[key], value) for key, value in deep.state_dict().items())
    invent(deep, 4)
    assert not torch.equal(first["0.bias"], deep.state_dict()["0.bias"])
