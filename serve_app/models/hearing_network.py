"""The network that hears how a mouth stands: gated convolutions over a mel spectrum, with a little lookahead.

The spectrum is taken every 10 ms (a look) on a grid fixed to the utterance; two looks make a step of 20 ms,
on which all of the network runs; each step gives the coefficients of both its looks. Nothing is padded: every
step that leaves sees the same past and the same future of sound, wherever the sound was cut.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.nouns import SPEECH_HZ

HOP = 160
"""Samples between two looks: 10 ms."""

REACH = 200
"""Samples on each side of a look: a Hann window of 25 ms."""

LOOKS_PER_STEP = 2

STEM_LOOKS = 5
"""Looks that a step begins with: its first one and the four before it."""

BANDS = 64

MEMORY = 30
"""Steps (0.6 s) whose mean, loudest and softest tell a step what this voice, level, room and noise are."""

TAPS = ((-1, 0, 1), (-1, 0, 1), (-8, -4, 0), (-4, -2, 0), (-2, -1, 0), (-1, 0, 1))
"""The steps that each block looks at, from its own."""

PAST = MEMORY - 1 - sum(taps[0] for taps in TAPS)
"""Steps before a step that can change it."""

AHEAD = sum(taps[-1] for taps in TAPS)
"""Steps after a step that can change it."""

FACE = ("browInnerUp", "headNod")
"""Coefficients that no gate holds back: they fade for longer than the mouth moves."""

GATE = (0.5, 0.8)
"""Music and breath leave the lips shut with these, and no vowel of a voice that was tried is lost."""

_FFT = 512
_LOW_HZ, _HIGH_HZ = 80.0, 7600.0
_FLOOR = 1e-8
_MARGIN = 0.04
"""How far beyond 0 and 1 the network can aim, so that both are reached by a finite weight."""


def samples_before(step: int) -> int:
    """Return the first sample (which may be negative) that changes a step of an utterance."""
    return (LOOKS_PER_STEP * (step - PAST) - STEM_LOOKS + 1) * HOP - REACH


def samples_after(step: int) -> int:
    """Return the end of the samples that change a step of an utterance."""
    return LOOKS_PER_STEP * (step + AHEAD) * HOP + REACH


def filterbank(warp: float = 1.0) -> Tensor:
    """Return [257, BANDS] weights of triangular bands, evenly spaced in mel, for a power spectrum.

    Args:
        warp: how much higher the bands lie than they do by themselves, as for a shorter vocal tract.
    """
    fine = 16
    hz = torch.arange(_FFT // 2 * fine + 1, dtype=torch.float64) * SPEECH_HZ / (_FFT * fine)
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (_LOW_HZ, _HIGH_HZ))
    edges = (
        700.0 * (10.0 ** (torch.linspace(low, high, BANDS + 2, dtype=torch.float64) / 2595.0) - 1.0) * warp
    )
    rise = (hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    dense = torch.minimum(rise, fall).clamp(min=0.0)  # [fine bins, BANDS]
    # A bin answers for the half bin on each side of it, so that narrow bands between two bins are not deaf.
    shared = functional.pad(dense, (0, 0, fine // 2, fine // 2 - 1))
    return shared.reshape(_FFT // 2 + 1, fine, BANDS).mean(1).float()


class GatedBlock(nn.Module):
    """A residual block: what a step's neighbours say, let through a gate.

    Args:
        width: channels.
        taps: the steps it looks at, in order.
    """

    def __init__(self, width: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self._taps = taps
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(len(taps) * width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, N - taps[-1] + taps[0], width] for [B, N, width]."""
        first, last = self._taps[0], self._taps[-1]
        size = x.shape[1] - last + first
        normal = self.norm(x)
        near = torch.cat([normal[:, tap - first : tap - first + size] for tap in self._taps], dim=-1)
        return x[:, -first : size - first] + self.out(functional.glu(self.mix(near), dim=-1))


