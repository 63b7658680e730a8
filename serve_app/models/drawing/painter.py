"""Draws speaking faces onto a portrait at rest.

Only a rectangle from the brows to below the chin is drawn. Fields say where each place of the portrait goes
(`fields`); they are added up on a coarse lattice, inverted there (where does what is seen here come from?)
and spread over the pixels. The skin above and below the line between the lips are two layers; where neither
is, the inside of the mouth shows. Places are in portrait pixels; "head" coordinates are those of the head
that has not moved, "source" coordinates those of the portrait at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.avatars.bundle import SIZE, AvatarBundle
from serve_app.models.blendshapes import INDEX
from serve_app.models.drawing import interior
from serve_app.models.drawing.fields import JAW_TEETH, NOD_PX, ROLL, fields
from serve_app.models.drawing.measures import Measures, measure
from serve_app.models.drawing.place import Rectangle, covering
from serve_app.models.i420 import Planes, over, rounded
from serve_app.models.idle import HeadMotion, Person, half_grid
from serve_app.nouns import UInt8

REST, AWAKE = 0.02, 0.06
"""A frame whose coefficients are all below REST shows the base frame untouched; from AWAKE on they count in
full. A network that hears nothing is never quite still."""

STEP = 4
"""Pixels between places of the lattice."""

MARGIN = 24
"""Pixels around the patch that its pixels may come from: the largest shifts and more."""

TURNS = 3
"""Steps of the inversion: each leaves less than two thirds of the error."""

SWING = 5.0
"""Pixels by which the base loop's motion may move the mouth, and a little more."""


