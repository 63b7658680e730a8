"""`python -m serve_app.training make | train | evaluate | export`: from nothing to the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import click

from serve_app.nouns import SPEECH_HZ
from serve_app.training import corpus
from serve_app.training.export import export as write_weights
from serve_app.training.export import trained

_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("build/hearing"), show_default=True,
    help="Where speech, checkpoints and reports are kept.",
)  # fmt: skip
_SEED = click.option("--seed", type=int, default=7, show_default=True, help="Of everything drawn by chance.")
_THREADS = click.option("--threads", type=int, default=1, show_default=True, help="Of the computation.")


@click.group()
def main() -> None:
    """Make the weights of the portrait's hearing."""


@main.command()
@_FOLDER
@_SEED
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes that speak at a time.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of the minutes of every voice.")
def make(folder: Path, seed: int, jobs: int, scale: float) -> None:
    """Speak the corpus with flite and espeak-ng; what is there already stays."""
    corpus.make(folder / "speech", seed=seed, scale=scale, jobs=jobs)


@main.command()
@_FOLDER
@_SEED
@_THREADS
@click.option("--steps", type=int, default=9000, show_default=True, help="Batches to learn from.")
def train(folder: Path, seed: int, threads: int, steps: int) -> None:
    """Train on the voices that are to be heard, from the last checkpoint on."""
    import torch

    from serve_app.training.train import Plan
    from serve_app.training.train import train as learn

    torch.set_num_threads(threads)
    learn(corpus.load(folder / "speech", heard=True), folder, Plan(steps=steps, seed=seed))


@main.command()
@_FOLDER
def export(folder: Path) -> None:
    """Write the trained weights into the package."""
    write_weights(trained(folder))


@main.command()
@_FOLDER
@_SEED
@_THREADS
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors; by default the package's own.")
def evaluate(folder: Path, seed: int, threads: int, weights: Path | None) -> None:
    """Examine the weights with voices never trained on: report.md, report.json and report.png."""
    import torch

    from serve_app.models.hearing import Hearing
    from serve_app.training import plot
    from serve_app.training.evaluate import FPS, examine, listener, report
    from serve_app.training.tables import markdown

    torch.set_num_threads(threads)
    hearing = Hearing(FPS, torch.device("cpu"), weights)
    unseen, seen = (corpus.load(folder / "speech", heard=heard) for heard in (False, True))
    found = report(hearing, unseen, seen, seed=seed)
    first = {one.voice: one for one in reversed(unseen) if len(one.speech) > 2 * SPEECH_HZ}
    plot.draw(found, examine(listener(hearing), list(first.values())), folder / "report.png")
    (folder / "report.json").write_text(json.dumps(found.as_dict(), indent=1))
    (folder / "report.md").write_text(markdown(found))
    click.echo(markdown(found))


if __name__ == "__main__":
    main()
