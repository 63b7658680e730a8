"""The neural models as a benchmark handles them: ours, the published loop, and the parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from serve_app.avatars.store import AvatarStore
from serve_app.models.base import Model
from serve_app.models.neural.checkpoint import invent
from serve_app.nouns import SPEECH_HZ, ClipFailure, Int16, Window, speech_index

FPS = 25
AVATARS = ("default", "collins")
OFFICIAL_BATCH = 20
"""Of MuseTalk's own scripts (scripts/inference.py, --batch_size)."""


class Subject(Protocol):
    """One model to be measured; B stands for the frames of a batch."""

    @property
    def model(self) -> Model:
        """Ours, with avatars prepared."""

    @property
    def plain_batches(self) -> Sequence[int]:
        """Batch sizes of the published loop."""

    def plain(self, batch: int) -> None:
        """Make B frames as the published code does, up to bytes on the host."""

    def parts(self, batch: int) -> Mapping[str, Callable[[], object]]:
        """Return what B frames are made by, each to be timed alone."""

    def networks(self, batch: int) -> Callable[[], object]:
        """Return a step of the networks alone for B frames, as they are, for counting operations."""

    def likeness(self) -> tuple[Tensor, Tensor]:
        """Return pictures in [0, 1] by ours and by the networks in float32, uncompiled."""


