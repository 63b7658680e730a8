"""Hears what MuseTalk's painter is prompted with: hidden states of Whisper around each native frame.

A whole recording is heard as the official code does it, in pieces of 30 s (`whole`). In a stream every
native frame is heard alone, in a piece that begins CONTEXT before it and ends LOOKAHEAD after it
(`Hearing`): whatever the window, a frame hears the same. Its rows stand where they stand in the utterance;
from 28 s on they stay at the encoder's last places.

Letters in shapes: B pieces, F native frames, R rows of the encoder (50 a second), S states, C channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.models.musetalk.encoder import FLOORS, PieceEncoder
from serve_app.models.musetalk.timing import FRAME_SAMPLES, NativeFrames
from serve_app.nouns import SPEECH_HZ, Window, speech_index

N_FFT, HOP, BANDS = 400, 160, 80
"""Whisper's spectra (Radford et al., arXiv:2212.04356, section 2.2): 25 ms every 10 ms, mel bands."""

ROW_SAMPLES = 2 * HOP
"""Samples of a row of the encoder: its second convolution halves the rate."""

ROWS_HZ = SPEECH_HZ // ROW_SAMPLES

PIECE = 30 * SPEECH_HZ
"""Samples that the encoder was trained on."""

PADDING = 2
"""Native frames of context that a prompt has on either side."""

ROWS = 2 * (2 * PADDING + 1)
"""Rows of a prompt."""

LOOKAHEAD = PADDING * FRAME_SAMPLES
"""Samples after a native frame that its prompt hears: 80 ms."""


CONTEXT = 2 * SPEECH_HZ
"""Samples before a native frame that its prompt hears."""

HEARD = CONTEXT + FRAME_SAMPLES + LOOKAHEAD
"""Samples of a piece: whole rows of them."""

AFTER = 2 * ROW_SAMPLES
"""Silence behind a piece: the last sound fades into it, as spectra and convolutions want."""

CHUNK = 64
"""Pieces that are heard together: silence around each takes 9 MB while it is."""

RANGE = 8.0
"""How far below the loudest a spectrum is cut, log10 of power."""


def positions(tokens: int, channels: int) -> Tensor:
    """Return the sine table that is added to prompts, [tokens, channels] float32.

    pe[p, 2 i] = sin(p * 10000^(-2 i / channels)) and pe[p, 2 i + 1] = cos of the same (Vaswani et al.,
    arXiv:1706.03762, section 3.5).
    """
    rate = torch.exp(torch.arange(0, channels, 2).float() * (-math.log(10_000.0) / channels))
    angle = torch.arange(tokens).float()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


@functools.cache
def _bands(device: torch.device) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=BANDS,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=SPEECH_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(bank.T, np.float32)).to(device)


def _levels(pieces: Tensor) -> Tensor:
    """Return [B, BANDS, n] log10 of the mel bands' power; `pieces` is [B, n * HOP] from -1 to 1."""
    window = torch.hann_window(N_FFT, device=pieces.device)
    spectra = torch.stft(pieces, N_FFT, HOP, window=window, return_complex=True)[..., :-1]
    power = _bands(pieces.device) @ spectra.abs().square()
    return power.clamp(min=1e-10).log10()


def _scaled(levels: Tensor, floor: Tensor) -> Tensor:
    return (torch.maximum(levels, floor) + 4.0) / 4.0


def logmel(pieces: Tensor) -> Tensor:
    """Return Whisper's log-mel spectra, each cut RANGE below its own maximum.

    Args:
        pieces: [B, n * HOP] float32 samples from -1 to 1.

    Returns:
        [B, BANDS, n].
    """
    levels = _levels(pieces)
    return _scaled(levels, levels.amax(dim=(1, 2), keepdim=True) - RANGE)


def stream_logmel(pieces: Tensor, floors: Sequence[float] = FLOORS) -> tuple[Tensor, Tensor]:
    """Return log-mel spectra that are cut at one of some floors, and at which.

    The next floor above RANGE below the maximum is taken: an utterance's loudest is yet to come.

    Args:
        pieces: [B, n * HOP] float32 samples from -1 to 1.
        floors: ascending in even steps.

    Returns:
        [B, BANDS, n], and [B] int64: which floor.
    """
    levels = _levels(pieces)
    step = (floors[-1] - floors[0]) / max(1, len(floors) - 1) or 1.0
    wanted = (levels.amax(dim=(1, 2)) - (RANGE + floors[0])) / step
    floor = wanted.ceil().clamp(0, len(floors) - 1).long()
    return _scaled(levels, (floor * step + floors[0])[:, None, None]), floor


