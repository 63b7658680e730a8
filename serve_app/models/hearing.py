"""Hears how a mouth and a face stand, by a small network that was trained by `serve_app.training`.

The network looks at the sound on a grid that is fixed to the utterance, and each video frame lies between two
of its looks, so the same sound gives the same coefficients however it is cut into windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from serve_app.models.hearing_network import (
    AHEAD,
    HOP,
    LOOKS_PER_STEP,
    PAST,
    REACH,
    STEM_LOOKS,
    HearingNetwork,
    samples_after,
    samples_before,
    within,
)
from serve_app.nouns import SPEECH_HZ, Window, speech_index

WEIGHTS = Path(__file__).with_name("portrait.safetensors")
"""The weights that come with the package."""

LEFT_CONTEXT = (LOOKS_PER_STEP * (PAST + 1) + STEM_LOOKS - 1) * HOP + REACH
"""Samples before a window's first frame that can change its frames."""


def lookahead(fps: int) -> int:
    """Return the samples after a window's last frame that can change its frames."""
    return max(0, (LOOKS_PER_STEP * AHEAD + 1) * HOP + REACH - SPEECH_HZ // (2 * fps) + 1)


class Hearing:
    """Turns speech into the coefficients of `blendshapes`.

    Args:
        fps: frames per second.
        device: where to compute.
        weights: safetensors of a HearingNetwork; by default the package's own.

    Raises:
        FileNotFoundError: there are no such weights.
        RuntimeError: the weights are of another network.
    """

    def __init__(self, fps: int, device: torch.device, weights: Path | None = None) -> None:
        self._fps = fps
        self._device = device
        self._network = HearingNetwork()
        self._network.load_state_dict(load_file(weights or WEIGHTS))
        self._network.eval().to(device)

    @torch.inference_mode()
    def listen(self, windows: Sequence[Window]) -> Tensor:
        """Return [F, 14] coefficients, float32, of all frames of all windows, in order."""
        placed = [_Placed(window, self._fps) for window in windows]
        num_steps = max(place.num_steps for place in placed)
        speech = np.zeros((len(placed), samples_after(num_steps - 1) - samples_before(0)), np.int16)
        for row, place in zip(speech, placed, strict=True):
            place.copy_to(row)
        looks = self._network(torch.from_numpy(speech).to(self._device, torch.float32) / 32_768.0)
        flat = looks.flatten(0, 1)  # [B * looks, 14]
        before = np.concatenate([place.before + row * looks.shape[1] for row, place in enumerate(placed)])
        share = np.concatenate([place.share for place in placed])
        near = torch.from_numpy(before).to(self._device)
        weight = torch.from_numpy(share).to(self._device)[:, None]
        return within(torch.lerp(flat[near], flat[near + 1], weight))


class _Placed:
    """A window on the network's grid: look n of an utterance is centred on its sample n * HOP."""

    def __init__(self, window: Window, fps: int) -> None:
        frames = range(window.first_frame, window.first_frame + window.num_frames + 1)
        starts = np.array([speech_index(frame, fps) for frame in frames])
        middles = (starts[:-1] + starts[1:]) // 2
        looks = middles // HOP  # [F]
        first_step = int(looks[0]) // LOOKS_PER_STEP
        self.num_steps = int(looks[-1] + 1) // LOOKS_PER_STEP + 1 - first_step
        self.before: npt.NDArray[np.int64] = looks - first_step * LOOKS_PER_STEP
        self.share: npt.NDArray[np.float32] = (middles % HOP / HOP).astype(np.float32)
        self._speech = window.speech
        self._skip = samples_before(first_step) - (int(starts[0]) - window.left_context)

    def copy_to(self, row: npt.NDArray[np.int16]) -> None:
        """Write the window's samples into a row that begins where the network does; the rest stays zero."""
        lo, hi = max(0, self._skip), min(len(self._speech), self._skip + len(row))
        if lo < hi:
            row[lo - self._skip : hi - self._skip] = self._speech[lo:hi]
