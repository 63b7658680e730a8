"""LivePortrait from files in the published layout: pictures in, the reference's picture out."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from serve_app.models.liveportrait import keypoints
from serve_app.models.liveportrait.networks import Networks, load
from serve_app.models.liveportrait.stitching import shut
from tests.golden import recipe

pytestmark = [pytest.mark.golden, pytest.mark.usefixtures("one_thread")]

CASES = recipe.cases("liveportrait")
LIKENESS_DB = 45.0


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """Return the networks of case "a", loaded as a server loads them."""
    folder = tmp_path_factory.mktemp("weights")
    recipe.write_checkpoints("liveportrait", "a", folder)
    loaded = load(str(folder), torch.device("cpu"))
    # The files stay mapped; the space is not needed any longer.
    shutil.rmtree(folder)
    return loaded


def pictures() -> Tensor:
    """Return the source and two driving pictures, [3, 3, 256, 256]."""
    return torch.stack([CASES.tensor(f"a/input/{name}_u8") for name in ("source", "driving0", "driving1")])


def test_pictures_move_keypoints(networks: Networks) -> None:
    motion = keypoints.read(networks.motion(pictures()))
    source, first, current = (keypoints.row(motion, number) for number in range(3))
    x_source = keypoints.transform(source)
    CASES.check(x_source, "a/chain/x_source")
    x_relative = keypoints.relative(source, first, current)
    CASES.check(x_relative, "a/chain/x_relative")
    ratios = CASES.tensor("a/chain/eye_ratio")
    CASES.check(networks.stitcher.eyes(x_source, ratios[:, :2], ratios[:, 2:]), "a/chain/eye_delta")
    lips = shut(networks.stitcher, x_source, CASES.tensor("a/chain/lip_ratio")[:, :1])
    CASES.check(lips, "a/chain/lip_delta")
    x_stitched = networks.stitcher.stitch(x_source, x_relative)
    CASES.check(x_stitched, "a/chain/x_stitched")
    CASES.check(x_stitched + lips, "a/chain/x_final")


def drawn(networks: Networks) -> Tensor:
    """Return the picture of the source moved to the driving keypoints."""
    feature = networks.appearance(pictures()[:1])
    points = [CASES.tensor(f"a/chain/{name}") for name in ("x_source", "x_final")]
    return networks.picture(feature, networks.warping.compressed(feature), *points)


def test_published_files_give_the_reference_picture(networks: Networks) -> None:
    seen: list[str] = []

    def check(_module: nn.Module, _inputs: object, pair: tuple[Tensor, Tensor]) -> None:
        for name, output in zip(("deformation", "occlusion_map"), pair, strict=True):
            CASES.check(output, f"a/chain/{name}")
            seen.append(name)

    def check_warped(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        CASES.check(output, "a/chain/warped")
        seen.append("warped")

    hooks = [
        networks.warping.dense_motion_network.register_forward_hook(check),
        networks.warping.register_forward_hook(check_warped),
    ]
    try:
        CASES.check(drawn(networks), "a/chain/image")
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == ["deformation", "occlusion_map", "warped"]


def test_half_precision_keeps_the_picture(networks: Networks) -> None:
    """Weights of warping and generator, and all that flows between layers, get half-precision values.

    A CPU has no fast half-precision convolutions; a GPU, too, takes sums in float32.
    """

    def rounded(value: Tensor) -> Tensor:
        return value.half().float()

    for network in (networks.warping, networks.generator):
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                part.weight.copy_(rounded(part.weight))
                part.register_forward_pre_hook(lambda _module, given: (rounded(given[0]),))
                part.register_forward_hook(lambda _module, _given, output: rounded(output))
    found, name = drawn(networks), "a/chain/image"
    stored = torch.from_numpy(CASES.tensors[name])
    squares = (found.reshape(-1)[:: CASES.index[name]["stride"]] - stored).square()
    assert float(-10.0 * torch.log10(squares.mean())) >= LIKENESS_DB
