"""The examination gives a perfect hearer full marks, and tells which mistakes another one makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.hearing import Hearing
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.training import plot
from serve_app.training.corpus import LOOK
from serve_app.training.evaluate import (
    FPS,
    Float32,
    by_class,
    examine,
    figures,
    in_a_room,
    listener,
    report,
    stillness,
)
from serve_app.training.noises import KINDS
from serve_app.training.scenes import SCENES
from serve_app.training.tables import markdown
from tests.unit.models.speech import sentence
from tests.unit.training.spoken import utterance

pytestmark = pytest.mark.unit

ONE = utterance()


def perfect(speech: Int16) -> Float32:
    """Return what the phones of ONE say."""
    middles = (np.arange(len(speech) * FPS // SPEECH_HZ) + 0.5) * SPEECH_HZ / FPS / LOOK
    below = middles.astype(np.int64)
    share = (middles - below)[:, None].astype(np.float32)
    return ONE.targets[below] * (1.0 - share) + ONE.targets[below + 1] * share


def gaping(speech: Int16) -> Float32:
    """Return a mouth that never shuts."""
    out = np.zeros((len(speech) * FPS // SPEECH_HZ, len(NAMES)), np.float32)
    out[:, INDEX["jawOpen"]] = np.linspace(0.5, 0.6, len(out))
    return out


def shut(speech: Int16) -> Float32:
    """Return a mouth that never opens, nearly."""
    out = np.zeros((len(speech) * FPS // SPEECH_HZ, len(NAMES)), np.float32)
    out[:, INDEX["jawOpen"]] = np.linspace(0.0, 0.01, len(out))
    return out


def test_a_perfect_hearer_has_full_marks() -> None:
    found = figures("all", examine(perfect, [ONE]))
    assert found.correlation == pytest.approx(1.0, abs=1e-5)
    assert (found.shut, found.contact, found.shut_vowels) == (1.0, 1.0, 0.0)
    assert (found.shut_wanted, found.contact_wanted) == (1.0, 1.0)
    assert found.seconds == pytest.approx(1.67)
    assert all(one.error < 1e-6 for one in by_class(examine(perfect, [ONE])))


def test_a_gaping_mouth_and_a_shut_one_are_found_out() -> None:
    never, always = figures("", examine(gaping, [ONE])), figures("", examine(shut, [ONE]))
    assert (never.shut, never.contact, never.shut_vowels) == (0.0, 0.0, 0.0)
    assert (always.shut, always.contact, always.shut_vowels) == (1.0, 0.0, 1.0)
    assert never.correlation < 0.5


def test_motion_while_nobody_speaks_is_found() -> None:
    still = stillness(shut, seed=1, seconds=2.5)
    assert all(one.highest < 0.02 for one in still)
    assert all(one.mean > 0.5 for one in stillness(gaping, seed=1, seconds=2.5))
    assert {one.name for one in still if one.taught} == {"silence", *KINDS}
    assert {one.name for one in still if not one.taught} == set(SCENES)


def test_a_second_seed_examines_with_other_sounds() -> None:
    heard: dict[int, list[Int16]] = {1: [], 2: []}
    for seed, sounds in heard.items():

        def keep(speech: Int16, kept: list[Int16] = sounds) -> Float32:
            kept.append(speech)
            return shut(speech)

        stillness(keep, seed=seed, seconds=2.5)
    same = [name for name, *both in zip(range(99), *heard.values(), strict=False) if np.array_equal(*both)]
    assert same == [0]  # silence


def test_a_room_keeps_the_length_and_the_moment() -> None:
    changed = in_a_room(3)(sentence())
    assert changed.dtype == np.int16
    assert len(changed) == len(sentence())
    level = [
        np.abs(sound.astype(float)).reshape(-1, 400).mean(1)
        for sound in (sentence()[:27200], changed[:27200])
    ]
    assert np.corrcoef(*level)[0, 1] > 0.6


def test_a_report_has_a_table_and_a_picture(tmp_path: Path) -> None:
    hearing = Hearing(FPS, torch.device("cpu"))
    found = report(hearing, [ONE], [ONE], seed=1, quiet_s=2.5)
    text = markdown(found)
    assert "| flite test |" in text
    assert "**mean of unseen voices**" in text
    assert "| m b p |" in text
    plot.draw(found, examine(listener(hearing), [ONE]), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
