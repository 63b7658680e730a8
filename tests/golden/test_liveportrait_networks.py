"""LivePortrait's networks give the reference's numbers from the reference's weights, module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from serve_app.models.liveportrait import keypoints
from serve_app.models.liveportrait.appearance import AppearanceExtractor
from serve_app.models.liveportrait.generator import Generator
from serve_app.models.liveportrait.motion import MotionExtractor
from serve_app.models.liveportrait.sizes import OFFICIAL
from serve_app.models.liveportrait.stitching import Stitcher
from serve_app.models.liveportrait.warping import Warping
from tests.golden import recipe
from tests.golden.half import LIKENESS_DB, HalfPrecision, likeness_db

pytestmark = [pytest.mark.golden, pytest.mark.usefixtures("one_thread")]

CASES = recipe.cases("liveportrait")
FEATURE = (1, 32, 16, 64, 64)


@contextmanager
def outputs_of(modules: dict[str, nn.Module], check: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hand what modules return to `check`, under the names that cases give them."""

    def watch(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: check(name, output)

    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pictures(case: str) -> Tensor:
    """Return the source and two driving pictures, [3, 3, 256, 256]."""
    names = ("source", "driving0", "driving1")
    return torch.stack([CASES.tensor(f"{case}/input/{name}_u8") for name in names])


def stitcher(case: str) -> Stitcher:
    networks = Stitcher()
    for name in ("stitching", "lip", "eye"):
        recipe.fill(networks.get_submodule(name), case, name)
    return networks


def warping(case: str) -> Warping:
    return recipe.fill(Warping(OFFICIAL), case, "warping_module")


def generator(case: str) -> Generator:
    return recipe.fill(Generator(OFFICIAL), case, "spade_generator")


@pytest.mark.parametrize("case", ["a", "b"])
def test_appearance(case: str) -> None:
    network = recipe.fill(AppearanceExtractor(OFFICIAL), case, "appearance_feature_extractor")
    source = pictures(case)[:1]
    seen: list[str] = []

    def check(name: str, output: Tensor) -> None:
        seen.append(name)
        CASES.check(output, f"{case}/appearance/{name}")

    with outputs_of({"second": network.second, "feature_3d": network}, check):
        network(source)
        network.fold()
        network(source)
    assert seen == ["second", "feature_3d"] * 2


@pytest.mark.parametrize("case", ["a", "b"])
def test_motion(case: str) -> None:
    network = recipe.fill(MotionExtractor(OFFICIAL), case, "motion_extractor")
    heads = network(pictures(case))
    for name, output in heads.items():
        CASES.check(output, f"{case}/motion/{name}")
    motion = keypoints.read(heads)
    for name in ("pitch", "yaw", "roll"):
        CASES.check(getattr(motion, name), f"{case}/motion/{name}_deg")
    CASES.check(motion.rotation, f"{case}/transform/rotation")
    CASES.check(keypoints.transform(motion), f"{case}/transform/keypoints")
    for name, output in network(torch.zeros(1, 3, 256, 256)).items():
        CASES.check(output, f"{case}/motion_black/{name}")


@pytest.mark.parametrize("case", ["a", "b"])
def test_stages_of_the_motion_extractor(case: str) -> None:
    network = recipe.fill(MotionExtractor(OFFICIAL), case, "motion_extractor")
    stages = {f"stage{number}": stage for number, stage in enumerate(network.detector.stages)}
    seen: list[str] = []

    def check(name: str, output: Tensor) -> None:
        seen.append(name)
        CASES.check(output, f"{case}/motion/{name}")

    with outputs_of({"stem": network.detector.downsample_layers[0], **stages}, check):
        network(pictures(case)[:1])
    assert seen == ["stem", *stages]


@pytest.mark.parametrize("case", ["a", "b"])
def test_retargeting(case: str) -> None:
    networks = stitcher(case)
    for name in ("stitching", "lip", "eye"):
        given = CASES.tensor(f"{case}/retarget/{name}_in")
        CASES.check(networks.get_submodule(name)(given), f"{case}/retarget/{name}_out")


@pytest.mark.parametrize("case", ["a", "b"])
def test_camera(case: str) -> None:
    pitch, yaw, roll = CASES.tensor(f"{case}/camera/euler_deg").unbind(dim=1)
    CASES.check(keypoints.rotation(pitch, yaw, roll), f"{case}/camera/rotation")


@pytest.mark.parametrize("case", ["a", "b"])
def test_relative_motion(case: str) -> None:
    def motion(name: str) -> keypoints.Motion:
        values = {
            part: CASES.tensor(f"{case}/relative/{name}.{part}")
            for part in ("kp", "exp", "pitch", "yaw", "roll", "scale", "t")
        }
        for angle in ("pitch", "yaw", "roll"):
            values[angle] = values[angle][:, 0]
        return keypoints.Motion(**values)

    source = motion("source")
    x_source = keypoints.transform(source)
    x_driving = keypoints.relative(source, motion("driving0"), motion("driving1"))
    CASES.check(x_source, f"{case}/relative/x_source")
    CASES.check(x_driving, f"{case}/relative/x_relative")
    CASES.check(stitcher(case).stitch(x_source, x_driving), f"{case}/relative/x_stitched")


def check_warping(case: str, network: Warping) -> None:
    """Check every stored stage of the warping module."""
    feature = recipe.make_input(case, "warping_module.feature_3d", FEATURE, 0.7)
    points = [CASES.tensor(f"{case}/warping/{name}") for name in ("kp_source", "kp_driving")]
    motion = network.dense_motion_network
    seen: list[str] = []

    def check(name: str, output: Tensor) -> None:
        seen.append(name)
        name = f"{case}/warping/{name}"
        # Channels that fill up to a multiple of 8 stand at the end.
        CASES.check(output[:, : CASES.index[name]["shape"][1]], name)

    def check_pair(_module: nn.Module, _inputs: object, pair: tuple[Tensor, Tensor]) -> None:
        check("deformation", pair[0])
        check("occlusion_map", pair[1])

    into = motion.hourglass.register_forward_pre_hook(lambda _module, given: check("hourglass_in", given[0]))
    pair = motion.register_forward_hook(check_pair)
    inner = {"hourglass_out": motion.hourglass, "mask_logits": motion.mask, "out": network}
    try:
        with outputs_of(inner, check):
            network(feature, network.compressed(feature), *points)
    finally:
        into.remove()
        pair.remove()
    assert seen == [
        "hourglass_in", "hourglass_out", "mask_logits", "deformation", "occlusion_map", "out",
    ]  # fmt: skip


def test_warping_as_published() -> None:
    check_warping("a", warping("a"))


def test_folded_warping() -> None:
    network = warping("b")
    network.fold()
    network.dense_motion_network.refine()
    check_warping("b", network)


def check_generator(case: str, network: Generator) -> None:
    """Check every stored stage of the generator."""
    warped = recipe.make_input(case, "spade_generator.feature", (1, 256, 64, 64), 0.5)
    names = ("fc", "G_middle_0", "G_middle_5", "up_0", "up_1")
    seen: list[str] = []

    def check(name: str, output: Tensor) -> None:
        seen.append(name)
        CASES.check(output, f"{case}/generator/{name}")

    with outputs_of({**{name: network.get_submodule(name) for name in names}, "image": network}, check):
        network(warped)
    assert seen == [*names, "image"]


def test_generator_as_published() -> None:
    check_generator("a", generator("a"))


def test_folded_generator() -> None:
    network = generator("b")
    network.fold()
    check_generator("b", network)


def test_generator_on_weak_features() -> None:
    network = generator("a")
    network.fold()
    weak = recipe.make_input("a", "spade_generator.feature", (1, 256, 64, 64), 0.5) * 0.02
    CASES.check(network(weak), "a/generator/image_weak")


def test_half_precision_draws_the_same() -> None:
    warp, draw = warping("b"), generator("b")
    warp.fold()
    warp.dense_motion_network.refine()
    draw.fold()
    feature = recipe.make_input("b", "warping_module.feature_3d", FEATURE, 0.7)
    points = [CASES.tensor(f"b/warping/{name}") for name in ("kp_source", "kp_driving")]
    exact = draw(warp(feature, warp.compressed(feature), *points))
    warp.half()
    draw.half()
    with HalfPrecision() as precision:
        picture = draw(warp(feature, warp.compressed(feature), *points))
    assert picture.dtype == torch.float16
    assert precision.rounded > 100
    assert likeness_db(picture, exact).min() >= LIKENESS_DB
