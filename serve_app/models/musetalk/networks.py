"""The networks of MuseTalk 1.5 from the libraries' own classes, filled from the official files.

Letters in shapes: B frames, T tokens of a prompt, R rows of the encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve_app.errors import ModelNotLoaded
from serve_app.models.musetalk.architecture import OFFICIAL, SMALL, Architecture, check
from serve_app.models.neural.checkpoint import RANDOM, fill, invent, read_tensors

SIDE = 256
"""Pixels of the square face that the networks see and paint."""

SCALING = 0.18215
"""What latents are multiplied by after encoding (Rombach et al., arXiv:2112.10752, and the VAE's config)."""

PULL = "avatar models pull musetalk"

_TO_Q = re.compile(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The published VAE is older than diffusers' present names of its attention layers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The official files, wherever below a folder they lie."""

    unet: Path
    unet_config: Path
    vae: Path
    vae_config: Path
    whisper: Path
    whisper_config: Path


_PLACES = {
    "unet": ("musetalkV15/unet.pth", "musetalkV15/unet.safetensors"),
    "unet_config": ("musetalkV15/musetalk.json",),
    "vae": tuple(
        f"{folder}/diffusion_pytorch_model.{suffix}"
        for folder in ("sd-vae", "sd-vae-ft-mse")
        for suffix in ("safetensors", "bin")
    ),
    "vae_config": ("sd-vae/config.json", "sd-vae-ft-mse/config.json"),
    "whisper": ("whisper/model.safetensors", "whisper/pytorch_model.bin"),
    "whisper_config": ("whisper/config.json",),
}
"""Where the official download script puts them; the first of a line is named when none is there."""


def locate(folder: Path) -> Checkpoint:
    """Find the official files in `folder`, or in `models` within it.

    Raises:
        ModelNotLoaded: files are missing; the text names all of them.
    """
    found: dict[str, Path] = {}
    for part, places in _PLACES.items():
        files = (root / place for place in places for root in (folder, folder / "models"))
        if file := next((file for file in files if file.is_file()), None):
            found[part] = file
    missing = [places[0] for part, places in _PLACES.items() if part not in found]
    if missing:
        raise ModelNotLoaded(
            f"model 'musetalk': expected its weights in {str(folder)!r}, found no {', no '.join(missing)}; "
            f"fetch them with: {PULL}"
        )
    return Checkpoint(**found)


@dataclass(frozen=True, slots=True)
class Networks:
    """All that is computed by weights.

    Attributes:
        unet: turns the latents of a masked and a whole face, and a prompt, into those of a speaking one.
        vae: turns pictures into latents and back.
        whisper: hears speech.
        architecture: their shapes.
    """

    unet: Any
    vae: Any
    whisper: Any
    architecture: Architecture

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What they compute in."""
        return next(self.unet.parameters()).dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The order of pictures in memory: tensor cores want channels last, CPUs are faster without."""
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def to(self, device: torch.device, dtype: torch.dtype) -> Networks:
        """Move them to a device and into a dtype; return them."""
        order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        # The libraries' own `to` warns of casts; nothing here has to stay in float32.
        move: Any = nn.Module.to
        for module in (self.unet, self.vae, self.whisper):
            move(module, device=device, dtype=dtype)
        for module in (self.unet, self.vae):
            move(module, memory_format=order)
        return self

    def encode(self, faces: Tensor) -> Tensor:
        """Turn faces into what the UNet paints on.

        The official code samples the VAE's posterior; its mean is what it samples around, without noise.

        Args:
            faces: [B, 3, SIDE, SIDE] RGB from 0 to 1.

        Returns:
            [B, 8, SIDE / 8, SIDE / 8]: latents of the face without its lower half, then of the whole face.
        """
        faces = faces.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)
        whole, masked = vae_inputs(faces)
        latents = [SCALING * self.vae.encode(pictures).latent_dist.mean for pictures in (masked, whole)]
        return torch.cat(latents, dim=1)

    def paint(self, latents: Tensor, prompts: Tensor) -> Tensor:
        """Paint speaking faces.

        One pass at timestep 0: the UNet's output is the new latent, without a scheduler.

        Args:
            latents: [B, 8, SIDE / 8, SIDE / 8] as from `encode`, in `memory_format`.
            prompts: [B, T, C] as from `hearing`, their positions added.

        Returns:
            [B, 3, SIDE, SIDE] RGB from 0 to 1, in the networks' dtype.
        """
        timestep = torch.zeros(1, dtype=torch.int64, device=latents.device)
        painted = self.unet(latents, timestep, encoder_hidden_states=prompts, return_dict=False)[0]
        return self.decode(painted)

    def decode(self, latents: Tensor) -> Tensor:
        """Turn [B, 4, h, w] latents into [B, 3, 8 h, 8 w] RGB pictures from 0 to 1."""
        pictures = self.vae.decode(latents / SCALING, return_dict=False)[0]
        return (pictures / 2 + 0.5).clamp(0.0, 1.0)

    def hear(self, logmel: Tensor) -> Tensor:
        """Return the hidden states of the encoder for log-mel spectra of any even length.

        The library's own forward insists on 30 s; positions are looked up from the first on, so that
        shorter spectra are those of the beginning of a piece.

        Args:
            logmel: [B, 80, 2 R].

        Returns:
            [B, R, S, C]: the sum with the positions, the outputs of all layers but the last, and that of
            the last after the final norm.
        """
        whisper = self.whisper
        heard = nn.functional.gelu(whisper.conv1(logmel))
        heard = nn.functional.gelu(whisper.conv2(heard)).transpose(1, 2)
        heard = heard + whisper.embed_positions.weight[: heard.shape[1]]
        states = [heard]
        for layer in whisper.layers:
            heard = layer(heard, None)
            states.append(heard)
        states[-1] = whisper.layer_norm(heard)
        return torch.stack(states, dim=2)


def vae_inputs(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return [B, 3, SIDE, SIDE] faces from 0 to 1 as the VAE wants them, whole and without the lower half."""
    whole = faces * 2.0 - 1.0
    masked = whole.clone(memory_format=torch.preserve_format)
    masked[:, :, SIDE // 2 :] = -1.0
    return whole, masked


def build(architecture: Architecture, device: str = "cpu") -> Networks:
    """Make networks without useful weights; on the device "meta" they take no memory."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    with torch.device(device):
        networks = Networks(
            UNet2DConditionModel(**architecture.unet),
            AutoencoderKL(**architecture.vae),
            WhisperEncoder(WhisperConfig(**architecture.whisper)),
            architecture,
        )
    for module in (networks.unet, networks.vae, networks.whisper):
        module.eval().requires_grad_(requires_grad=False)
    return networks


def load(weights: str | None, device: torch.device, dtype: torch.dtype) -> Networks:
    """Load the official networks, or invent small ones.

    Args:
        weights: folder of the official files, or RANDOM.
        device: where to compute.
        dtype: in what.

    Raises:
        ModelNotLoaded: files are missing, damaged or of another version, or the libraries are.
    """
    if weights is None:
        raise ModelNotLoaded(
            f"model 'musetalk': expected a folder with its weights, found none named; fetch them with: {PULL}"
        )
    try:
        if weights == RANDOM:
            networks = build(SMALL)
            for seed, module in enumerate((networks.unet, networks.vae, networks.whisper)):
                invent(module, seed)
        else:
            networks = read(locate(Path(weights)))
    except ImportError as error:
        raise ModelNotLoaded(
            f"model 'musetalk': expected the extra 'neural' (diffusers and transformers), found: {error}"
        ) from error
    return networks.to(device, dtype)


def read(files: Checkpoint, architecture: Architecture = OFFICIAL) -> Networks:
    """Fill the networks from their files.

    Raises:
        ModelNotLoaded: a file is damaged, or holds another network or version.
    """
    check(files.unet_config, architecture.unet)
    check(files.vae_config, {**architecture.vae, "scaling_factor": SCALING})
    check(files.whisper_config, architecture.whisper)
    networks = build(architecture, "meta")
    fill(networks.unet, read_tensors(files.unet), file=files.unet)
    fill(networks.vae, read_tensors(files.vae), file=files.vae, rename=present_name)
    fill(
        networks.whisper,
        read_tensors(files.whisper),
        file=files.whisper,
        rename=lambda key: key.removeprefix("encoder."),
        ignore=lambda key: "decoder." in key or key.startswith("proj_out."),
    )
    return networks


def present_name(key: str) -> str:
    """Return diffusers' present name of a key of the published VAE."""
    return _TO_Q.sub(lambda found: _NEW_NAMES[found[0]], key)
