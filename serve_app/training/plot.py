"""The report of an examination, as a picture: correlations, and sentences as heard and as spoken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from serve_app.models.blendshapes import opening
from serve_app.training.evaluate import FPS, Examined, Report
from serve_app.training.phones import LIP_TO_TEETH, SEALED

_WIDE, _BAR, _TRACK, _MARGIN = 1200, 26, 150, 220
_HEARD, _WANTED, _SEALED, _GRID = "#c2410c", "#94a3b8", "#dbeafe", "#e2e8f0"
_TEETH = "#dcfce7"


def draw(report: Report, sentences: Sequence[Examined], path: Path) -> None:
    """Write a PNG.

    Args:
        report: whose correlations become bars.
        sentences: each becomes a pair of curves over its phones.
        path: of the PNG.
    """
    bars = [*report.voices, report.unseen, report.room]
    height = 50 + _BAR * len(bars) + (_TRACK + 40) * len(sentences) + 20
    image = Image.new("RGB", (_WIDE, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    pen.text(
        (10, 10), "Opening of the lips: correlation with the phones (grey: loudness alone)", "black", font
    )
    span = _WIDE - _MARGIN - 80
    for row, one in enumerate(bars):
        y = 40 + row * _BAR
        pen.text((10, y), one.name[:28], "black", font)
        pen.rectangle((_MARGIN, y + 2, _MARGIN + span * max(0.0, one.correlation), y + 12), _HEARD)
        pen.rectangle((_MARGIN, y + 13, _MARGIN + span * max(0.0, one.loudness), y + 19), _WANTED)
        pen.text((_WIDE - 70, y), f"{one.correlation:.3f}", "black", font)
    for number, spoken in enumerate(sentences):
        _track(pen, font, spoken, 50 + _BAR * len(bars) + number * (_TRACK + 40))
    image.save(path, optimize=True)


def _track(
    pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, one: Examined, top: int
) -> None:
    """Draw one sentence: blue where lips are shut, green where they meet the teeth."""
    frames = min(len(one.heard), 5 * FPS)
    scale = (_WIDE - 40) / frames
    base = top + 20 + _TRACK
    pen.text((10, top), f"{one.utterance.voice}: wanted grey, heard red", "black", font)
    for phone in one.utterance.phones:
        colour = _SEALED if phone.ipa in SEALED else _TEETH if phone.ipa in LIP_TO_TEETH else None
        left, right = 20 + phone.start_s * FPS * scale, 20 + min(phone.end_s * FPS, frames) * scale
        if colour and left < right:
            pen.rectangle((left, top + 20, right, base), colour)
    pen.line((20, base, _WIDE - 20, base), _GRID)
    for side, colour, width in ((one.wanted, _WANTED, 4), (one.heard, _HEARD, 2)):
        apart = opening(torch.from_numpy(side[:frames])).numpy()
        pen.line(_points(apart, scale, base), colour, width, joint="curve")


def _points(apart: npt.NDArray[np.float32], scale: float, base: int) -> list[tuple[float, float]]:
    return [(20 + (frame + 0.5) * scale, base - float(value) * _TRACK) for frame, value in enumerate(apart)]
