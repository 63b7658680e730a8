"""The report of an examination, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve_app.training.evaluate import FPS, SHUT, Figures, Report

LOUDEST = 0.05
"""99th percentile of the opening up to which a face counts as still: the lips stay shut."""


def markdown(report: Report) -> str:
    """Return the tables: by voice, by phone class, and while nobody speaks."""
    return "\n".join([*_by_voice(report), "", *_by_class(report), "", *_stillness(report), ""])


def _by_voice(report: Report) -> Iterable[str]:
    yield from _head([
        "voice", "s", "opening r", "(loudness r)", "rounding r", "spreading r", "m b p shut", "(possible)",
        "f v at teeth", "(possible)", "vowels shut",
    ])  # fmt: skip
    for one in report.voices:
        yield _voice(one)
    for summary in (report.unseen, report.room, report.heard_before):
        yield _voice(summary, mark="**")


def _voice(one: Figures, mark: str = "") -> str:
    cells = [
        f"{mark}{one.name}{mark}", f"{one.seconds:.0f}", f"{mark}{one.correlation:.3f}{mark}",
        f"{one.loudness:.3f}", f"{one.rounding:.3f}", f"{one.spreading:.3f}", f"{mark}{one.shut:.1%}{mark}",
        f"{one.shut_wanted:.1%}", f"{mark}{one.contact:.1%}{mark}", f"{one.contact_wanted:.1%}",
        f"{one.shut_vowels:.1%}",
    ]  # fmt: skip
    return _row(cells)


def _by_class(report: Report) -> Iterable[str]:
    yield from _head(["phones (unseen voices)", "count", "opening wanted", "opening heard", "RMS error"])
    for one in report.classes:
        yield _row([one.name, str(one.count), f"{one.wanted:.3f}", f"{one.heard:.3f}", f"{one.error:.3f}"])


def _stillness(report: Report) -> Iterable[str]:
    yield from _head([
        "nobody speaks", "kind taught", "dBFS", "mean opening", "99th percentile", "change a frame", "still",
    ])  # fmt: skip
    for one in report.stillness:
        still = "yes" if one.highest <= LOUDEST else "no"
        yield _row([
            one.name, "yes" if one.taught else "no", f"{one.level_db:.0f}", f"{one.mean:.4f}",
            f"{one.highest:.4f}", f"{one.motion:.4f}", still,
        ])  # fmt: skip
    yield ""
    yield f"At {FPS} frames a second; lips are shut below an opening of {SHUT}."


def _head(names: Sequence[str]) -> Iterable[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
