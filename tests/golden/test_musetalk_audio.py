"""MuseTalk's hearing against the reference's, and a stream's against that of the whole recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.models.base import ModelSpec
from serve_app.models.musetalk.architecture import OFFICIAL
from serve_app.models.musetalk.encoder import FLOORS, PieceEncoder
from serve_app.models.musetalk.hearing import (
    CONTEXT,
    LOOKAHEAD,
    PIECE,
    Hearing,
    logmel,
    positions,
    whole,
)
from serve_app.models.musetalk.networks import Networks, build
from serve_app.models.musetalk.timing import native_frames
from serve_app.models.neural.checkpoint import fill
from tests.golden import recipe
from tests.unit.models.speech import windows

pytestmark = pytest.mark.golden

CASES = recipe.cases("musetalk")
FEW = [0, 1, 38, 75, 76]
FEW_LONG = [0, 700, 748, 749, 750, 751, 752, 851]
"""The frames that the reference keeps in full detail."""

STREAM_LIMIT = 0.1
"""Root mean square difference of a stream's prompts, as a share of all prompts' spread (measured: 0.06)."""


@dataclass(frozen=True)
class Heard:
    case: str
    networks: Networks

    def waveform(self) -> Tensor:
        return CASES.tensor(f"{self.case}/audio/waveform")


@pytest.fixture(scope="module", params=["a", "b"])
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    torch.set_num_threads(1)
    networks = build(OFFICIAL, "meta")
    fill(
        networks.whisper,
        recipe.state_dict("musetalk", request.param, "whisper"),
        file=Path("recipe"),
        rename=lambda key: key.removeprefix("encoder."),
    )
    with torch.inference_mode():
        yield Heard(request.param, networks)


def test_spectra_and_states(heard: Heard) -> None:
    sound = heard.waveform()
    spectra = logmel(torch.nn.functional.pad(sound, (0, PIECE - len(sound)))[None])
    CASES.check(spectra, f"{heard.case}/audio/logmel")
    CASES.check(spectra[..., :400], f"{heard.case}/audio/logmel_head")
    CASES.check(heard.networks.hear(spectra), f"{heard.case}/audio/hidden_states")


def test_prompts(heard: Heard) -> None:
    sound = heard.waveform()
    prompts = whole(heard.networks.hear, sound)
    CASES.check(prompts, f"{heard.case}/audio/prompts_25fps")
    CASES.check(prompts[FEW], f"{heard.case}/audio/prompts_25fps_frames")
    CASES.check(prompts + positions(50, 384), f"{heard.case}/audio/prompts_25fps_pe")
    CASES.check(whole(heard.networks.hear, sound, 30), f"{heard.case}/audio/prompts_30fps")


def test_prompts_across_pieces(heard: Heard) -> None:
    copies = [heard.waveform() * torch.tensor(1 - 0.08 * number) for number in range(11)]
    sound = torch.cat(copies)
    assert len(sound) == CASES.whole(f"{heard.case}/audio/long_length")[0]
    prompts = whole(heard.networks.hear, sound)
    CASES.check(prompts, f"{heard.case}/audio/prompts_25fps_long")
    CASES.check(prompts[FEW_LONG], f"{heard.case}/audio/prompts_25fps_long_frames")


@pytest.mark.parametrize("case", ["a", "b"])
def test_positions(case: str) -> None:
    CASES.check(positions(50, 384), f"{case}/audio/pe_table")


@pytest.mark.parametrize("row", range(7))
def test_rates(row: int) -> None:
    """The rows that a frame's prompt is taken from can be read off states that count them."""
    fps, _, frames, kept, before, at = CASES.whole("a/audio/fps_table")[row]

    def counting(spectra: Tensor) -> Tensor:
        rows = torch.arange(1.0, spectra.shape[2] // 2 + 1)
        return rows[None, :, None, None]

    prompts = whole(counting, torch.zeros(len(CASES.whole("a/audio/waveform"))), float(fps))
    assert len(prompts) == frames
    # The table tells frame 10's, counted from the first of the rows put in front.
    first = int(at) - 2 * int(before)
    wanted = torch.arange(first, first + 10) + 1.0
    wanted[(wanted < 1) | (wanted > float(kept))] = 0
    assert prompts[10, :, 0].tolist() == wanted.tolist()


def test_stream_hears_nearly_what_the_whole_does(heard: Heard) -> None:
    if heard.case == "b":
        pytest.skip("one set of weights is enough; silence at every place takes seconds")
    speech = (CASES.whole("a/audio/waveform") * 32_767).astype(np.int16)
    offline = whole(heard.networks.hear, torch.from_numpy(speech.astype(np.float32) / 32_768))
    # Enough floors for this recording's loudness.
    hearing = Hearing(
        PieceEncoder(heard.networks.whisper, FLOORS[6:9]),
        states=5,
        channels=384,
        fps=25,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    spec = ModelSpec("musetalk", CONTEXT, LOOKAHEAD, 25, 512, 512)
    cut = list(windows(spec, speech, (3, 7, 12)))
    some = [window for number, window in enumerate(cut) if number in {0, 1, 4, 6}]
    natives = [native_frames(window.first_frame, window.num_frames, 25) for window in some]
    streamed = hearing.listen(some, natives) - positions(50, 384)
    frames = np.concatenate([np.arange(native.first, native.first + native.count) for native in natives])
    # The reference puts zeros behind a recording's end, which a stream does not know.
    inner = frames < len(offline) - 3
    gap = (streamed - offline[np.minimum(frames, len(offline) - 1)])[torch.from_numpy(inner)]
    errors = gap.square().mean(dim=(1, 2)).sqrt() / offline.std()
    assert inner.sum() >= 20
    assert errors.max() <= STREAM_LIMIT
    # Its own silence matters: a bare piece is heard as something else.
    native = natives[-1]
    start = native.first * 640 - CONTEXT
    bare = heard.networks.hear(
        logmel(torch.from_numpy(speech[start : start + CONTEXT + 1920] / np.float32(32_768))[None])
    )
    first = CONTEXT // 320 - 4
    apart = bare[0, first : first + 10].flatten(0, 1) - offline[native.first]
    assert apart.square().mean().sqrt() / offline.std() > 5 * STREAM_LIMIT
