"""`avatar models`: what weights there are, under which terms, and fetching them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from serve_app.weights.cache import WeightsCache
from serve_app.weights.catalogue import CATALOGUE, Weights, weights_of

FOLDER = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="AVATAR_MODELS",
    help="where they lie (or AVATAR_MODELS)  [default: ~/.serve-app/models]",
)

NAME = click.argument("name", type=click.Choice(sorted(CATALOGUE)))


@click.group()
def models() -> None:
    """Weights of the neural models."""


@models.command("list")
@FOLDER
def list_models(folder: Path | None) -> None:
    """List the models that need weights, and which are here."""
    cache = WeightsCache(folder)
    for weights in CATALOGUE.values():
        state = "here" if cache.fault(weights) is None else "not here"
        click.echo(f"{weights.model:<14}{_size(weights.size_bytes):>8}  {state:<10}{weights.title}")


@models.command()
@NAME
@FOLDER
def show(name: str, folder: Path | None) -> None:
    """Show the files of a model's weights, their sums and their terms."""
    weights, cache = weights_of(name), WeightsCache(folder)
    record = cache.record(name)
    click.echo(f"{weights.title}\n{cache.folder_of(name)}: {cache.fault(weights) or 'complete'}\n")
    for file in weights.files:
        recorded = record.get(file.path)
        known = file.sha256 or (f"{recorded.sha256} (as fetched)" if recorded else "none published")
        click.echo(f"{file.path}  {_size(file.size_bytes or 0)}\n  {file.url}\n  SHA-256 {known}")
    click.echo(f"\n{_terms(weights)}")


@models.command()
@NAME
@click.option("--from", "source", help="folder or fsspec URL (s3://…, gs://…) with the files, for the hub's")
@click.option("--accept-licences", is_flag=True, help="agree to the terms without being asked")
@FOLDER
def pull(name: str, source: str | None, accept_licences: bool, folder: Path | None) -> None:
    """Fetch a model's weights once for this machine; what is there is checked and stays."""
    from serve_app.weights.fetch import pull as fetch

    weights, cache = weights_of(name), WeightsCache(folder)
    if not cache.has_consent(weights):
        click.echo(f"{_terms(weights)}\n")
        if not accept_licences:
            _ask(weights)
        cache.note_consent(weights)
    with _Bar() as bar:
        where = fetch(weights, cache, source=source, progress=bar.show)
    click.echo(f"{weights.model} is in {where}")


def _ask(weights: Weights) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("the terms above want an answer: --accept-licences gives it")
    click.confirm(f"Fetch {_size(weights.size_bytes)} under these terms?", abort=True)


class _Bar:
    """A progress bar in bytes, begun anew for each file."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=None)
        self._file = ""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, file: str, done: int, total: int) -> None:
        """Tell how much of a file there is."""
        if file != self._file:
            self._file = file
            self._bar.reset(total or None)
            self._bar.set_description(file)
        self._bar.update(done - self._bar.n)


def _terms(weights: Weights) -> str:
    lines = [
        f"- {licence.covers}: {licence.name}\n  {licence.summary}\n  {licence.url}"
        for licence in weights.licences
    ]
    return "\n".join([f"Terms of the weights of {weights.model}:", *lines])


def _size(size_bytes: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes} B"