class HearingNetwork(nn.Module):
    """Turns sound into coefficients.

    Args:
        width: channels of the blocks.
        gate: probabilities of speech up to which the mouth rests, and from which it moves freely.
    """

    hann: Tensor
    mel: Tensor
    free: Tensor

    def __init__(self, width: int = 128, gate: tuple[float, float] = GATE) -> None:
        super().__init__()
        self._gate = gate
        hann = torch.hann_window(2 * REACH)
        # Parseval: with this scale the powers add up to the mean square of samples in [-1, 1].
        scale = (2.0 / (_FFT * float(hann.square().sum()))) ** 0.5
        self.register_buffer("hann", hann * scale, persistent=False)
        self.register_buffer("mel", filterbank(), persistent=False)
        self.stem = nn.Linear(STEM_LOOKS * BANDS, width)
        self.recall = nn.Linear(3 * BANDS, width)
        self.blocks = nn.ModuleList(GatedBlock(width, taps) for taps in TAPS)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, LOOKS_PER_STEP * (len(NAMES) + 1))
        free = torch.tensor([float(name in FACE) for name in NAMES])
        self.register_buffer("free", free, persistent=False)

    def forward(self, speech: Tensor) -> Tensor:
        """Hear some steps.

        Args:
            speech: [B, S] in [-1, 1], from `samples_before` the first step to `samples_after` the last one.

        Returns:
            [B, looks, len(NAMES)]: a little outside the coefficients' ranges; `within` clips them.
        """
        return self.shapes(self.spectrum(speech, self.mel))

    def spectrum(self, speech: Tensor, mel: Tensor) -> Tensor:
        """Return [B, looks, BANDS] logarithms of power, about -2 to 2.

        Args:
            speech: [B, S].
            mel: [257, BANDS] or [B, 257, BANDS].
        """
        looks = speech.unfold(1, 2 * REACH, HOP)
        bins = torch.fft.rfft(looks * self.hann, _FFT)
        power = bins.real.square() + bins.imag.square()
        return ((power @ mel + _FLOOR).log() + 10.0) / 4.0

    def shapes(self, looks: Tensor) -> Tensor:
        """Return [B, looks, len(NAMES)] for [B, looks, BANDS] of `spectrum`."""
        return self.shapes_and_speech(looks)[0]

    def shapes_and_speech(self, looks: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `shapes` does, and [B, looks] logits of the probability that somebody speaks."""
        steps = looks.unfold(1, STEM_LOOKS, LOOKS_PER_STEP)  # [B, steps, BANDS, STEM_LOOKS]
        own = looks[:, STEM_LOOKS - 1 :: LOOKS_PER_STEP].unfold(1, MEMORY, 1)  # [B, steps, BANDS, MEMORY]
        usual = torch.cat([own.mean(-1), own.amax(-1), own.amin(-1)], dim=-1)
        x = self.stem(steps[:, MEMORY - 1 :].flatten(2)) + self.recall(usual)
        x = functional.gelu(x)
        for block in self.blocks:
            x = block(x)
        raw = self.head(self.norm(x)).unflatten(-1, (LOOKS_PER_STEP, len(NAMES) + 1)).flatten(1, 2)
        speech = raw[..., -1]
        let = torch.lerp(self._let(speech)[..., None], torch.ones_like(self.free), self.free)
        return _ranged(raw[..., :-1]) * let, speech

    def _let(self, speech: Tensor) -> Tensor:
        """Return 0 where speech is unlikely and 1 where it is likely, for logits: a smooth step between.

        A mean over what might be heard would move the lips a little in any noise; a decision keeps
        them still.
        """
        low, high = self._gate
        share = ((speech.sigmoid() - low) / (high - low)).clamp(0.0, 1.0)
        return share * share * (3.0 - 2.0 * share)


def within(coefficients: Tensor) -> Tensor:
    """Return [..., len(NAMES)] with each coefficient clipped to its range."""
    least = torch.zeros(len(NAMES), device=coefficients.device)
    least[INDEX["headNod"]] = -1.0
    return coefficients.clamp(max=1.0).maximum(least)


def _ranged(raw: Tensor) -> Tensor:
    """Bring the network's numbers to the coefficients' ranges.

    The lips' closure comes as a share of the jaw's opening, so shut lips are shut however far the jaw is.
    """
    squashed = (1.0 + 2.0 * _MARGIN) * raw.sigmoid() - _MARGIN
    jaw, close = squashed[..., INDEX["jawOpen"]], squashed[..., INDEX["mouthClose"]]
    columns = list(squashed.unbind(-1))
    columns[INDEX["mouthClose"]] = jaw * close
    columns[INDEX["headNod"]] = raw[..., INDEX["headNod"]].tanh()
    return torch.stack(columns, dim=-1)
