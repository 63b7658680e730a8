"""Training learns, starts the same way every time, and goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.hearing import Hearing
from serve_app.training.export import export, trained
from serve_app.training.train import Plan, loss_of, speech_loss, train
from tests.unit.training.spoken import utterance

pytestmark = pytest.mark.unit

UTTERANCES = [utterance(), utterance("espeak test", seed=2)]


def plan(*, steps: int, seed: int = 7, keep_every: int = 200) -> Plan:
    return Plan(steps=steps, batch=1, seed=seed, keep_every=keep_every, noise_s=0.1)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    train(UTTERANCES, tmp_path, plan(steps=4))
    with pytest.raises(ValueError, match="at most 3 steps"):
        train(UTTERANCES, tmp_path, plan(steps=8))
    with pytest.raises(ValueError, match="'seed': 9"):
        train(UTTERANCES, tmp_path, plan(steps=4, seed=9))
    done = train(UTTERANCES, tmp_path, plan(steps=4))
    assert torch.equal(done.head.weight, trained(tmp_path).head.weight)


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six = plan(steps=6, keep_every=3)
    whole = train(UTTERANCES, tmp_path / "whole", six)

    from serve_app.training.augment import Augmenter

    make = Augmenter.batch

    def fail(self: Augmenter, step: int, size: int) -> object:
        if step == 5:
            raise KeyboardInterrupt
        return make(self, step, size)

    with monkeypatch.context() as patch:
        patch.setattr(Augmenter, "batch", fail)
        with pytest.raises(KeyboardInterrupt):
            train(UTTERANCES, tmp_path / "parts", six)
    parts = train(UTTERANCES, tmp_path / "parts", six)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_exported_weights_are_heard_with(tmp_path: Path) -> None:
    train(UTTERANCES, tmp_path, plan(steps=2))
    for name in ("one", "two"):
        export(trained(tmp_path), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    Hearing(30, torch.device("cpu"), tmp_path / "one.safetensors")


def test_nothing_trained_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `train` first"):
        trained(tmp_path)


def test_an_open_mouth_in_m_costs_more_than_in_a_vowel() -> None:
    wanted = torch.from_numpy(utterance().targets)[None]
    assert loss_of(wanted, wanted) == pytest.approx(0.0, abs=1e-6)
    costs = {}
    for name, look in (("m", 35), ("ɑ", 50)):
        heard = wanted.clone()
        heard[0, look - 2 : look + 2, INDEX["jawOpen"]] += 0.2
        costs[name] = float(loss_of(heard, wanted))
    assert costs["m"] > 2.0 * costs["ɑ"]


def test_a_decision_costs_where_the_mouth_moves_and_where_it_rests() -> None:
    wanted = torch.from_numpy(utterance().targets)[None]
    right = torch.where(wanted.amax(-1) > 0.02, 9.0, -9.0)
    assert speech_loss(right, wanted) < 0.05
    assert speech_loss(-right, wanted) > 5.0
    silent = torch.zeros_like(wanted)
    assert speech_loss(torch.full(silent.shape[:2], -9.0), silent) < 1e-3
    assert speech_loss(torch.full(silent.shape[:2], 9.0), silent) > 8.0


def test_nods_and_brows_alone_are_no_speech() -> None:
    wanted = torch.zeros(1, 10, len(NAMES))
    wanted[..., [INDEX["browInnerUp"], INDEX["headNod"]]] = 0.5
    assert speech_loss(torch.full((1, 10), -9.0), wanted) < 1e-3
