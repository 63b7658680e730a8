"""The measures of a face that drawing works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.avatars.bundle import SIZE, AvatarBundle, Contour, height

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """A face in portrait pixels; x rightwards, y downwards.

    Attributes:
        unit: half the mouth's width.
        x: column of the mouth's middle.
        y: height of the line between the lips there.
        line: [SIZE] height of the line between the lips at every column; level beyond the corners.
        upper_lip: thickness of the upper lip in its middle.
        lower_lip: thickness of the lower lip.
        nose: height of the nose's lower edge.
        chin: height of the chin.
        jaw_half: half the face's width at the mouth.
        face_x: middle of the face at the mouth's height.
        eyes: height of the eyes.
        left_brow: inner end of the brow on the viewer's left.
        right_brow: inner end of the other.
        brow_top: height of the brows' highest point.
    """

    unit: float
    x: float
    y: float
    line: Floats
    upper_lip: float
    lower_lip: float
    nose: float
    chin: float
    jaw_half: float
    face_x: float
    eyes: float
    left_brow: tuple[float, float]
    right_brow: tuple[float, float]
    brow_top: float

    def across(self, x: Floats) -> Floats:
        """Return columns as units right of the mouth's middle."""
        return (x - self.x) / self.unit

    def below_line(self, x: Floats, y: Floats) -> Floats:
        """Return how far places are below the line between the lips, pixels."""
        return y - np.interp(x, np.arange(SIZE, dtype=np.float64), self.line)


def measure(bundle: AvatarBundle) -> Measures:
    """Measure a face."""
    face = bundle.landmarks
    left, right = face.upper_lip_inner[0], face.upper_lip_inner[-1]
    x = float(left[0] + right[0]) / 2
    line = _lip_line(bundle)
    y = float(np.interp(x, np.arange(SIZE), line))
    jaw_left, jaw_right = _jaw_at(face.jaw, y)
    return Measures(
        unit=float(right[0] - left[0]) / 2,
        x=x,
        y=y,
        line=line,
        upper_lip=max(2.0, y - height(face.upper_lip_outer, x)),
        lower_lip=max(2.0, height(face.lower_lip_outer, x) - y),
        nose=height(face.nose, x),
        chin=float(face.jaw[:, 1].max()),
        # The cheeks beside the mouth are part of the face, whatever its contour says.
        jaw_half=max((jaw_right - jaw_left) / 2, 1.3 * float(right[0] - left[0]) / 2),
        face_x=(jaw_right + jaw_left) / 2,
        eyes=float(np.mean([face.left_iris[:, 1].mean(), face.right_iris[:, 1].mean()])),
        left_brow=(float(face.left_brow[-1, 0]), float(face.left_brow[-1, 1])),
        right_brow=(float(face.right_brow[0, 0]), float(face.right_brow[0, 1])),
        brow_top=float(min(face.left_brow[:, 1].min(), face.right_brow[:, 1].min())),
    )


def _jaw_at(jaw: Contour, y: float) -> tuple[float, float]:
    """Return where the face's edge is at a height, left and right of the chin."""
    chin = int(jaw[:, 1].argmax())
    left, right = jaw[: chin + 1], jaw[chin:]
    order = np.argsort(left[:, 1]), np.argsort(right[:, 1])
    return (
        float(np.interp(y, left[order[0], 1], left[order[0], 0])),
        float(np.interp(y, right[order[1], 1], right[order[1], 0])),
    )


def _lip_line(bundle: AvatarBundle) -> Floats:
    """Return the height of the line between the lips for every column: the darkest place near it."""
    upper, lower = bundle.landmarks.upper_lip_inner, bundle.landmarks.lower_lip_inner
    x = np.arange(SIZE, dtype=np.float64)
    guess = (np.interp(x, upper[:, 0], upper[:, 1]) + np.interp(x, lower[:, 0], lower[:, 1])) / 2
    left, right = float(upper[0, 0]), float(upper[-1, 0])
    across = np.clip((2 * x - left - right) / (right - left), -1.0, 1.0)
    reach = max(2, round(0.04 * (right - left)))
    rows = np.clip(np.round(guess)[None] + np.arange(-reach, reach + 1)[:, None], 0, SIZE - 1)  # [R, SIZE]
    luma = bundle.portrait.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    shade = luma[rows.astype(np.int64), x.astype(np.int64)]
    weights = np.exp(-(shade - shade.min(axis=0)) / 6.0)
    found = (weights * rows).sum(axis=0) / weights.sum(axis=0)
    sure = np.clip((0.95 - np.abs(across)) / 0.15, 0.0, 1.0)
    found = guess + (found - guess) * sure
    kernel = np.hanning(9)[1:-1] / np.hanning(9)[1:-1].sum()
    smoothed: Floats = np.convolve(np.pad(found, 3, mode="edge"), kernel, mode="valid")
    return smoothed
