"""The mouth moves from phone to phone as a mouth does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.models.blendshapes import INDEX, opening
from serve_app.training.phones import LIP_TO_TEETH, PAUSE, SEALED, SHAPES, Phone
from serve_app.training.targets import LOOK_S, targets

pytestmark = pytest.mark.unit


def row(*phones: tuple[str, float]) -> tuple[list[Phone], npt.NDArray[np.float32]]:
    """Return phones of given lengths, with a pause on each side, and their targets."""
    out, at = [], 0.0
    for ipa, length_s in ((PAUSE, 0.2), *phones, (PAUSE, 0.3)):
        out.append(Phone(ipa, at, at + length_s))
        at += length_s
    return out, targets(out, round(at / LOOK_S) + 1)


def apart(wanted: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return opening(torch.from_numpy(wanted)).numpy()


@pytest.mark.parametrize("stop", sorted(SEALED))
@pytest.mark.parametrize("length_s", [0.03, 0.06, 0.12])
def test_lips_shut_in_m_b_p_however_short(stop: str, length_s: float) -> None:
    phones, wanted = row(("ɑ", 0.15), (stop, length_s), ("ɑ", 0.15))
    first, last = round(phones[2].start_s / LOOK_S), round(phones[2].end_s / LOOK_S)
    assert apart(wanted)[first : last + 1].min() < 0.01
    assert apart(wanted).max() > 0.6


@pytest.mark.parametrize("fricative", sorted(LIP_TO_TEETH))
def test_lower_lip_rolls_in_for_f_v(fricative: str) -> None:
    phones, wanted = row(("æ", 0.1), (fricative, 0.08), ("i", 0.1))
    middle = round((phones[2].start_s + phones[2].end_s) / 2 / LOOK_S)
    assert wanted[middle, INDEX["mouthRollLower"]] > 0.5
    assert 0.0 < apart(wanted)[middle] < 0.3


def test_rounding_is_anticipated_further_than_the_jaw_moves() -> None:
    _, rounded = row(("s", 0.1), ("u", 0.15))
    _, spread = row(("s", 0.1), ("i", 0.15))
    during_s = slice(24, 29)
    assert (rounded[during_s, INDEX["mouthPucker"]] > spread[during_s, INDEX["mouthPucker"]] + 0.05).all()


def test_lips_open_from_a_stop_faster_than_they_close() -> None:
    phones, wanted = row(("ɑ", 0.2), ("b", 0.1), ("ɑ", 0.2))
    shut = wanted[:, INDEX["mouthClose"]] / wanted[:, INDEX["jawOpen"]]
    closing = int(((shut[:45] > 0.02) & (shut[:45] < 0.98)).sum())
    opening_ = int(((shut[45:60] > 0.02) & (shut[45:60] < 0.98)).sum())
    assert closing > opening_
    assert phones[2].ipa == "b"


def test_mouth_is_at_rest_in_a_long_pause() -> None:
    _, wanted = row(("ɑ", 0.2), (PAUSE, 0.5), ("ɑ", 0.2))
    assert np.abs(wanted[60:75]).max() < 0.02


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(SHAPES)), st.floats(0.01, 0.4)), min_size=1, max_size=30))
def test_any_row_of_phones_stays_in_range_and_is_smooth(phones: list[tuple[str, float]]) -> None:
    _, wanted = row(*phones)
    assert np.isfinite(wanted).all()
    assert wanted.min() >= 0.0
    assert wanted.max() <= 1.0
    assert (wanted[:, INDEX["mouthClose"]] <= wanted[:, INDEX["jawOpen"]] + 1e-6).all()
    assert np.abs(np.diff(wanted, axis=0)).max() < 0.5
