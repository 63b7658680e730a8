"""Trains the network: seeded, and goes on where it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from serve_app.models.blendshapes import INDEX, NAMES, opening
from serve_app.models.hearing_network import FACE, HearingNetwork, filterbank
from serve_app.training.augment import WARPS, Augmenter, Rows
from serve_app.training.corpus import Utterance

WEIGHTS = {
    "jawOpen": 3.0, "mouthClose": 2.0, "mouthRollLower": 2.0, "mouthPress": 1.5, "mouthFunnel": 1.5,
    "mouthPucker": 1.5, "mouthStretch": 1.5,
}  # fmt: skip
"""How much a coefficient's error counts; 1 for the others."""

OPENING_WEIGHT = 8.0
SEAL_WEIGHT = 7.0
"""How much more a moment counts in which the lips are shut or the lower one is at the teeth."""

GAPE_WEIGHT = 80.0
"""How much it counts that lips are open which should be shut: a missed m, b or p is seen at once, while one
too many hardly is."""

SPEECH_WEIGHT = 0.5
"""How much the decision counts whether somebody speaks."""

MOVING, RESTING = 0.04, 0.01
"""A mouth whose largest coefficient is above the first speaks, and one below the second does not; what is
between is left open."""

GATE = (0.25, 0.75)
"""The gate while it learns: it lets through more than the one that serves, so that what is unsure is still
taught its shapes."""

MOTION_WEIGHT = 4.0
"""How much the error of the change from look to look counts, against jitter."""


RISE = 60
"""Steps in which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Attributes:
        steps: batches to learn from.
        batch: rows in one.
        rate: the learning rate; it rises in the first RISE steps and falls in the last quarter.
        seed: of the first weights and of every batch.
        memory: decay of the mean of the weights, which is what is kept.
        keep_every: steps between checkpoints.
        noise_s: seconds of each kind of noise to mix with speech.
    """

    steps: int = 9000
    batch: int = 8
    rate: float = 4e-3
    seed: int = 7
    memory: float = 0.997
    keep_every: int = 200
    noise_s: float = 1200.0

    @property
    def falls_at(self) -> int:
        """The step from which the learning rate falls. Until then, plans of any number of steps are alike."""
        return self.steps * 3 // 4


def train(utterances: list[Utterance], folder: Path, plan: Plan) -> HearingNetwork:
    """Train from the folder's checkpoint on, or from the beginning where there is none.

    Raises:
        ValueError: the checkpoint was made by another plan.
    """
    torch.manual_seed(plan.seed)
    network, mean = HearingNetwork(gate=GATE), HearingNetwork()
    optimizers = _optimizers(network, plan)
    path = folder / "checkpoint.pt"
    first = _resume(path, plan, network, mean, optimizers) if path.exists() else 0
    if first == 0:
        mean.load_state_dict(network.state_dict())
    mels = torch.stack([filterbank(warp) for warp in WARPS])
    augmenter = Augmenter(utterances, seed=plan.seed, noise_s=plan.noise_s)
    folder.mkdir(parents=True, exist_ok=True)
    smooth = math.nan
    with ThreadPoolExecutor(1) as pool, (folder / "train.log").open("a") as log:
        coming = pool.submit(augmenter.batch, first, plan.batch)
        for step in (
            progress := tqdm(range(first, plan.steps), initial=first, total=plan.steps, unit="step")
        ):
            rows, coming = coming.result(), pool.submit(augmenter.batch, step + 1, plan.batch)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = plan.rate * _share(plan, step)
            loss = _learn(network, optimizers, rows, mels)
            decay = min(plan.memory, (1.0 + step) / (10.0 + step))
            with torch.no_grad():
                for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 1.0 - decay)
            smooth = loss if math.isnan(smooth) else smooth + 0.02 * (loss - smooth)
            progress.set_postfix(loss=f"{smooth:.4f}")
            if (step + 1) % plan.keep_every == 0 or step + 1 == plan.steps:
                log.write(f"{time.strftime('%H:%M:%S')} step {step + 1} loss {smooth:.5f}\n")
                log.flush()
                _keep(path, plan, step + 1, network, mean, optimizers)
    return mean