class Painter:
    """The speaking face of one avatar.

    Args:
        bundle: whose.
        body: the person cut out.
        motion: how the head moves in the base loop.
        frames: [L, SIZE * SIZE * 3 // 2] the base loop.
        device: where to draw.
    """

    def __init__(
        self, bundle: AvatarBundle, body: Person, motion: HeadMotion, frames: UInt8, device: torch.device
    ) -> None:
        self._face = face = measure(bundle)
        self._device = device
        self.patch = patch = _place(face)
        self._base = torch.from_numpy(_crops(frames, patch)).to(device)
        self._motion = motion
        self._around = around = patch.grown(MARGIN)
        self._make_sources(body)
        x = np.arange(around.x, around.x + around.w + STEP, STEP, dtype=np.float64)
        y = np.arange(around.y, around.y + around.h + STEP, STEP, dtype=np.float64)
        field = fields(face, x, y, patch.y, patch.y + patch.h)
        self._fields = torch.from_numpy(field.motion).to(device).flatten(1)
        self._shades = torch.from_numpy(field.shade).to(device)
        self._lattice = len(y), len(x)
        self._profile = torch.from_numpy(field.profile).to(device)[None]
        self._line = torch.from_numpy(face.line.astype(np.float32)).to(device)
        self._nodes_x = torch.arange(0, patch.w + STEP, STEP, device=device, dtype=torch.float32) + patch.x
        self._nodes_y = torch.arange(0, patch.h + STEP, STEP, device=device, dtype=torch.float32) + patch.y
        # The shades over the patch's own lattice.
        first = (patch.y - around.y) // STEP, (patch.x - around.x) // STEP
        # Above the cheeks nothing changes its brightness.
        self._shaded = max(0, int(face.y - 2.2 * face.unit - patch.y) // STEP * STEP)
        self._shades = self._shades[
            :,
            first[0] + self._shaded // STEP : first[0] + len(self._nodes_y),
            first[1] : first[1] + len(self._nodes_x),
        ].flatten(1)
        self._inner = self._inside()
        self._interior = interior.paint(bundle, face, device)
        self._hiding = torch.tensor([1.8, 0.15], device=device)

    def draw(self, coefficients: Tensor, base_frames: Tensor) -> Tensor:
        """Draw faces over base frames.

        Args:
            coefficients: [T, len(NAMES)] as `serve_app.models.blendshapes` names them.
            base_frames: [T] int64 in [0, L).

        Returns:
            [T, w * h * 3 // 2] uint8 I420 patches; their edge pixels are the base frame's.
        """
        out = self._base.index_select(0, base_frames)
        awake = ((coefficients.abs().amax(1, keepdim=True) - REST) / (AWAKE - REST)).clamp(0.0, 1.0)
        coefficients = coefficients * (awake * awake * (3.0 - 2.0 * awake))
        speaking = awake[:, 0].nonzero()[:, 0]
        if not len(speaking):
            return out
        # On a CPU, a few frames at a time stay in the cache.
        chunk = 4 if self._device.type == "cpu" else max(1, len(speaking))
        for some in torch.split(speaking, chunk):
            drawn = out.index_select(0, some)
            self._speak(coefficients.index_select(0, some), base_frames.index_select(0, some), drawn)
            out.index_copy_(0, some, drawn)
        return out

    def _speak(self, coefficients: Tensor, base_frames: Tensor, out: Tensor) -> None:
        """Draw frames over `out`, which holds the base frames' pixels."""
        patch = self.patch
        lips = self._lips(coefficients, self._motion.frames(base_frames))
        level = self._level.index_select(0, base_frames)
        seen = functional.grid_sample(
            self._seen.index_select(0, level), lips.grid, padding_mode="border", align_corners=False
        )
        luma = seen[:, :1]
        half = half_grid(lips.grid, self._around.w, self._around.h)
        chroma = functional.grid_sample(
            self._chroma.index_select(0, level), half, padding_mode="border", align_corners=False
        )
        luma[:, :, self._shaded :] *= lips.shade[:, None]
        self._paint_inside(lips, luma[:, 0], chroma)
        if seen.shape[1] == 2:
            luma, chroma = over(luma, chroma, seen[:, 1:], self._behind)
        area = patch.w * patch.h
        bright = out[:, :area].view(-1, patch.h, patch.w)
        colour = out[:, area:].view(-1, 2, patch.h // 2, patch.w // 2)
        rounded(luma[:, 0, 2:-2, 2:-2].clamp_(max=255.0), bright[:, 2:-2, 2:-2])
        rounded(chroma[..., 1:-1, 1:-1], colour[..., 1:-1, 1:-1])

    def _lips(self, coefficients: Tensor, motion: HeadMotion) -> _Lips:
        """Find where every pixel comes from."""
        face, patch, around = self._face, self.patch, self._around
        frames = len(coefficients)
        head = self._on_head(motion)  # [T, 2, gh, gw]
        places = head[:, None].expand(-1, 2, -1, -1, -1).flatten(0, 1)  # [T * 2, 2, gh, gw]
        field = (coefficients @ self._fields).view(frames * 2, 2, *self._lattice)
        source = places
        for _ in range(TURNS):
            source = places - functional.grid_sample(
                field, self._on_lattice(source), padding_mode="border", align_corners=True
            )
        # [T, 2, 3, gh, gw]: where from, on the source picture from -1 to 1, and how far below the lips' line.
        source = source.view(frames, 2, 2, *source.shape[2:])
        below = source[:, :, 1] - self._line_at(source[:, :, 0])
        rolled = ROLL * functional.grid_sample(
            self._profile.expand(frames, -1, -1, -1),
            self._on_lattice(source[:, 0]),
            padding_mode="border",
            align_corners=True,
        )
        press = 0.12 * coefficients[:, INDEX["mouthPress"]]
        roll_upper = (coefficients[:, INDEX["mouthRollUpper"]] + press) * face.upper_lip
        roll_lower = (coefficients[:, INDEX["mouthRollLower"]] + press) * face.lower_lip
        below[:, 0] += roll_upper[:, None, None] * rolled[:, 0]
        below[:, 1] -= roll_lower[:, None, None] * rolled[:, 0]
        coarse = torch.stack(
            [
                (source[:, :, 0] + (0.5 - around.x)) * (2.0 / around.w) - 1.0,
                (source[:, :, 1] + (0.5 - around.y)) * (2.0 / around.h) - 1.0,
                below,
            ],
            dim=2,
        )
        shade = (coefficients @ self._shades).view(frames, 1, -1, source.shape[4])
        first, last = self._split
        upper = _spread(coarse[:, 0, :, : last // STEP + 1])[..., : patch.w]
        lower = _spread(coarse[:, 1, :, first // STEP :])[..., : patch.w]
        grid = torch.empty(frames, patch.h, patch.w, 2, device=self._device)
        places = grid.permute(0, 3, 1, 2)
        places[:, :, :first] = upper[:, :2, :first]
        places[:, :, last:] = lower[:, :2, last - first : patch.h - first]
        upper, lower = upper[:, :, first:last], lower[:, :, : last - first]
        # Where the lips touch, a pixel is between the two edges.
        share = (0.5 + 0.5 * (upper[:, 2:] + lower[:, 2:])).clamp_(0.0, 1.0)
        places[:, :, first:last] = torch.lerp(upper[:, :2], lower[:, :2], share)
        inner = self._inner
        part = slice(inner.y - first, inner.y - first + inner.h), inner.columns
        return _Lips(
            grid,
            1.0 + _spread(shade)[:, 0, : patch.h - self._shaded, : patch.w],
            upper[:, 2][:, *part],
            lower[:, 2][:, *part],
            *self._mouth_place(coefficients, motion),
            coefficients,
        )

    def _on_head(self, motion: HeadMotion) -> Tensor:
        """Return the lattice in head coordinates, [T, 2, gh, gw]."""
        rows, columns = (nodes.long().clamp(max=SIZE - 1) for nodes in (self._nodes_y, self._nodes_x))
        right, down = motion.at(rows, columns)
        return torch.stack([self._nodes_x - right, self._nodes_y[:, None] - down], dim=1)

    def _on_lattice(self, places: Tensor) -> Tensor:
        """Return [N, 2, h, w] portrait pixels as places on the fields' lattice, [N, h, w, 2] from -1 to 1."""
        rows, columns = self._lattice
        scale = torch.tensor([2.0 / (STEP * (columns - 1)), 2.0 / (STEP * (rows - 1))], device=self._device)
        origin = torch.tensor([float(self._around.x), float(self._around.y)], device=self._device)
        return (places.permute(0, 2, 3, 1) - origin) * scale - 1.0

    def _line_at(self, x: Tensor) -> Tensor:
        """Return the height of the line between the closed lips at fractional columns."""
        x = x.clamp(0.0, SIZE - 1.001)
        left = x.long()
        return torch.lerp(self._line[left], self._line[left + 1], x - left)

    def _mouth_place(self, coefficients: Tensor, motion: HeadMotion) -> tuple[Tensor, Tensor]:
        """Return the inner pixels as units right of and below the mouth's middle, [T, h, w] each."""
        face, inner, patch = self._face, self._inner, self.patch
        middle = torch.tensor([round(face.y)]), torch.tensor([round(face.x)])
        right, fallen = (part[:, 0, 0, None] for part in motion.at(*(at.to(self._device) for at in middle)))
        x = torch.arange(inner.w, device=self._device) + float(patch.x + inner.x)
        y = torch.arange(inner.h, device=self._device) + float(patch.y + inner.y)
        fallen = fallen + coefficients[:, INDEX["headNod"], None] * NOD_PX
        tilt = motion.tilt[:, round(face.y), None, None] * (x - face.x)
        across = (x - face.x - right) / face.unit
        down = (y - face.y - fallen) / face.unit
        return across[:, None].expand(-1, inner.h, -1), down[..., None] - tilt / face.unit

    def _paint_inside(self, lips: _Lips, luma: Tensor, chroma: Tensor) -> None:
        """Paint teeth, tongue and the dark between the lips over the warped portrait."""
        # Pixels below the upper lip's edge, and above the lower lip's.
        under, above = lips.under_upper, -lips.under_lower
        shown = ((under + 0.5).clamp(0.0, 1.0) + (above + 0.5).clamp(0.0, 1.0) - 1.0).clamp_(min=0.0)
        # Lips that merely touch leave no gap, whatever the lattice rounds off.
        shown *= (under + above - 0.3).clamp(0.0, 1.0)
        # Pressed lips meet in a crease.
        press = lips.coefficients[:, [INDEX["mouthPress"], INDEX["mouthRollUpper"]]].amax(1)[:, None, None]
        crease = (1.0 - ((under - above) * (0.5 / 2.2)).square()).clamp_(min=0.0)
        crease *= (1.0 - lips.across.square()).clamp_(min=0.0) * press.clamp(max=0.6)
        box = _used(torch.maximum(shown, crease))
        if box is None:
            return
        part = lips.inner(box)
        shown, crease = shown[:, box.rows, box.columns], crease[:, box.rows, box.columns]
        paint = self._painted(part)
        x, y = self._inner.x + box.x, self._inner.y + box.y
        mine = luma[:, y : y + box.h, x : x + box.w]
        mine *= 1.0 - 0.6 * crease
        mine += (paint[:, 0] - mine) * shown
        cover = functional.avg_pool2d(shown[:, None], 2)
        tint = functional.avg_pool2d(paint[:, 1:] * shown[:, None], 2)
        colour = chroma[:, :, y // 2 : (y + box.h) // 2, x // 2 : (x + box.w) // 2]
        colour *= 1.0 - cover
        colour += tint

    def _painted(self, lips: _Lips) -> Tensor:
        """Return what is behind the lips, [T, 3, h, w] Y, U, V."""
        unit = self._face.unit
        under, above = lips.under_upper, -lips.under_lower
        depth = (torch.minimum(under, above) / (0.16 * unit)).clamp(0.0, 1.0)[:, None]
        soft = self._interior.soft[:, None, None]
        paint = torch.lerp(soft, self._interior.dark[:, None, None], depth)
        # Lips throw shade on what is right behind them.
        shaded = 0.78 + 0.22 * (under / (0.12 * unit)).clamp(0.0, 1.0)
        shaded = shaded * (0.88 + 0.12 * (above / (0.07 * unit)).clamp(0.0, 1.0))
        for picture, light in self._pictures(lips):
            cover = picture[:, 3:]
            lit = (shaded * light)[:, None]
            # Teeth and tongue in the shade take on its warm colour.
            paint = paint * (1.0 - cover) + picture[:, :3] * lit + soft * (cover * (1.0 - lit))
        return paint

    def _pictures(self, lips: _Lips) -> list[tuple[Tensor, Tensor]]:
        """Return the pictures of the mouth in place, the farthest first, and how much light they get."""
        coefficients = lips.coefficients
        jaw = coefficients[:, INDEX["jawOpen"], None, None]
        tongue = coefficients[:, INDEX["tongueOut"], None, None]
        rounded_lips = coefficients[:, [INDEX["mouthPucker"], INDEX["mouthFunnel"]]] @ self._hiding
        hidden = (rounded_lips - 0.3).clamp(0.0, 0.9)[:, None, None]
        dropped = JAW_TEETH * jaw
        # The tip rises from behind the lower teeth to the edge of the upper ones.
        behind = interior.LOWER_EDGE + dropped + 0.1
        before = torch.minimum(behind, torch.full_like(behind, interior.UPPER_EDGE - 0.08))
        tip = behind + (before - behind) * (tongue / 0.8).clamp(max=1.0)
        shifts = [torch.zeros_like(dropped), dropped, tip - interior.TIP_TOP]
        height = interior.BOTTOM - interior.TOP
        pictures = []
        for number, shift in enumerate(shifts):
            grid = torch.stack(
                [
                    lips.across / interior.HALF_WIDTH,
                    (lips.down - shift - interior.TOP) * (2.0 / height) - 1.0,
                ],
                dim=3,
            )
            picture = self._interior.pictures[number : number + 1].expand(len(grid), -1, -1, -1)
            pictures.append(functional.grid_sample(picture, grid, align_corners=False))
        upper, lower, tip_picture = pictures
        tip_picture = tip_picture * (tongue[:, None] / 0.25).clamp(max=1.0)
        # Rounded lips stand before the teeth: those lie in the dark.
        upper, lower = upper * (1.0 - hidden[:, None]), lower * (1.0 - hidden[:, None])
        light = 1.0 - 0.3 * hidden
        return [(lower, 0.94 * light), (upper, light), (tip_picture, light)]

    def _make_sources(self, body: Person) -> None:
        """Keep what the patch is drawn from."""
        around, patch = self._around, self.patch
        crops = [face.crop(around.x, around.y, around.w, around.h) for face in body.faces]
        cover = body.cover[:, around.rows, around.columns]
        # Brightness and cover share their places. Where nothing shines through, cover is left out.
        planes = [[crop.luma] if bool((cover > 0.995).all()) else [crop.luma, cover] for crop in crops]
        self._seen = torch.stack([torch.cat(plane) for plane in planes])
        self._chroma = torch.stack([crop.chroma for crop in crops])
        self._level = body.level
        self._behind: Planes = body.background.crop(patch.x, patch.y, patch.w, patch.h)

    def _inside(self) -> Rectangle:
        """Return where the inside of the mouth can show, in the patch; and split its rows between the lips.

        Rows above `_split[0]` show the upper layer alone, those from `_split[1]` on the lower one alone.
        """
        face, patch = self._face, self.patch
        line = face.line[round(face.x - face.unit) : round(face.x + face.unit) + 1]
        top = line.min() - 0.5 * face.unit - SWING - patch.y
        bottom = line.max() + 1.15 * face.unit + SWING - patch.y
        first, last = int(top) // STEP * STEP, -int(-bottom // STEP) * STEP
        self._split = max(STEP, first), min(patch.h - STEP, last)
        aside = 1.25 * face.unit + SWING
        box = covering(face.x - aside - patch.x, self._split[0], face.x + aside - patch.x, self._split[1])
        return Rectangle(box.x, box.y, min(box.w, patch.w - box.x), box.h)


@dataclass(frozen=True, slots=True)
class _Lips:
    """Where the pixels of T frames come from.

    Attributes:
        grid: [T, h, w, 2] places on the source picture, from -1 to 1.
        shade: [T, h', w] factor of brightness of the lower rows, from the cheeks down.
        under_upper: [T, ih, iw] pixels below the upper lip's edge, of the inner rectangle.
        under_lower: [T, ih, iw] pixels below the lower lip's edge.
        across: [T, ih, iw] units right of the mouth's middle, on the skull.
        down: [T, ih, iw] units below the closed lips' middle, on the skull.
        coefficients: [T, len(NAMES)].
    """

    grid: Tensor
    shade: Tensor
    under_upper: Tensor
    under_lower: Tensor
    across: Tensor
    down: Tensor
    coefficients: Tensor

    def inner(self, box: Rectangle) -> _Lips:
        """Return them with a part of the inner rectangle."""
        rows, columns = box.rows, box.columns
        return replace(
            self,
            under_upper=self.under_upper[:, rows, columns],
            under_lower=self.under_lower[:, rows, columns],
            across=self.across[:, rows, columns],
            down=self.down[:, rows, columns],
        )


def _place(face: Measures) -> Rectangle:
    """Return the patch: all that moves, and space for the head's motion."""
    aside = 1.17 * face.jaw_half
    bottom = face.chin + 1.3 * face.unit
    return covering(face.face_x - aside, face.brow_top - 22.0, face.face_x + aside, bottom, STEP)


def _used(shown: Tensor) -> Rectangle | None:
    """Return the rectangle of [T, h, w] outside of which all is 0; None where all is."""
    rows, columns = (shown.amax(dim).amax(0).nonzero()[:, 0] for dim in (2, 1))
    if not len(rows):
        return None
    y, x = int(rows[0]) // 2 * 2, int(columns[0]) // 2 * 2
    h, w = int(rows[-1]) + 1 - y, int(columns[-1]) + 1 - x
    return Rectangle(x, y, w + w % 2, h + h % 2)


def _spread(coarse: Tensor) -> Tensor:
    """Spread a [T, C, h, w] lattice over its pixels, [T, C, STEP * (h - 1) + 1, STEP * (w - 1) + 1]."""
    size = [STEP * (side - 1) + 1 for side in coarse.shape[2:]]
    return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def _crops(frames: UInt8, patch: Rectangle) -> UInt8:
    """Return the patch's pixels of every base frame, [L, w * h * 3 // 2]."""
    length, area = len(frames), SIZE * SIZE
    half = (
        slice(patch.y // 2, (patch.y + patch.h) // 2),
        slice(patch.x // 2, (patch.x + patch.w) // 2),
    )
    luma = frames[:, :area].reshape(length, SIZE, SIZE)[:, patch.rows, patch.columns]
    chroma = frames[:, area:].reshape(length, 2, SIZE // 2, SIZE // 2)[:, :, *half]
    return np.concatenate([luma.reshape(length, -1), chroma.reshape(length, -1)], axis=1)