class MuseTalkSubject:
    """MuseTalk 1.5.

    Args:
        weights: folder or "random".
        device: where to.
        mode: of the batches; None for the model's own choice.
    """

    plain_batches = (1, 8, OFFICIAL_BATCH)

    def __init__(self, weights: str, device: str, mode: str | None) -> None:
        from serve_app.models.musetalk.model import MuseTalk
        from serve_app.models.musetalk.networks import load

        self._device = torch.device(device)
        self._weights = weights
        self._half = torch.float16 if device == "cuda" else torch.float32
        self.model = MuseTalk(fps=FPS, device=device, weights=weights, mode=mode)
        _prepare(self.model)
        self._load = load
        # As the published code holds them: half precision, in torch's default memory order.
        self._plain = load(weights, self._device, self._half)
        for module in (self._plain.unet, self._plain.vae):
            module.to(memory_format=torch.contiguous_format)
        self._channels = int(self._plain.architecture.unet["cross_attention_dim"])

    def _inputs(self, batch: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(batch, 8, 32, 32, generator=generator)
        prompts = torch.randn(batch, 50, self._channels, generator=generator)
        return latents.to(self._device, dtype), prompts.to(self._device, dtype)

    @torch.no_grad()
    def plain(self, batch: int) -> None:
        """The loop of scripts/realtime_inference.py: UNet, VAE, each frame to the host by itself."""
        latents, prompts = self._inputs(batch, self._half)
        timestep = torch.zeros(1, dtype=torch.int64, device=self._device)
        painted = self._plain.unet(latents, timestep, encoder_hidden_states=prompts).sample
        pictures = self._plain.vae.decode(painted / 0.18215).sample
        for picture in (pictures / 2 + 0.5).clamp(0, 1):
            frame = picture.cpu().permute(1, 2, 0).float().numpy()
            (frame * 255).round().astype(np.uint8)[..., ::-1].copy()

    @torch.inference_mode()
    def parts(self, batch: int) -> Mapping[str, Callable[[], object]]:
        """UNet and VAE by themselves, and both as they run in ours."""
        mine: Any = self.model
        networks = mine.networks
        latents, prompts = self._inputs(batch, networks.dtype)
        latents = latents.contiguous(memory_format=torch.channels_last)
        small = latents[:, :4].contiguous(memory_format=torch.channels_last)
        timestep = torch.zeros(1, dtype=torch.int64, device=self._device)
        return {
            "UNet, eager": lambda: networks.unet(latents, timestep, encoder_hidden_states=prompts),
            "VAE decoder, eager": lambda: networks.decode(small),
            f"UNet and VAE, {mine._paint.mode}": lambda: mine._paint(latents, prompts),
        }

    def networks(self, batch: int) -> Callable[[], object]:
        """UNet and VAE."""
        mine: Any = self.model
        latents, prompts = self._inputs(batch, mine.networks.dtype)
        return lambda: mine.networks.paint(latents, prompts)

    @torch.inference_mode()
    def likeness(self) -> tuple[Tensor, Tensor]:
        """Compare painted faces."""
        mine: Any = self.model
        exact = self._load(self._weights, self._device, torch.float32)
        latents, prompts = self._inputs(4, torch.float32, seed=1)
        half = [value.to(mine.networks.dtype) for value in (latents, prompts)]
        half[0] = half[0].contiguous(memory_format=torch.channels_last)
        return mine._paint(*half), exact.paint(latents, prompts)


class LivePortraitSubject:
    """LivePortrait.

    Args:
        weights: folder or "random".
        device: where to.
        mode: of the batches; None for the model's own choice.
    """

    plain_batches = (1,)

    def __init__(self, weights: str, device: str, mode: str | None) -> None:
        from serve_app.models.liveportrait.model import LivePortrait

        self._device = torch.device(device)
        self._weights = weights
        self.model = LivePortrait(fps=FPS, device=device, weights=weights, mode=mode)
        _prepare(self.model)
        self._plain = self._published(torch.float16 if device == "cuda" else torch.float32)

    def _published(self, dtype: torch.dtype) -> Any:
        """Return the networks as the published code holds them: not folded, in torch's memory order."""
        from serve_app.models.liveportrait.networks import invented, published
        from serve_app.models.liveportrait.sizes import SMALL

        networks = invented(SMALL) if self._weights == "random" else published(Path(self._weights))
        for network in (networks.warping, networks.generator):
            network.eval().requires_grad_(requires_grad=False).to(self._device, dtype)
        return networks

    def _inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        sizes = self._plain.sizes
        generator = torch.Generator().manual_seed(seed)
        volume = (sizes.depth, sizes.grid, sizes.grid)
        feature = torch.randn(batch, sizes.volume, *volume, generator=generator).to(self._device)
        x_source = (0.3 * torch.randn(batch, 21, 3, generator=generator)).to(self._device)
        moved = (0.02 * torch.randn(batch, 21, 3, generator=generator)).to(self._device)
        return feature, self._plain.warping.compressed(feature).float(), x_source, x_source + moved

    @torch.no_grad()
    def plain(self, batch: int) -> None:
        """The loop of live_portrait_pipeline.py: one frame at a time, to the host by itself."""
        for frame in zip(*(torch.split(value, 1) for value in self._inputs(batch)), strict=True):
            picture = self._plain.picture(*frame)
            shown = picture.permute(0, 2, 3, 1).float().cpu().numpy()
            (np.clip(shown, 0, 1) * 255).astype(np.uint8)

    @torch.inference_mode()
    def parts(self, batch: int) -> Mapping[str, Callable[[], object]]:
        """Warping and generator by themselves, and both as they run in ours."""
        mine: Any = self.model
        inputs = self._inputs(batch)
        warped = mine.networks.warping(*inputs)
        return {
            "warping, eager": lambda: mine.networks.warping(*inputs),
            "generator, eager": lambda: mine.networks.generator(warped),
            f"warping and generator, {mine._step.mode}": lambda: mine._step(*inputs),
        }

    def networks(self, batch: int) -> Callable[[], object]:
        """Warping and generator."""
        mine: Any = self.model
        inputs = self._inputs(batch)
        return lambda: mine.networks.picture(*inputs)

    @torch.inference_mode()
    def likeness(self) -> tuple[Tensor, Tensor]:
        """Compare pictures."""
        mine: Any = self.model
        exact = self._published(torch.float32)
        inputs = self._inputs(2, seed=1)
        return mine._step(*inputs), exact.picture(*inputs)


SUBJECTS: dict[str, Callable[[str, str, str | None], Subject]] = {
    "musetalk": MuseTalkSubject,
    "liveportrait": LivePortraitSubject,
}


def full_size(name: str, folder: Path) -> str:
    """Write invented weights of the official size in the official layout, and return the folder."""
    print(f"{name}: inventing full-size weights in {folder}", flush=True)
    (_full_musetalk if name == "musetalk" else _full_liveportrait)(folder)
    return str(folder)


def _full_musetalk(folder: Path) -> None:
    from safetensors.torch import save_file

    from serve_app.models.musetalk.architecture import OFFICIAL
    from serve_app.models.musetalk.networks import build

    networks = build(OFFICIAL)
    for seed, module in enumerate((networks.unet, networks.vae, networks.whisper)):
        invent(module, seed)
    for place in ("musetalkV15", "sd-vae", "whisper"):
        (folder / place).mkdir(parents=True)
    halves = {key: value.half() for key, value in networks.unet.state_dict().items()}
    torch.save(halves, folder / "musetalkV15" / "unet.pth")
    save_file(networks.vae.state_dict(), folder / "sd-vae" / "diffusion_pytorch_model.safetensors")
    heard = {f"model.encoder.{key}": value for key, value in networks.whisper.state_dict().items()}
    save_file(heard, folder / "whisper" / "model.safetensors")
    vae = {**OFFICIAL.vae, "scaling_factor": 0.18215}
    for place, values in (
        ("musetalkV15/musetalk.json", OFFICIAL.unet),
        ("sd-vae/config.json", vae),
        ("whisper/config.json", OFFICIAL.whisper),
    ):
        (folder / place).write_text(json.dumps(dict(values)))


def _full_liveportrait(folder: Path) -> None:
    from serve_app.models.liveportrait.networks import FILES, NESTED, invented
    from serve_app.models.liveportrait.sizes import OFFICIAL

    networks = invented(OFFICIAL)
    for name, stem in FILES.items():
        tensors: dict[str, Any] = getattr(networks, name).state_dict()
        if name == "stitcher":
            tensors = {key: getattr(networks.stitcher, part).state_dict() for part, key in NESTED.items()}
        file = folder / f"{stem}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, file)


def _prepare(model: Model) -> None:
    for avatar_id in AVATARS:
        model.prepare(AvatarStore(None).load(avatar_id))


def voice(seconds: float, seed: int) -> Int16:
    """Return tones in syllables, [S] int16 at SPEECH_HZ."""
    t = np.arange(round(seconds * SPEECH_HZ)) / SPEECH_HZ
    tones = (
        np.sin(2 * np.pi * 700 * t) + 0.5 * np.sin(2 * np.pi * 1_200 * t) + 0.3 * np.sin(2 * np.pi * 130 * t)
    )
    return np.asarray(tones * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t + seed)) * 3_000).astype(np.int16)


def window(model: Model, session: int, first_frame: int, num_frames: int, sound: Int16) -> Window:
    """Cut a window of a session's endless speech."""
    spec = model.spec
    begin = speech_index(first_frame, spec.fps) - spec.left_context
    end = speech_index(first_frame + num_frames, spec.fps) + spec.lookahead
    return Window(
        session_id=str(session),
        generation=0,
        utterance=0,
        avatar_id=AVATARS[session % len(AVATARS)],
        first_frame=first_frame,
        num_frames=num_frames,
        base_frame=17 * session + first_frame,
        speech=sound.take(np.arange(begin, end), mode="wrap"),
        left_context=spec.left_context,
        is_last=False,
    )


def animate(model: Model, windows: Sequence[Window]) -> None:
    """Animate; a failure ends the benchmark."""
    for result in model.animate(windows):
        if isinstance(result, ClipFailure):
            raise RuntimeError(f"{result.code}: {result.detail}")
