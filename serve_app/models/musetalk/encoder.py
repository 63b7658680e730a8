"""Whisper's encoder over a short piece of a stream, as if silence stood at all its other places.

The encoder was trained on 30 s, and attention sees all of them: on a bare piece it answers something else
(prompts differ by 90 % of their spread), and 30 s for each frame cost twelve times as much as the piece. What
silence alone answers is always the same, so its keys and values are computed once for every place and layer;
a piece computes its own rows and puts them in place of silent ones.

Letters in shapes: F pieces, R rows of a piece, P places of the encoder, S states, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FLOORS = tuple(-10.0 + 0.5 * step for step in range(10))
"""Levels, as log10 of power, below which a spectrum is cut: 8 below the loudest of what is heard. Silence
stands at this floor; a full-scale tone's is -5.7, and -10 is that of nothing at all."""


class PieceEncoder:
    """The encoder with silence around a piece.

    Args:
        whisper: transformers' WhisperEncoder, where it shall compute.
        floors: levels that spectra may be cut at, ascending in even steps.
    """

    def __init__(self, whisper: Any, floors: Sequence[float] = FLOORS) -> None:  # noqa: ANN401 - a library's
        self.floors = tuple(floors)
        self._whisper = whisper
        self._heads = int(whisper.config.encoder_attention_heads)
        self._places = int(whisper.config.max_source_positions)
        self._silence = self._hear_silence()

    @property
    def places(self) -> int:
        """P: rows that the encoder has positions for."""
        return self._places

    def __call__(self, spectra: Tensor, floors: Tensor, places: Tensor) -> Tensor:
        """Return the hidden states of pieces.

        Args:
            spectra: [F, bands, 2 R] log-mel, in the encoder's dtype.
            floors: [F] int64: which of `floors` each was cut at.
            places: [F] int64: where each piece's first row stands, P - R at most.

        Returns:
            [F, R, S, C] as `Networks.hear` returns them.
        """
        rows = places[:, None] + torch.arange(spectra.shape[2] // 2, device=places.device)
        heard = self._stem(spectra) + self._whisper.embed_positions.weight[rows]
        at = rows[..., None].expand_as(heard)
        states = [heard]
        for layer, (silent_keys, silent_values) in zip(self._whisper.layers, self._silence, strict=True):
            normed = layer.self_attn_layer_norm(heard)
            attention = layer.self_attn
            keys = silent_keys.index_select(0, floors).scatter_(1, at, attention.k_proj(normed))
            values = silent_values.index_select(0, floors).scatter_(1, at, attention.v_proj(normed))
            # The library's scaling, applied where it applies it.
            queries = attention.q_proj(normed) * attention.scaling
            mixed = functional.scaled_dot_product_attention(
                self._split(queries), self._split(keys), self._split(values), scale=1.0
            )
            heard = heard + attention.out_proj(mixed.transpose(1, 2).flatten(2))
            wide = layer.activation_fn(layer.fc1(layer.final_layer_norm(heard)))
            heard = heard + layer.fc2(wide)
            states.append(heard)
        states[-1] = self._whisper.layer_norm(heard)
        return torch.stack(states, dim=2)

    def _stem(self, spectra: Tensor) -> Tensor:
        heard = functional.gelu(self._whisper.conv1(spectra))
        return functional.gelu(self._whisper.conv2(heard)).transpose(1, 2)

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:2], self._heads, -1).transpose(1, 2)

    @torch.inference_mode()
    def _hear_silence(self) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of each layer for silence, [len(floors), P, C] each."""
        whisper = self._whisper
        weight = whisper.conv1.weight
        floors = torch.tensor(self.floors, device=weight.device, dtype=weight.dtype)
        silence = ((floors + 4.0) / 4.0)[:, None, None].expand(-1, weight.shape[1], 2 * self._places)
        heard = self._stem(silence) + whisper.embed_positions.weight
        found = []
        for layer in whisper.layers:
            normed = layer.self_attn_layer_norm(heard)
            found.append((layer.self_attn.k_proj(normed), layer.self_attn.v_proj(normed)))
            heard = layer(heard, None)
        return found
