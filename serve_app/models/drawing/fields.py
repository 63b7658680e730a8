"""How skin moves with each coefficient: fields of motion over the face, made once for an avatar.

A field says where a place of the portrait goes, in pixels, when its coefficient is 1. There are two layers,
since the skin above the line between the lips and the skin below it part: each is defined everywhere, and
they agree beyond the mouth's corners. Lengths in this module are in units (half the mouth's width) unless
named otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.models.blendshapes import INDEX, NAMES
from serve_app.models.drawing.measures import Floats, Measures

JAW_LIP, JAW_CHIN, JAW_TEETH = 0.66, 0.44, 0.56
"""How far the lower lip, the chin and the lower teeth go down with an open jaw."""

NOD_PX = 3.2
"""How far the middle of the face goes down in a full nod: its outline stays, so it seems to turn."""

BROW_PX_OF_UNIT = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """Fields over a lattice of places.

    Attributes:
        motion: [len(NAMES), 2, 2, H, W] float32: layer (above, below the lips' line), then x and y, pixels.
        shade: [len(NAMES), H, W] float32: change of brightness, as a share.
        profile: [H, W] float32: 1 in the middle of the mouth, 0 from its corners on.
    """

    motion: npt.NDArray[np.float32]
    shade: npt.NDArray[np.float32]
    profile: npt.NDArray[np.float32]


def fields(face: Measures, x: Floats, y: Floats, top: float, bottom: float) -> Fields:
    """Return the fields of a face over the lattice of columns `x` and rows `y`.

    Args:
        face: its measures.
        x: [W] pixels.
        y: [H] pixels.
        top: row from which upwards nothing moves, pixels.
        bottom: row from which downwards nothing moves, pixels.
    """
    columns, rows = np.meshgrid(x, y)
    work = _Work(face, columns, rows, top, bottom)
    motion = np.zeros((len(NAMES), 2, 2, *columns.shape))
    shade = np.zeros((len(NAMES), *columns.shape))
    for name, (above, below, light) in work.all().items():
        motion[INDEX[name], 0], motion[INDEX[name], 1] = above, below
        shade[INDEX[name]] = light
    motion *= work.frame
    shade *= work.frame
    return Fields(motion.astype(np.float32), shade.astype(np.float32), work.profile.astype(np.float32))


Motion = tuple[Floats, Floats, Floats]
"""Of one coefficient: the layer above, the layer below ([2, H, W] each), the change of brightness."""


class _Work:
    """The building blocks of the fields; see `fields` for the arguments."""

    def __init__(self, face: Measures, x: Floats, y: Floats, top: float, bottom: float) -> None:
        self.face = face
        self.unit = unit = face.unit
        self.a = face.across(x)
        self.t = face.below_line(x, y) / unit
        self.x, self.y = x, y
        self.upper_lip, self.lower_lip = face.upper_lip / unit, face.lower_lip / unit
        self.to_nose = (face.y - face.nose) / unit
        self.to_chin = (face.chin - face.y) / unit
        self.profile = np.clip(1 - self.a**2, 0.0, 1.0) ** 0.72
        # The jaw draws the lower lip down in a rounder arch.
        self.arch = np.clip(1 - self.a**2, 0.0, 1.0) ** 0.56
        # The upper lip moves with the skin up to the nose, the lower one with the skin down to the chin.
        self.hold_upper = 1 - smooth((-self.t - 0.9 * self.upper_lip) / (self.to_nose - 0.6 * self.upper_lip))
        self.hold_lower = 1 - smooth(
            (self.t - 0.9 * self.lower_lip) / (0.85 * (self.to_chin - self.lower_lip))
        )
        self.neck = 1 - smooth((y - face.chin) / (bottom - face.chin))
        self.side = 1 - smooth(np.abs(x - face.face_x) / (0.95 * face.jaw_half) - 0.22)
        self.frame = self._frame(x, y, top, bottom)
        # Corners drag the cheeks with them, less and less.
        reach = float(np.clip(0.95 * face.jaw_half / unit, 1.6, 2.3))
        far = np.clip(1 - (self.a / reach) ** 2, 0.0, 1.0) ** 2 / (1 - 1 / reach**2) ** 2
        self.pull = self.a * far * self.near(0.15, 1.3)
        # Rounding draws the corners in more than the lips' middle.
        self.purse = self.pull * np.clip(np.abs(self.a), 0.0, 1.0) ** 0.9
        # What makes the line between the lips level, for mouths whose rest is a smile.
        level = np.clip(face.y - face.line, -0.5 * unit, 0.5 * unit) / unit
        columns = np.clip(np.round(x), 0, len(level) - 1).astype(np.int64)
        self.level = level[columns] * (1 - smooth((np.abs(self.a) - 0.95) / 0.75)) * self.near(0.15, 1.0)
        self.corner = bump((np.abs(self.a) - 1.05) / 0.85) * np.clip(np.abs(self.a) / 0.8, 0, 1) ** 1.5

    def near(self, plain: float, reach: float) -> Floats:
        """Return 1 up to `plain` units from the line between the lips, falling to 0 over `reach` more."""
        return 1 - smooth((np.abs(self.t) - plain) / reach)

    def spot(self, a: float, t: float, wide: float, high: float) -> Floats:
        """Return soft spots on both sides of the mouth at (+-a, t)."""
        right = np.exp(-(((self.a - a) / wide) ** 2) - ((self.t - t) / high) ** 2)
        if a == 0:
            return right
        return right + np.exp(-(((self.a + a) / wide) ** 2) - ((self.t - t) / high) ** 2)

    def both(self, dx: Floats | float, dy: Floats | float, shade: Floats | float = 0.0) -> Motion:
        """Return a motion that is the same for the lips and all around; arguments in units."""
        motion = self.layer(dx, dy)
        return motion, motion, np.zeros_like(self.a) + shade

    def layer(self, dx: Floats | float, dy: Floats | float) -> Floats:
        """Return one layer's motion in pixels."""
        zero = np.zeros_like(self.a)
        return np.stack([zero + dx, zero + dy]) * self.unit

    def lips(
        self, dx: Floats | float, up: Floats | float, down: Floats | float, shade: Floats | float = 0.0
    ) -> Motion:
        """Return a motion that parts the lips: the upper one goes up, the lower one down."""
        return self.layer(dx, -np.asarray(up)), self.layer(dx, down), np.zeros_like(self.a) + shade

    def moved(self, motion: Motion, down: Floats) -> Motion:
        """Return a motion that also goes down, in both layers."""
        more = self.layer(0.0, down)
        return motion[0] + more, motion[1] + more, motion[2]

    def all(self) -> dict[str, Motion]:
        """Return what every coefficient moves."""
        upper, lower = self.profile * self.hold_upper, self.profile * self.hold_lower
        return {
            "jawOpen": self._jaw(upper, lower),
            "mouthClose": self.lips(
                0.0, -0.05 * upper, -JAW_LIP * self.arch * self.hold_lower, -0.04 * self._dent()
            ),
            "mouthFunnel": self._funnel(upper, lower),
            "mouthPucker": self._pucker(upper, lower),
            "mouthStretch": self._stretch(upper, lower),
            "mouthSmile": self._smile(),
            # The edge that rolls in is cut off by the painter; what is left follows to the old place.
            "mouthRollLower": self.lips(
                0.0, 0.0, -(ROLL * self.lower_lip + 0.03) * lower, -0.07 * self._dent()
            ),
            "mouthRollUpper": self.lips(0.0, -ROLL * self.upper_lip * upper, 0.0),
            "mouthPress": self._press(upper, lower),
            "mouthUpperUp": self.lips(0.0, 0.22 * upper, 0.0, -0.05 * self.spot(1.15, -0.75, 0.25, 0.4)),
            "mouthLowerDown": self.lips(0.0, 0.0, 0.3 * lower, -0.05 * self._dent()),
            "tongueOut": self.lips(0.0, 0.0, 0.1 * lower),
            "browInnerUp": self._brows(),
            "headNod": self._nod(),
        }

    def _dent(self) -> Floats:
        """Return the hollow under the lower lip."""
        return self.spot(0.0, self.lower_lip + 0.13, 0.6, 0.13)

    def _jaw(self, upper: Floats, lower: Floats) -> Motion:
        chin = JAW_CHIN * self.side
        fall = (JAW_LIP * self.arch - chin) * self.hold_lower + chin * self.neck
        # Above the line the layer below is hidden within the mouth, and agrees with the one above outside.
        outside = smooth(-self.t / 0.25) * (1 - smooth((1.0 - np.abs(self.a)) / 0.1))
        fall = fall * (1 - outside)
        shade = -0.05 * self.spot(1.45, 0.35, 0.4, 0.6) - 0.05 * self.spot(
            0.0, self.lower_lip + 0.13 + JAW_LIP, 0.6, 0.16
        )
        corners = 0.13 * self.corner * self.near(0.1, 0.9) + 0.35 * self.level
        return self.moved(self.lips(-0.12 * self.pull, 0.06 * upper, fall, shade), corners)

    def _funnel(self, upper: Floats, lower: Floats) -> Motion:
        out = self._pout(0.18)
        shade = 0.05 * self.spot(0.0, 0.3 + self.lower_lip * 0.5, 0.45, 0.12) - 0.12 * self._dent()
        shade -= 0.08 * self.spot(0.85, 0.0, 0.22, 0.3)
        parted = self.lips(-0.34 * self.purse, 0.16 * upper + out[0], 0.17 * lower + out[1], shade)
        return self.moved(parted, 0.75 * self.level)

    def _pucker(self, upper: Floats, lower: Floats) -> Motion:
        out = self._pout(0.17)
        shade = 0.08 * self.spot(0.0, self.lower_lip * 0.55, 0.35, 0.13) - 0.14 * self._dent()
        shade += 0.05 * self.spot(0.0, -self.upper_lip * 0.6, 0.35, 0.08)
        shade -= 0.1 * self.spot(0.78, 0.0, 0.2, 0.32)
        # A little of the lip's inside opens with the pout.
        parted = self.lips(-0.48 * self.purse, 0.05 * upper + out[0], 0.06 * lower + out[1], shade)
        return self.moved(parted, 0.85 * self.level)

    def _pout(self, share: float) -> tuple[Floats, Floats]:
        """Return how lips thicken as they come forward: each place away from the line, by a share of it."""
        middle = np.clip(1 - (self.a / 1.7) ** 2, 0.0, 1.0) ** 2
        # The lips' sides thicken more than their middle, which makes their outline round.
        full = 1.0 + 1.1 * np.exp(-(((np.abs(self.a) - 0.62) / 0.24) ** 2))
        # Each layer goes on beyond the line, so that there is no kink on it.
        up = np.clip(-self.t, -0.3, 1.3 * self.upper_lip) * share * middle * self.hold_upper
        down = np.clip(self.t, -0.3, 1.2 * self.lower_lip) * share * middle * self.hold_lower
        return up * (full if share > 0 else 1.0), down * (full if share > 0 else 1.0)

    def _stretch(self, upper: Floats, lower: Floats) -> Motion:
        thin = self._pout(-0.12)
        shade = -0.06 * self.spot(1.45, -0.15, 0.16, 0.4) + 0.03 * self.spot(1.9, -0.7, 0.4, 0.35)
        return self.lips(0.19 * self.pull, 0.03 * upper + thin[0], 0.04 * lower + thin[1], shade)

    def _smile(self) -> Motion:
        raised = -0.24 * self.corner * self.near(0.1, 1.2)
        cheek = -0.1 * self.spot(1.7, -1.0, 0.6, 0.5)
        shade = 0.05 * self.spot(1.8, -0.95, 0.4, 0.3) - 0.07 * self.spot(1.45, -0.45, 0.17, 0.4)
        return self.both(0.13 * self.pull, raised + cheek, shade)

    def _press(self, upper: Floats, lower: Floats) -> Motion:
        thin = self._pout(-0.18)
        up, down = thin[0] - 0.02 * upper, thin[1] - 0.03 * lower
        shade = -0.06 * self._dent() - 0.06 * self.spot(1.12, 0.0, 0.14, 0.2)
        return self.lips(0.03 * self.pull, up, down, shade)

    def _brows(self) -> Motion:
        """Raise the inner ends of the brows; the forehead above gives way, and the lids a little below."""
        face, reach = self.face, BROW_PX_OF_UNIT
        gap = max(8.0, face.eyes - (face.left_brow[1] + face.right_brow[1]) / 2)
        lift = np.zeros_like(self.a)
        for x, y in (face.left_brow, face.right_brow):
            outwards = -1.0 if x < face.face_x else 1.0
            along = (self.x - x) * outwards
            wide = np.where(along > 0, 1.6 * gap, 0.7 * gap)
            high = np.where(self.y > y, 0.62 * gap, 1.1 * gap)
            lift = np.maximum(lift, np.exp(-((along / wide) ** 2) - ((self.y - y) / high) ** 2))
        return self.both(0.0, -reach * lift)

    def _nod(self) -> Motion:
        face = self.face
        center, half = (face.brow_top + face.chin) / 2, (face.chin - face.brow_top) / 2 * 1.35
        depth = np.clip(1 - ((self.x - face.face_x) / (1.12 * face.jaw_half)) ** 2, 0.0, 1.0)
        depth *= np.clip(1 - ((self.y - center) / half) ** 2, 0.0, 1.0)
        return self.both(0.0, NOD_PX / self.unit * depth)

    def _frame(self, x: Floats, y: Floats, top: float, bottom: float) -> Floats:
        """Return 1 within the patch, 0 at its edges."""
        reach = np.abs(x - self.face.face_x) / (1.17 * self.face.jaw_half)
        frame: Floats = (1 - smooth((reach - 0.78) / 0.2)) * smooth((y - top) / 14.0)
        return frame * smooth((bottom - y) / 4.0)


ROLL = 0.6
"""The share of a lip that a full roll turns in."""


def smooth(t: Floats) -> Floats:
    """Return the smooth step from 0 at 0 to 1 at 1."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def bump(t: Floats) -> Floats:
    """Return 1 at 0, falling smoothly to 0 at -1 and 1."""
    return 1 - smooth(np.abs(t))
