"""The three networks of MuseTalk 1.5 as their publishers configured them, and small ones for tests.

The dictionaries are arguments of the libraries' own classes: diffusers' `UNet2DConditionModel` and
`AutoencoderKL`, transformers' `WhisperConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelNotLoaded


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shapes of the networks.

    Attributes:
        unet: arguments of UNet2DConditionModel.
        vae: arguments of AutoencoderKL.
        whisper: arguments of WhisperConfig; what is not named is the library's.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    whisper: Mapping[str, Any]


OFFICIAL = Architecture(
    unet={
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 384,
        "down_block_types": [
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 8,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": [
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ],
    },
    vae={
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 256,
    },
    whisper={
        "activation_function": "gelu",
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "scale_embedding": False,
    },
)
"""MuseTalk 1.5 with sd-vae-ft-mse and Whisper tiny."""

SMALL = Architecture(
    unet={
        **OFFICIAL.unet,
        "attention_head_dim": 2,
        "block_out_channels": [8, 8, 8, 8],
        "cross_attention_dim": 16,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    vae={
        **OFFICIAL.vae,
        "block_out_channels": [2, 4, 8, 8],
        "layers_per_block": 1,
        "mid_block_add_attention": False,
        "norm_num_groups": 1,
    },
    whisper={
        **OFFICIAL.whisper,
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "max_source_positions": 150,
    },
)
"""The same graph with few channels, and no attention where pictures are finest: a CPU streams it, and what
it paints is noise."""


def check(file: Path, expected: Mapping[str, Any]) -> None:
    """Compare a published configuration with the one that the code is written for.

    Keys that begin with `_` are notes of the library that wrote them; keys that are not expected are left
    to the library, whose defaults both sides share.

    Args:
        file: JSON beside the weights.
        expected: values by key; a key that the file lacks is no fault.

    Raises:
        ModelNotLoaded: the file is no JSON object, or a value differs: the weights are of another version.
    """
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelNotLoaded(f"expected a JSON object in {str(file)!r}, found: {error}") from error
    if not isinstance(found, dict):
        raise ModelNotLoaded(f"expected a JSON object in {str(file)!r}, found a {type(found).__name__}")
    faults = [
        f"{key}: expected {value!r}, found {found[key]!r}"
        for key, value in expected.items()
        if not key.startswith("_") and key in found and found[key] != value
    ]
    if faults:
        raise ModelNotLoaded(f"{str(file)!r} is of another model or version: {'; '.join(faults)}")
