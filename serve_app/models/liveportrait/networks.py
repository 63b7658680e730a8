"""The five networks together: from official files or invented, folded, on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve_app.errors import ModelNotLoaded
from serve_app.models.liveportrait.appearance import AppearanceExtractor
from serve_app.models.liveportrait.generator import Generator
from serve_app.models.liveportrait.motion import MotionExtractor
from serve_app.models.liveportrait.sizes import OFFICIAL, SMALL, Sizes
from serve_app.models.liveportrait.stitching import Stitcher
from serve_app.models.liveportrait.warping import Warping
from serve_app.models.neural.checkpoint import RANDOM, fill, invent, read_tensors
from serve_app.weights.cache import cache_folder, pull_command

NAME = "liveportrait"
FILES = {
    "appearance": "base_models/appearance_feature_extractor",
    "motion": "base_models/motion_extractor",
    "warping": "base_models/warping_module",
    "generator": "base_models/spade_generator",
    "stitcher": "retargeting_models/stitching_retargeting_module",
}
"""Where the networks lie in the published folder, without the ending."""

ENDINGS = (".safetensors", ".pth")

NESTED = {"stitching": "retarget_shoulder", "lip": "retarget_mouth", "eye": "retarget_eye"}
"""What the file of the three small networks calls them."""

INVENTED = {
    "motion.detector.fc_kp.weight": 0.3,
    "motion.detector.fc_exp.weight": 0.05,
    "motion.detector.fc_t.weight": 0.1,
    "motion.detector.fc_scale.weight": 0.1,
    "warping.dense_motion_network.mask.weight": 6.0,
    "warping.dense_motion_network.occlusion.weight": 4.0,
    "stitcher.stitching.mlp.6.weight": 0.1,
    "stitcher.lip.mlp.6.weight": 20.0,
    "stitcher.eye.mlp.10.weight": 10.0,
}
"""What invented weights are multiplied by: keypoints lie in the picture, and small networks show speech."""

SCALE = 1.3
"""About the size of a head, of invented weights."""


@dataclass(frozen=True)
class Networks:
    """The networks on one device.

    The appearance and motion extractors and the small networks compute in float32: they run once for an
    avatar, or are small. Warping and generator compute in half precision on a GPU.
    """

    sizes: Sizes
    appearance: AppearanceExtractor
    motion: MotionExtractor
    warping: Warping
    generator: Generator
    stitcher: Stitcher

    def picture(self, feature: Tensor, compressed: Tensor, x_source: Tensor, x_driving: Tensor) -> Tensor:
        """Return sources moved to driving keypoints: one step of a batch.

        Args:
            feature: [B, C, D, H, W] float32.
            compressed: [B, c, D, H, W] float32, of `Warping.compressed`.
            x_source: [B, K, 3] float32.
            x_driving: [B, K, 3] float32.

        Returns:
            [B, 3, sizes.output, sizes.output] RGB in [0, 1], half precision on a GPU.
        """
        return self.generator(self.warping(feature, compressed, x_source, x_driving))


def load(weights: str | None, device: torch.device) -> Networks:
    """Return the networks, ready to run.

    Args:
        weights: a folder in the published layout, with or without its outer `liveportrait`; None for the one
            that was pulled; "random" for SMALL networks with invented weights.
        device: where they run.

    Raises:
        ModelNotLoaded: files are missing, all of which are named; or one is damaged or of another network.
    """
    if weights == RANDOM:
        networks = invented(SMALL)
    else:
        networks = published(Path(weights) if weights is not None else cache_folder() / NAME)
    return place(networks, device)


def build(sizes: Sizes) -> Networks:
    """Return networks whose state dicts have the published keys; their values mean nothing yet."""
    return Networks(
        sizes,
        AppearanceExtractor(sizes),
        MotionExtractor(sizes),
        Warping(sizes),
        Generator(sizes),
        Stitcher(),
    )


def place(networks: Networks, device: torch.device) -> Networks:
    """Fold what is stored beside the weights into them, take shortcuts, and put all on a device."""
    for network in (networks.appearance, networks.warping, networks.generator):
        network.fold()
    networks.warping.dense_motion_network.refine()
    for name in FILES:
        network = getattr(networks, name)
        network.eval().requires_grad_(requires_grad=False).to(device)
    if device.type == "cuda":
        for network in (networks.warping, networks.generator):
            network.half()
            _order_channels_last(network)
    return networks


def _order_channels_last(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


@torch.no_grad()
def invented(sizes: Sizes) -> Networks:
    """Return networks of random weights, the same in every process, not yet folded; to test and measure."""
    networks = build(sizes)
    for seed, name in enumerate(FILES):
        invent(getattr(networks, name), seed)
    for layer, factor in INVENTED.items():
        name, _, path = layer.partition(".")
        getattr(networks, name).get_parameter(path).mul_(factor)
    networks.motion.get_parameter("detector.fc_scale.bias").fill_(SCALE)
    return networks


def published(folder: Path) -> Networks:
    """Return networks of the official size with a folder's weights, as published: on the CPU, not folded.

    Args:
        folder: the published layout, with or without its outer `liveportrait`.

    Raises:
        ModelNotLoaded: as `load`.
    """
    files = _files(folder)
    # Nothing is allocated or initialised for weights that come from files.
    with torch.device("meta"):
        networks = build(OFFICIAL)
    for name, file in files.items():
        if name == "stitcher":
            fill_stitcher(networks.stitcher, file)
        else:
            fill(getattr(networks, name), read_tensors(file), file=file)
    return networks


def fill_stitcher(stitcher: Stitcher, file: Path) -> None:
    """Put the file of the three small networks into them.

    Raises:
        ModelNotLoaded: it is not there, is damaged, or holds something else.
    """
    tensors = read_tensors(file)
    for part, key in NESTED.items():
        fill(getattr(stitcher, part), _nested(tensors, key, file), file=file)


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each network.

    Raises:
        ModelNotLoaded: some are missing.
    """
    found = {name: _find(folder, stem) for name, stem in FILES.items()}
    if missing := [f"{stem}.pth" for name, stem in FILES.items() if found[name] is None]:
        raise ModelNotLoaded(
            f"model {NAME!r}: expected its weights in {str(folder)!r}, found no {', '.join(missing)}; "
            f"fetch them with: {pull_command(NAME)}"
        )
    return {name: file for name, file in found.items() if file is not None}


def _find(folder: Path, stem: str) -> Path | None:
    places = [folder / outer / f"{stem}{ending}" for outer in ("", NAME) for ending in ENDINGS]
    return next((place for place in places if place.is_file()), None)


def _nested(tensors: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    """Return one network of a file of several: a mapping, or, as safetensors are flat, keys that begin so."""
    found = tensors.get(key)
    if found is None:
        found = {
            name.removeprefix(key).lstrip("._"): value
            for name, value in tensors.items()
            if name.startswith(key)
        }
    if not isinstance(found, Mapping) or not found:
        raise ModelNotLoaded(
            f"{str(file)!r}: expected the networks {', '.join(NESTED.values())}, found {sorted(tensors)[:8]}"
        )
    return found
