"""Prompts of a stream: the same whatever the window, as a whole recording's where nothing is cut off."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from serve_app.models.base import ModelSpec
from serve_app.models.musetalk.architecture import SMALL
from serve_app.models.musetalk.encoder import FLOORS, PieceEncoder
from serve_app.models.musetalk.hearing import (
    CONTEXT,
    LOOKAHEAD,
    ROWS,
    Hearing,
    pieces,
    positions,
    prompts_at,
    stream_logmel,
)
from serve_app.models.musetalk.networks import Networks, load
from serve_app.models.musetalk.timing import native_frames, samples_after, samples_before
from serve_app.nouns import Int16
from tests.unit.models.speech import sentence, silence, voiced, windows

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.set_num_threads(1)
    return load("random", CPU, torch.float32)


def hearing(networks: Networks, fps: int) -> Hearing:
    return Hearing(
        PieceEncoder(networks.whisper),
        states=SMALL.whisper["encoder_layers"] + 1,
        channels=SMALL.whisper["d_model"],
        fps=fps,
        device=CPU,
        dtype=torch.float32,
    )


def spec(fps: int) -> ModelSpec:
    return ModelSpec("m", CONTEXT + samples_before(fps), LOOKAHEAD + samples_after(fps), fps, 512, 512)


def listen(networks: Networks, speech: Int16, sizes: Sequence[int], fps: int = 25) -> dict[int, Tensor]:
    """Return the prompts of native frames, by frame."""
    heard: dict[int, Tensor] = {}
    for window in windows(spec(fps), speech, sizes):
        native = native_frames(window.first_frame, window.num_frames, fps)
        prompts = hearing(networks, fps).listen([window], [native])
        assert len(prompts) == native.count
        for number, prompt in enumerate(prompts, native.first):
            # Neighbouring windows of other rates share native frames.
            if number in heard:
                torch.testing.assert_close(prompt, heard[number], rtol=0, atol=1e-4)
            heard[number] = prompt
    return heard


@pytest.mark.parametrize("fps", [12, 25, 30])
def test_cuts_do_not_change_prompts(networks: Networks, fps: int) -> None:
    whole = listen(networks, sentence(), (1000,), fps)
    for sizes in ((1,), (3, 5, 7)):
        cut = listen(networks, sentence(), sizes, fps)
        # The last window of another cut may hear of a native frame that no other needs.
        for number in whole.keys() & cut.keys():
            torch.testing.assert_close(cut[number], whole[number], rtol=0, atol=1e-4)


def test_prompts_of_two_windows_are_those_of_each(networks: Networks) -> None:
    one, other = (list(windows(spec(25), speech, (9,))) for speech in (sentence(), voiced("ah", 0.5)))
    mixed = [one[2], other[0], one[0]]
    natives = [native_frames(window.first_frame, window.num_frames, 25) for window in mixed]
    together = hearing(networks, 25).listen(mixed, natives)
    alone = [
        hearing(networks, 25).listen([window], [native])
        for window, native in zip(mixed, natives, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_rows_before_the_utterance_are_zero(networks: Networks) -> None:
    heard = listen(networks, sentence(), (5,))
    states, channels = SMALL.whisper["encoder_layers"] + 1, SMALL.whisper["d_model"]
    table = positions(ROWS * states, channels)
    for frame, rows in ((0, 4), (1, 2), (2, 0)):
        features = (heard[frame] - table).view(ROWS, states, channels)
        assert not features[:rows].any()
        assert (features[rows:].abs().amax(dim=(1, 2)) > 0.01).all()


def test_what_was_said_long_before_is_forgotten(networks: Networks) -> None:
    late = CONTEXT // 640 + 3
    loud = [voiced("ah", 0.08), silence(CONTEXT / 16_000 + 0.04), sentence()]
    speech = torch.cat([torch.from_numpy(part) for part in loud]).numpy()
    quiet = speech.copy()
    quiet[: 2 * 640] = 0
    with_it, without = listen(networks, speech, (12,)), listen(networks, quiet, (12,))
    torch.testing.assert_close(with_it[late], without[late], rtol=0, atol=0)
    assert (with_it[late - 3] - without[late - 3]).abs().max() > 1e-4


def test_long_utterances_stay_at_the_last_places(networks: Networks) -> None:
    # The small encoder has places for 3 s.
    speech = torch.from_numpy(sentence()).repeat(4).numpy()
    heard = listen(networks, speech, (12,))
    assert len(heard) == len(speech) // 640 + (len(speech) % 640 > 0)
    assert all(prompt.isfinite().all() for prompt in heard.values())


def test_pieces_begin_with_the_utterance() -> None:
    speech = sentence()
    (window,) = windows(spec(25), speech, (1000,))
    sound, starts = pieces(window, native_frames(0, window.num_frames, 25), 25)
    assert starts.tolist() == [0] * window.num_frames
    wanted = torch.from_numpy(speech[: 11 * 640 + LOOKAHEAD]) / 32_768
    torch.testing.assert_close(sound[10, : len(wanted)], wanted)
    assert not sound[10, len(wanted) :].any()


def test_floor_is_the_next_above() -> None:
    sound = torch.stack([torch.from_numpy(voiced("ah", 1.0, rms)) / 32_768 for rms in (0.02, 0.2)])
    spectra, floors = stream_logmel(sound)
    loudest = spectra.amax(dim=(1, 2)) * 4 - 4
    for floor, peak in zip(floors.tolist(), loudest.tolist(), strict=True):
        assert 0 <= FLOORS[floor] - (peak - 8) < 0.5
    assert floors[0] < floors[1]
    nothing, lowest = stream_logmel(torch.zeros(1, 16_000))
    assert lowest.tolist() == [0]
    assert (nothing == (FLOORS[0] + 4) / 4).all()


def test_piece_in_silence_is_heard_as_the_whole(networks: Networks) -> None:
    """Where all else is silence, putting a piece among silent keys is the encoder's own first layer."""
    places = networks.whisper.config.max_source_positions
    encoder = PieceEncoder(networks.whisper)
    floor = 6
    quiet = (FLOORS[floor] + 4) / 4
    torch.manual_seed(0)
    piece = torch.rand(1, 80, 40) + quiet
    piece[..., -8:] = quiet
    whole = torch.full((1, 80, 2 * places), quiet)
    whole[..., :40] = piece
    heard = encoder(piece, torch.tensor([floor]), torch.tensor([0]))
    wanted = networks.hear(whole)[:, :20]
    # The last row's convolution misses a neighbour; deeper layers miss what silence makes of the piece.
    torch.testing.assert_close(heard[:, :18, :2], wanted[:, :18, :2], rtol=0, atol=0.02)
    spread = wanted[:, :18].std()
    assert (heard - wanted)[:, :18].square().mean().sqrt() < 0.05 * spread
    bare = networks.hear(piece)
    assert (bare - wanted)[:, :18].square().mean().sqrt() > (heard - wanted)[:, :18].square().mean().sqrt()


def test_prompts_are_time_major() -> None:
    states = torch.arange(40.0).view(20, 2, 1)
    (prompt,) = prompts_at(states, torch.tensor([3]))
    assert prompt[:, 0].tolist() == list(range(6, 26))
    (early,) = prompts_at(states, torch.tensor([-2]))
    assert early[:4].eq(0).all()
    assert early[4:, 0].tolist() == list(range(16))
