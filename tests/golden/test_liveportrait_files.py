"""LivePortrait from files in the published layout: pictures in, the reference's picture out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from serve_app.models.liveportrait import keypoints
from serve_app.models.liveportrait.networks import load
from serve_app.models.liveportrait.sizes import OFFICIAL
from serve_app.models.liveportrait.stitching import shut
from tests.golden import recipe

pytestmark = pytest.mark.golden

CASES = recipe.cases("liveportrait")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def test_published_files_give_the_reference_picture(tmp_path: Path) -> None:
    recipe.write_checkpoints("liveportrait", "a", tmp_path)
    networks = load(str(tmp_path), torch.device("cpu"))
    assert networks.sizes == OFFICIAL
    pictures = torch.stack(
        [CASES.tensor(f"a/input/{name}_u8") for name in ("source", "driving0", "driving1")]
    )
    motion = keypoints.read(networks.motion(pictures))
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
    x_final = x_stitched + lips
    CASES.check(x_final, "a/chain/x_final")

    feature = networks.appearance(pictures[:1])
    compressed = networks.warping.compressed(feature)
    seen: list[str] = []

    def check(_module: nn.Module, _inputs: object, pair: tuple[Tensor, Tensor]) -> None:
        for name, output in zip(("deformation", "occlusion_map"), pair, strict=True):
            CASES.check(output, f"a/chain/{name}")
            seen.append(name)

    def check_warped(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        CASES.check(output, "a/chain/warped")
        seen.append("warped")

    networks.warping.dense_motion_network.register_forward_hook(check)
    networks.warping.register_forward_hook(check_warped)
    CASES.check(networks.picture(feature, compressed, x_source, x_final), "a/chain/image")
    assert seen == ["deformation", "occlusion_map", "warped"]
