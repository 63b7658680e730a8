"""The published weights that models here run with: files, sums and terms.

Weights and detectors whose terms forbid commercial use are not listed and never fetched: LivePortrait's
repository also has InsightFace's, and MuseTalk's own scripts ask for a face parser trained on such data;
neither is needed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.errors import ModelNotLoaded


@dataclass(frozen=True, slots=True)
class Licence:
    """Terms of some of the files.

    Attributes:
        name: SPDX identifier, or what the publisher calls it.
        covers: which files, in words.
        summary: what it asks and allows, in a sentence or two; the text at `url` is what holds.
        url: where its publisher states it.
    """

    name: str
    covers: str
    summary: str
    url: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file.

    Attributes:
        path: where it lies in the model's folder: the layout of its publisher's inference code.
        repo: hub repository.
        revision: commit of that repository.
        repo_path: where it lies there.
        size_bytes: None where it is not known.
        sha256: hexadecimal; None where no sum is published: then the first pull records what it fetched.
    """

    path: str
    repo: str
    revision: str
    repo_path: str
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def url(self) -> str:
        """The file on the hub, as fsspec and huggingface_hub name it."""
        return f"hf://{self.repo}@{self.revision}/{self.repo_path}"


@dataclass(frozen=True, slots=True)
class Weights:
    """All that one model needs."""

    model: str
    title: str
    files: tuple[WeightFile, ...]
    licences: tuple[Licence, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files whose size is known."""
        return sum(file.size_bytes or 0 for file in self.files)


MIT = "use, change and distribute for any purpose, also commercially; keep the copyright notice. No warranty."

_MUSETALK = ("TMElyralab/MuseTalk", "3ef28bc5cff08c90ad8178a25f1b570cd800170f")
_VAE = ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493")
_WHISPER = ("openai/whisper-tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af")
_LIVEPORTRAIT = ("KlingTeam/LivePortrait", "82a4fa6735ca58432b6ce39301b4b9ee066dea47")

MUSETALK = Weights(
    "musetalk",
    "MuseTalk 1.5: the mouth of a photo or video, 256x256, 25 frames a second",
    (
        WeightFile(
            "musetalkV15/musetalk.json",
            *_MUSETALK,
            "musetalkV15/musetalk.json",
            748,
            "5b6923aee04d71692e0e9846c471e0a4ea07a4f686d39545e472bd4ba17e1b47",
        ),
        WeightFile(
            "musetalkV15/unet.pth",
            *_MUSETALK,
            "musetalkV15/unet.pth",
            3_400_074_924,
            "7ebf6c98c181e20838e4c0054e96e944ac60d5d692cc01db42839fe11b787007",
        ),
        WeightFile(
            "sd-vae/config.json",
            *_VAE,
            "config.json",
            547,
            "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
        ),
        WeightFile(
            "sd-vae/diffusion_pytorch_model.safetensors",
            *_VAE,
            "diffusion_pytorch_model.safetensors",
            334_643_276,
            "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        ),
        WeightFile("whisper/config.json", *_WHISPER, "config.json", 1983),
        WeightFile(
            "whisper/model.safetensors",
            *_WHISPER,
            "model.safetensors",
            151_061_672,
            "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
        ),
    ),
    (
        Licence(
            "MIT; CreativeML OpenRAIL-M on the model card",
            "musetalkV15 (the UNet)",
            "the publisher's README says that the trained model may be used for any purpose, even "
            "commercially; the model card names OpenRAIL-M, which allows that too, forbids the harmful uses "
            "in its attachment A, and wants them passed on with copies of the weights.",
            "https://github.com/TMElyralab/MuseTalk#disclaimerlicense",
        ),
        Licence("MIT", "sd-vae (the VAE)", MIT, "https://huggingface.co/stabilityai/sd-vae-ft-mse"),
        Licence(
            "Apache-2.0",
            "whisper (the hearing)",
            "use, change and distribute for any purpose, also commercially; keep the notices and say what "
            "was changed; grants patent rights. No warranty.",
            "https://huggingface.co/openai/whisper-tiny",
        ),
    ),
)


def _liveportrait(path: str, size_bytes: int, sha256: str) -> WeightFile:
    return WeightFile(path, *_LIVEPORTRAIT, f"liveportrait/{path}", size_bytes, sha256)


LIVEPORTRAIT = Weights(
    "liveportrait",
    "LivePortrait: the whole face of a photo, 512x512",
    (
        _liveportrait(
            "base_models/appearance_feature_extractor.pth",
            3_387_959,
            "5279bb8654293dbdf327030b397f107237dd9212fb11dd75b83dfb635211ceb5",
        ),
        _liveportrait(
            "base_models/motion_extractor.pth",
            112_545_506,
            "251e6a94ad667a1d0c69526d292677165110ef7f0cf0f6d199f0e414e8aa0ca5",
        ),
        _liveportrait(
            "base_models/spade_generator.pth",
            221_813_590,
            "4780afc7909a9f84e24c01d73b31a555ef651521a1fe3b2429bd04534d992aee",
        ),
        _liveportrait(
            "base_models/warping_module.pth",
            182_180_086,
            "2f61a6f265fe344f14132364859a78bdbbc2068577170693da57fb96d636e282",
        ),
        _liveportrait(
            "retargeting_models/stitching_retargeting_module.pth",
            2_393_098,
            "3652d5a3f95099141a56986aaddec92fadf0a73c87a20fac9a2c07c32b28b611",
        ),
    ),
    (
        Licence(
            "MIT",
            "all files listed (InsightFace's detectors of the same repository are not fetched: they are for "
            "research alone)",
            MIT,
            "https://huggingface.co/KlingTeam/LivePortrait",
        ),
    ),
)

CATALOGUE = {weights.model: weights for weights in (MUSETALK, LIVEPORTRAIT)}


def weights_of(model: str) -> Weights:
    """Return what a model needs.

    Raises:
        ModelNotLoaded: it has no weights to fetch.
    """
    if model not in CATALOGUE:
        raise ModelNotLoaded(
            f"expected a model with weights to fetch: {', '.join(CATALOGUE)}; found {model!r}"
        )
    return CATALOGUE[model]