def loss_of(heard: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean error of [B, looks, 14], what a viewer notices first weighing most."""
    weights = torch.tensor([WEIGHTS.get(name, 1.0) for name in NAMES])
    sealed = wanted[..., INDEX["mouthPress"]] / 0.5 + wanted[..., INDEX["mouthRollLower"]] / 0.6
    moment = 1.0 + SEAL_WEIGHT * sealed.clamp(max=1.0)
    error = ((heard - wanted).square() * weights).sum(-1)
    apart = _signed_opening(heard) - opening(wanted)
    still = (heard.diff(dim=1) - wanted.diff(dim=1)).square().sum(-1).mean()
    sealed = (wanted[..., INDEX["mouthPress"]] > 0.3) & (opening(wanted) < 0.01)
    gape = (sealed * apart.clamp(min=0.0).square()).mean()
    shape = (moment * (error + OPENING_WEIGHT * apart.square())).mean()
    return shape + GAPE_WEIGHT * gape + MOTION_WEIGHT * still


def speech_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean error of the decision whether somebody speaks.

    Args:
        logits: [B, looks].
        wanted: [B, looks, 14]; whether a mouth moves says whether somebody speaks.
    """
    mouth = [INDEX[name] for name in NAMES if name not in FACE]
    most = wanted[..., mouth].amax(-1)
    known = (most > MOVING) | (most < RESTING)
    error = functional.binary_cross_entropy_with_logits(logits, (most > MOVING).float(), reduction="none")
    return (error * known).mean()


def _signed_opening(heard: Tensor) -> Tensor:
    """Return `opening` without its floor, where nothing could be learned."""
    bared = heard[..., INDEX["mouthUpperUp"]] + heard[..., INDEX["mouthLowerDown"]]
    return heard[..., INDEX["jawOpen"]] - heard[..., INDEX["mouthClose"]] + 0.15 * bared


def _optimizers(network: HearingNetwork, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices, which learns about twice as fast here, and AdamW for the rest."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in network.named_parameters():
        (matrices if parameter.ndim == 2 and name.startswith("blocks") else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=plan.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.02),
    ]


def _learn(
    network: HearingNetwork, optimizers: Sequence[torch.optim.Optimizer], rows: Rows, mels: Tensor
) -> float:
    speech, wanted = torch.from_numpy(rows.speech), torch.from_numpy(rows.targets)
    with torch.no_grad():
        looks = network.spectrum(speech, mels[torch.from_numpy(rows.warps)])
    heard, speech = network.shapes_and_speech(looks)
    loss = loss_of(heard, wanted) + SPEECH_WEIGHT * speech_loss(speech, wanted)
    network.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


def _share(plan: Plan, step: int) -> float:
    """Return the share of the learning rate at a step."""
    return min(1.0, (step + 1) / RISE, (plan.steps - step) / (plan.steps - plan.falls_at))


def _keep(
    path: Path,
    plan: Plan,
    step: int,
    network: HearingNetwork,
    mean: HearingNetwork,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    state: dict[str, Any] = {
        "plan": {"batch": plan.batch, "rate": plan.rate, "seed": plan.seed},
        "steps": plan.steps,
        "step": step,
        "network": network.state_dict(),
        "mean": mean.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def _resume(
    path: Path,
    plan: Plan,
    network: HearingNetwork,
    mean: HearingNetwork,
    optimizers: Sequence[torch.optim.Optimizer],
) -> int:
    state = torch.load(path, weights_only=True)
    mine = {"batch": plan.batch, "rate": plan.rate, "seed": plan.seed}
    if state["plan"] != mine:
        raise ValueError(f"expected a checkpoint of the plan {mine}, found {state['plan']} in {path}")
    alike = min(plan.falls_at, state["steps"] * 3 // 4)
    if state["steps"] != plan.steps and state["step"] > alike:
        raise ValueError(
            f"expected a checkpoint of at most {alike} steps to go on with {plan.steps} instead of "
            f"{state['steps']} steps, found one of {state['step']} in {path}"
        )
    network.load_state_dict(state["network"])
    mean.load_state_dict(state["mean"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    return int(state["step"])
