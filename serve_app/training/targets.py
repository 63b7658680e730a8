"""Where a mouth is at every moment of a row of phones: coarticulation by dominance.

Each phone pulls the mouth to its shape with a dominance that is full within the phone and falls off
exponentially before and after it, and the mouth is the mean weighted by all of them (Cohen and Massaro,
"Modeling coarticulation in synthetic visual speech", 1993). Rounding is anticipated further ahead than the
jaw. Lips that shut do so whatever the neighbours want: the seal is an envelope of its own, quicker to open,
by the burst of air, than to close.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.training.phones import PAUSE, SHAPES, Phone

LOOK_S = 0.01
"""Seconds between two rows of targets."""

Float32 = npt.NDArray[np.float32]

_JAW_BEFORE_S, _JAW_AFTER_S = 0.026, 0.032
_LIPS_BEFORE_S, _LIPS_AFTER_S = 0.05, 0.032
_PAUSE_BEFORE_S, _PAUSE_AFTER_S = 0.08, 0.04

_SEAL_CLOSING_S, _SEAL_OPENING_S = 0.05, 0.03
_SEALED_SHARE = {"m": 1.0, "b": 0.78, "p": 0.65}
"""How much of the phone the lips are shut for; the rest is the burst, and in "p" the breath behind it."""

_LIPS = {
    "mouthFunnel": "funnel", "mouthPucker": "pucker", "mouthStretch": "stretch", "mouthSmile": "smile",
    "mouthUpperUp": "upper", "mouthLowerDown": "lower", "tongueOut": "tongue", "mouthRollLower": "teeth",
}  # fmt: skip


def targets(phones: Sequence[Phone], num_looks: int) -> Float32:
    """Return the coefficients at times 0, LOOK_S, 2 * LOOK_S ...

    Args:
        phones: in order of time, without gaps.
        num_looks: rows to return.

    Returns:
        [num_looks, 14]: in the order of blendshapes.NAMES; browInnerUp and headNod are 0.
    """
    out = np.zeros((num_looks, len(NAMES)), np.float32)
    if not phones:
        return out
    times = np.arange(num_looks, dtype=np.float64)[:, None] * LOOK_S  # [T, 1]
    start = np.array([phone.start_s for phone in phones])
    end = np.array([phone.end_s for phone in phones])
    shapes = [SHAPES[phone.ipa] for phone in phones]
    pause = np.array([phone.ipa == PAUSE for phone in phones])

    # The core of a phone is its middle half: its edges already belong to the way to the next one.
    edge = np.where(pause, 0.1, 0.25) * (end - start)
    edge = np.where(pause, np.minimum(edge, 0.04), edge)
    before, after = np.maximum(start + edge - times, 0.0), np.maximum(times - end + edge, 0.0)  # [T, N]
    jaw = _dominance(before, after, np.where(pause, _PAUSE_BEFORE_S, _JAW_BEFORE_S),
                     np.where(pause, _PAUSE_AFTER_S, _JAW_AFTER_S))  # fmt: skip
    lips = _dominance(before, after, np.where(pause, _PAUSE_BEFORE_S, _LIPS_BEFORE_S),
                      np.where(pause, _PAUSE_AFTER_S, _LIPS_AFTER_S))  # fmt: skip
    jaw *= np.array([shape.jaw_pull for shape in shapes])
    lips *= np.array([shape.lip_pull for shape in shapes])
    jaw /= jaw.sum(1, keepdims=True) + 1e-9
    lips /= lips.sum(1, keepdims=True) + 1e-9
    out[:, INDEX["jawOpen"]] = jaw @ np.array([shape.jaw for shape in shapes])
    for name, field in _LIPS.items():
        out[:, INDEX[name]] = lips @ np.array([getattr(shape, field) for shape in shapes])
    _seal(out, phones, times[:, 0])
    return out


def _dominance(
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    before_s: npt.NDArray[np.float64],
    after_s: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return [T, N] dominances for the seconds before and after each phone's core."""
    return np.exp(-before / before_s - after / after_s)


def _seal(out: Float32, phones: Sequence[Phone], times: npt.NDArray[np.float64]) -> None:
    """Shut the lips where they are shut, in place."""
    shut, press = np.zeros(len(times)), np.zeros(len(times))
    for phone in phones:
        if phone.ipa not in _SEALED_SHARE:
            continue
        opens_s = phone.start_s + _SEALED_SHARE[phone.ipa] * (phone.end_s - phone.start_s)
        # A closure shorter than two looks would fall between them.
        opens_s = max(opens_s, phone.start_s + 0.025)
        closing = (phone.start_s + 0.005 - times) / _SEAL_CLOSING_S
        opening = (times - opens_s) / _SEAL_OPENING_S
        envelope = _ease(1.0 - np.maximum(np.maximum(closing, opening), 0.0))
        shut = np.maximum(shut, envelope)
        press = np.maximum(press, envelope * SHAPES[phone.ipa].seal)
    jaw = out[:, INDEX["jawOpen"]]
    out[:, INDEX["mouthClose"]] = shut * jaw
    out[:, INDEX["mouthPress"]] = press
    out[:, INDEX["mouthRollUpper"]] = 0.4 * press
    roll = out[:, INDEX["mouthRollLower"]]
    np.maximum(roll, 0.45 * press, out=roll)
    for name in ("mouthUpperUp", "mouthLowerDown", "tongueOut"):
        out[:, INDEX[name]] *= 1.0 - shut


def _ease(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the smooth step from 0 at 0 to 1 at 1."""
    value = value.clip(0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)