def prompts_at(states: Tensor, first_rows: Tensor) -> Tensor:
    """Return prompts of ROWS rows, time-major: token = row * S + state.

    Args:
        states: [R, S, C].
        first_rows: [F] int64: where the prompts begin. Rows before the first and after the last are zeros.

    Returns:
        [F, ROWS * S, C].
    """
    rows = first_rows[:, None] + torch.arange(ROWS, device=states.device)
    inside = (rows >= 0) & (rows < len(states))
    taken = states[rows.clamp(0, len(states) - 1)] * inside[..., None, None]
    return taken.flatten(1, 2)


def whole(hear: Callable[[Tensor], Tensor], speech: Tensor, fps: float = 25) -> Tensor:
    """Return the prompts of a whole recording, as the official code makes them.

    Args:
        hear: log-mel spectra [1, BANDS, 3000] to states [1, 1500, S, C].
        speech: [n] float32 from -1 to 1.
        fps: frames per second; the official code drops its fraction.

    Returns:
        [floor(n / 16000 * fps), ROWS * S, C], positions not added.
    """
    fps = int(fps)
    pieces = [functional.pad(piece, (0, PIECE - len(piece))) for piece in torch.split(speech, PIECE)]
    states = torch.cat([hear(logmel(piece[None]))[0] for piece in pieces])
    kept = states[: math.floor(len(speech) / SPEECH_HZ * ROWS_HZ)]
    frames = torch.arange(math.floor(len(speech) / SPEECH_HZ * fps), device=states.device)
    before = PADDING * math.ceil(ROWS_HZ / fps)
    return prompts_at(kept, frames * ROWS_HZ // fps - before)


def pieces(window: Window, native: NativeFrames, fps: int) -> tuple[Tensor, Tensor]:
    """Cut the sound of native frames out of a window.

    Frames near the utterance's start have less before them: their pieces begin with it, as the official
    code's do.

    Args:
        window: speech with the context that the model asks for.
        native: the frames.
        fps: the session's frames per second.

    Returns:
        [F, HEARD + AFTER] float32 from -1 to 1, and [F] int64: the row of the utterance that each begins at.
    """
    frames = np.arange(native.first, native.first + native.count)
    starts = np.maximum(frames * FRAME_SAMPLES - CONTEXT, 0)
    stops = (frames + 1) * FRAME_SAMPLES + LOOKAHEAD
    origin = speech_index(window.first_frame, fps) - window.left_context
    cut = np.zeros((native.count, HEARD + AFTER), np.float32)
    for row, start, stop in zip(cut, starts - origin, stops - origin, strict=True):
        heard = window.speech[start:stop]
        row[: len(heard)] = heard
    cut *= 1.0 / 32_768.0
    return torch.from_numpy(cut), torch.from_numpy(starts // ROW_SAMPLES)


class Hearing:
    """Turns windows into prompts.

    Args:
        encoder: what hears pieces.
        states: S.
        channels: C.
        fps: the sessions' frames per second.
        device: where to compute.
        dtype: in what the encoder computes.
    """

    def __init__(
        self,
        encoder: PieceEncoder,
        *,
        states: int,
        channels: int,
        fps: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._encoder = encoder
        self._fps = fps
        self._device = device
        self._dtype = dtype
        self._positions = positions(ROWS * states, channels).to(device)
        self._last_place = encoder.places - (HEARD + AFTER) // ROW_SAMPLES

    def listen(self, windows: Sequence[Window], natives: Sequence[NativeFrames]) -> Tensor:
        """Return [F, ROWS * S, C] prompts, positions added, of all native frames of all windows, in order."""
        cut = [pieces(window, native, self._fps) for window, native in zip(windows, natives, strict=True)]
        sound = torch.cat([piece for piece, _ in cut]).to(self._device)
        starts = torch.cat([start for _, start in cut]).to(self._device)
        frames = np.concatenate([np.arange(native.first, native.first + native.count) for native in natives])
        rows = torch.from_numpy(2 * (frames - PADDING)).to(self._device)
        parts = zip(*(torch.split(values, CHUNK) for values in (sound, starts, rows)), strict=True)
        return torch.cat([self._prompts(*part) for part in parts])

    def _prompts(self, sound: Tensor, starts: Tensor, rows: Tensor) -> Tensor:
        """Return the prompts of pieces, [F, ROWS * S, C].

        Args:
            sound: [F, HEARD + AFTER] as from `pieces`.
            starts: [F] int64: the row of the utterance that each piece begins at.
            rows: [F] int64: the row of the utterance that each prompt begins at.
        """
        spectra, floors = stream_logmel(sound, self._encoder.floors)
        states = self._encoder(spectra.to(self._dtype), floors, starts.clamp(max=self._last_place))
        # Before its first row an utterance has zeros, as in the official code.
        at = (rows - starts)[:, None] + torch.arange(ROWS, device=rows.device)
        taken = states[torch.arange(len(states), device=rows.device)[:, None], at.clamp(min=0)]
        taken = taken * (at >= 0)[..., None, None]
        return (taken.flatten(1, 2).float() + self._positions).to(self._dtype)
