"""The built-in avatar, drawn by code: `python -m serve_app.avatars.drawn OUT` writes its bundle.

All places are (x, y) in pixels of the 512 x 512 portrait. Light falls from the viewer's upper left.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from serve_app.avatars.bundle import SIZE, AvatarBundle, Contour, Landmarks, Motion, save_bundle
from serve_app.avatars.canvas import Canvas, Color, Point, Points, both, curve, either, outside
from serve_app.nouns import UInt8

MIDDLE = 256.0
EYE: Point = (40.5, 219.6)
"""Distance of an iris from the middle of the face, and its height."""

SKIN: Color = (240, 199, 172)
SKIN_LIGHT: Color = (253, 224, 202)
SKIN_SHADE: Color = (204, 146, 120)
SKIN_DEEP: Color = (163, 100, 80)
BLUSH: Color = (232, 138, 122)
LIP: Color = (203, 104, 98)
LIP_LIGHT: Color = (228, 142, 132)
LIP_DEEP: Color = (142, 58, 58)
HAIR: Color = (84, 52, 38)
HAIR_LIGHT: Color = (150, 98, 66)
HAIR_DEEP: Color = (44, 26, 20)
IRIS: Color = (96, 132, 128)
IRIS_LIGHT: Color = (158, 190, 172)
IRIS_DEEP: Color = (38, 60, 64)
LASH: Color = (46, 28, 24)
CLOTH: Color = (44, 84, 104)
CLOTH_LIGHT: Color = (74, 122, 142)
CLOTH_DEEP: Color = (24, 50, 66)
WALL: Color = (178, 196, 200)
WALL_LIGHT: Color = (232, 237, 234)

_LIP_LINE: Points = [
    (218, 301.4), (236, 304.6), (248, 304.6), (256, 305.6), (264, 304.6), (276, 304.6), (294, 301.4)
]  # fmt: skip
_UPPER_LIP: Points = [
    (218, 301.4), (228, 297.6), (246, 293.0), (250.5, 293.4), (256, 295.6),
    (261.5, 293.4), (266, 293.0), (284, 297.6), (294, 301.4),
]  # fmt: skip
_LOWER_LIP: Points = [
    (218, 301.4), (228, 309.6), (242, 317.0), (256, 319.4), (270, 317.0), (284, 309.6), (294, 301.4)
]  # fmt: skip

_UPPER_LID: Points = [(22, 224), (27, 217.5), (35, 212.6), (44, 211.6), (53, 215.2), (59, 221.4)]
_LOWER_LID: Points = [(22, 224), (30, 227.6), (41, 228.8), (52, 226.6), (59, 221.4)]
"""The edges of an open eye's lids, as (distance from the middle, y), from the nose outwards."""

_HALF_FACE: Points = (
    (0, 106), (52, 114), (84, 150), (93, 200), (91, 245),
    (82, 288), (64, 326), (38, 351), (17, 360), (0, 361.5),
)  # fmt: skip
_HAIRLINE: Point = (238, 121)
_CROWN: Point = (241, 62)
_INNER_LEFT: Points = (
    _HAIRLINE,
    (206, 136),
    (180, 164),
    (167, 202),
    (160, 246),
    (156, 300),
    (152, 352),
    (158, 398),
)
_OUTER_LEFT: Points = (
    _CROWN,
    (186, 73),
    (144, 114),
    (126, 180),
    (119, 250),
    (112, 315),
    (107, 370),
    (124, 420),
)
_INNER_RIGHT: Points = (
    _HAIRLINE,
    (284, 130),
    (326, 160),
    (345, 202),
    (352, 246),
    (356, 300),
    (360, 352),
    (354, 398),
)
_OUTER_RIGHT: Points = (
    _CROWN,
    (300, 62),
    (358, 100),
    (384, 172),
    (392, 250),
    (400, 315),
    (405, 370),
    (388, 420),
)


def draw() -> AvatarBundle:
    """Return the built-in avatar `default`."""
    portrait, background = _picture(WALL_LIGHT, WALL)
    # The person before white less the person before black is what shines through.
    white, _ = _picture((255, 255, 255), (255, 255, 255))
    black, _ = _picture((0, 0, 0), (0, 0, 0))
    through = white[..., 1].astype(np.int16) - black[..., 1]
    return AvatarBundle(
        avatar_id="default",
        name="Mara",
        source="Drawn by serve_app.avatars.drawn, part of this project and under its licence.",
        portrait=portrait,
        matte=(255 - through).clip(0, 255).astype(np.uint8),
        background=background,
        landmarks=_landmarks(),
        motion=Motion(),
    )


def _picture(wall_light: Color, wall: Color) -> tuple[UInt8, UInt8]:
    """Return the portrait and the bare wall behind it."""
    canvas = Canvas(SIZE)
    canvas.glow((236, 190), 430, wall_light, wall)
    background = canvas.pixels()
    _hair_behind(canvas)
    _clothes(canvas, _neck(canvas))
    face = canvas.shape(_mirrored(_HALF_FACE))
    _skin(canvas, face)
    _nose(canvas, face)
    _mouth(canvas, face)
    for side in (-1, 1):
        _eye(canvas, side)
        _brow(canvas, side)
    _hair(canvas, face)
    return canvas.pixels(), background


def _landmarks() -> Landmarks:
    jaw = [(x, y) for x, y in _mirrored(_HALF_FACE) if y > 240]
    eyes = {side: [_around_eye(side, half) for half in (_UPPER_LID, _LOWER_LID)] for side in (-1, 1)}
    irises = {side: _around_eye(side, [(EYE[0] + dx, EYE[1]) for dx in (-10.3, 0, 10.3)]) for side in (-1, 1)}
    brows = {
        side: _side(side, [(18, 195), (32, 189.4), (46, 187), (60, 190.6), (70, 197)]) for side in (-1, 1)
    }
    return Landmarks(
        upper_lip_outer=_contour(_UPPER_LIP),
        upper_lip_inner=_contour(_LIP_LINE),
        lower_lip_inner=_contour(_LIP_LINE),
        lower_lip_outer=_contour(_LOWER_LIP),
        nose=_contour([(235.5, 267), (247, 275), (256, 278.5), (265, 275), (276.5, 267)]),
        jaw=_contour(jaw),
        left_eye_upper=_contour(eyes[-1][0]),
        left_eye_lower=_contour(eyes[-1][1]),
        right_eye_upper=_contour(eyes[1][0]),
        right_eye_lower=_contour(eyes[1][1]),
        left_iris=_contour(irises[-1]),
        right_iris=_contour(irises[1]),
        left_brow=_contour(brows[-1]),
        right_brow=_contour(brows[1]),
    )


def _contour(points: Points) -> Contour:
    """Return points from left to right."""
    return np.asarray(sorted(points), np.float32)


def _mirrored(half: Points) -> Points:
    """Return a closed outline from its right half, given as (distance from the middle, y), top to bottom."""
    right = [(MIDDLE + x, y) for x, y in half]
    left = [(MIDDLE - x, y) for x, y in half[-2:0:-1]]
    return [*right, *left]


def _side(side: int, points: Points) -> Points:
    """Place points given as (distance from the middle, y) on one side: -1 the viewer's left, 1 the right."""
    return [(MIDDLE + side * x, y) for x, y in points]


def _around_eye(side: int, points: Points) -> Points:
    """As `_side`, enlarged by 1.12 from the middle of the iris."""
    return _side(side, [(EYE[0] + (x - EYE[0]) * 1.12, EYE[1] + (y - EYE[1]) * 1.12) for x, y in points])


def _hair_behind(canvas: Canvas) -> None:
    back = canvas.shape([
        (256, 66), (330, 80), (384, 160), (394, 270), (402, 360), (384, 414), (330, 420),
        (256, 400), (182, 420), (128, 414), (110, 360), (118, 270), (128, 160), (182, 80),
    ])  # fmt: skip
    canvas.fade(back, HAIR, HAIR_DEEP, 200, 330)


def _neck(canvas: Canvas) -> Image.Image:
    neck = canvas.shape([
        (212, 320), (300, 320), (302, 372), (306, 400), (330, 422), (364, 436), (330, 486),
        (256, 500), (182, 486), (148, 436), (182, 422), (206, 400), (210, 372),
    ])  # fmt: skip
    canvas.fade(neck, SKIN_SHADE, SKIN, 350, 440)
    canvas.fill(canvas.oval((262, 352), 62, 40, blur=11), SKIN_DEEP, 0.8, within=neck)
    canvas.fill(
        canvas.shape([(290, 340), (316, 340), (330, 440), (300, 430)], blur=9), SKIN_DEEP, 0.4, within=neck
    )
    canvas.fill(
        canvas.stroke([(244, 448), (214, 434), (184, 428)], [1, 4, 1], blur=2.5), SKIN_SHADE, 0.8, within=neck
    )
    canvas.fill(
        canvas.stroke([(268, 448), (298, 434), (328, 428)], [1, 4, 1], blur=2.5), SKIN_SHADE, 0.8, within=neck
    )
    return neck


def _clothes(canvas: Canvas, neck: Image.Image) -> None:
    body = canvas.shape([
        (30, 540), (44, 486), (86, 452), (150, 428), (190, 414), (206, 430), (228, 456), (256, 464),
        (284, 456), (306, 430), (322, 414), (362, 428), (426, 452), (468, 486), (482, 540),
    ])  # fmt: skip
    cast = canvas.shape([(180, 424), (256, 470), (332, 424), (300, 480), (212, 480)], blur=7)
    canvas.fill(cast, SKIN_DEEP, 0.5, within=both(neck, outside(body)))
    canvas.fade(body, CLOTH_LIGHT, CLOTH, 420, 520)
    canvas.fill(
        canvas.shape([(330, 420), (490, 470), (500, 540), (340, 540)], blur=26), CLOTH_DEEP, 0.6, within=body
    )
    canvas.fill(
        canvas.stroke([(118, 540), (128, 500), (150, 470)], [7, 5, 1], blur=4), CLOTH_DEEP, 0.6, within=body
    )
    canvas.fill(
        canvas.stroke([(394, 540), (384, 500), (362, 470)], [7, 5, 1], blur=4), CLOTH_DEEP, 0.6, within=body
    )
    canvas.fill(
        canvas.stroke([(70, 478), (110, 454), (150, 440)], [2, 12, 4], blur=6), CLOTH_LIGHT, 0.7, within=body
    )
    collar: Points = [(196, 419), (212, 441), (232, 460), (256, 467), (280, 460), (300, 441), (316, 419)]
    canvas.fill(canvas.stroke(collar, [8, 9, 9, 9, 8]), CLOTH, 1.0, within=body)
    canvas.fill(
        canvas.stroke([(x, y - 3) for x, y in collar], [1.5, 2, 1.5], blur=0.8), CLOTH_LIGHT, 0.8, within=body
    )
    canvas.fill(
        canvas.stroke([(x, y + 5) for x, y in collar], [2, 3, 2], blur=1.2), CLOTH_DEEP, 0.7, within=body
    )


def _skin(canvas: Canvas, face: Image.Image) -> None:
    for side in (-1, 1):
        ear = canvas.shape(_side(side, [(88, 212), (100, 206), (105, 222), (101, 246), (92, 258), (86, 250)]))
        canvas.fill(ear, SKIN_SHADE)
    canvas.fill(face, SKIN)
    edge = both(
        face,
        outside(
            canvas.shape(_mirrored([(x * 0.86, 110 + (y - 106) * 0.95) for x, y in _HALF_FACE]), blur=13)
        ),
    )
    canvas.fill(edge, SKIN_SHADE, 0.75)
    far_side: Points = [(306, 130), (350, 150), (352, 260), (322, 330), (270, 366), (300, 300), (318, 230)]
    canvas.fill(canvas.shape(far_side, blur=14), SKIN_SHADE, 0.55, within=face)
    canvas.fill(canvas.oval((240, 160), 52, 30, blur=16), SKIN_LIGHT, 0.75, within=face)
    for side, strength in ((-1, 0.85), (1, 0.55)):
        (x, y) = _side(side, [(48, 256)])[0]
        canvas.fill(canvas.oval((x, y - 6), 22, 10, blur=9), SKIN_LIGHT, strength, within=face)
        canvas.fill(canvas.oval((x + side * 6, y + 12), 26, 15, blur=11), BLUSH, 0.34, within=face)
        canvas.fill(canvas.oval((MIDDLE + side * 40, 214), 29, 15, blur=8), SKIN_SHADE, 0.5, within=face)
    canvas.fill(canvas.oval((254, 344), 15, 9, blur=6), SKIN_LIGHT, 0.55, within=face)
    canvas.fill(canvas.oval((256, 326.5), 19, 4, blur=3.5), SKIN_SHADE, 0.75, within=face)


def _nose(canvas: Canvas, face: Image.Image) -> None:
    canvas.fill(
        canvas.stroke([(271, 206), (267, 232), (271, 256), (276, 268)], [2, 6, 9, 5], blur=4.5),
        SKIN_SHADE,
        0.8,
        within=face,
    )
    canvas.fill(
        canvas.stroke([(242, 206), (246, 232), (241, 258)], [2, 5, 4], blur=4.5), SKIN_SHADE, 0.4, within=face
    )
    canvas.fill(
        canvas.stroke([(254, 196), (254, 230), (255, 258)], [7, 6, 10], blur=4), SKIN_LIGHT, 0.8, within=face
    )
    canvas.fill(canvas.oval((256, 277), 18, 5, blur=4), SKIN_SHADE, 0.85, within=face)
    canvas.fill(canvas.oval((254, 262), 7, 5, blur=3), SKIN_LIGHT, 0.9, within=face)
    for side in (-1, 1):
        wing = _side(side, [(17, 260), (20.5, 267), (18.5, 273), (13, 274.5)])
        canvas.fill(canvas.stroke(wing, [1, 2.6, 2.2, 0.6], blur=1.1), SKIN_DEEP, 0.55, within=face)
        nostril = _side(side, [(5, 273), (9, 270.5), (14, 272), (12, 275), (7, 275.5)])
        canvas.fill(canvas.shape(nostril, blur=1.0), (118, 62, 52), 0.75, within=face)
    canvas.fill(
        canvas.stroke([(249, 276), (256, 278.5), (263, 276)], [0.6, 2, 0.6], blur=1.0),
        SKIN_DEEP,
        0.5,
        within=face,
    )
    for side in (-1, 1):
        canvas.fill(
            canvas.stroke(_side(side, [(3.5, 281), (4.2, 288), (5.5, 294)]), [1, 2.4, 1], blur=1.4),
            SKIN_SHADE,
            0.5,
            within=face,
        )


def _mouth(canvas: Canvas, face: Image.Image) -> None:
    line, top, low = _LIP_LINE, _UPPER_LIP[-2:0:-1], _LOWER_LIP[-2:0:-1]
    upper, lower = canvas.shape([*line, *top], blur=0.5), canvas.shape([*line, *low], blur=0.6)
    canvas.fill(upper, (190, 92, 88), 0.95, within=face)
    canvas.fade(both(lower, face), LIP, LIP_LIGHT, 304, 317)
    rim: Points = [(225, 308), (241, 315.2), (256, 317.6), (271, 315.2), (287, 308)]
    canvas.fill(canvas.stroke(rim, [1, 3, 1], blur=1.8), LIP, 0.75, within=lower)
    canvas.fill(canvas.oval((249, 311), 11, 2.2, blur=1.6), (250, 196, 186), 0.75, within=lower)
    canvas.fill(canvas.oval((246, 298.5), 8, 1.4, blur=1.4), (226, 146, 136), 0.5, within=upper)
    canvas.fill(
        canvas.stroke(line, [0.6, 1.9, 2.1, 2.2, 2.1, 1.9, 0.6], blur=0.7), LIP_DEEP, 0.9, within=face
    )
    for side in (-1, 1):
        canvas.fill(
            canvas.stroke(_side(side, [(36.5, 302.4), (40, 300.2), (42, 297.5)]), [1.6, 2.2, 0.8], blur=1.1),
            SKIN_DEEP,
            0.65,
            within=face,
        )
        fold = _side(side, [(24, 268), (38, 280), (47, 296)])
        canvas.fill(canvas.stroke(fold, [0.5, 3.5, 0.8], blur=2.6), SKIN_SHADE, 0.55, within=face)


def _eye(canvas: Canvas, side: int) -> None:
    white = canvas.shape(_around_eye(side, [*_UPPER_LID, *_LOWER_LID[-2:0:-1]]))
    canvas.fill(white, (250, 247, 243))
    middle = _around_eye(side, [EYE])[0]
    canvas.fill(canvas.oval(middle, 10.3, 10.3, blur=0.4), IRIS_DEEP, within=white)
    canvas.fill(canvas.oval(middle, 9.1, 9.1, blur=0.9), IRIS, within=white)
    canvas.fill(
        canvas.oval((middle[0] + 1, middle[1] + 3.4), 5.6, 3.9, blur=1.6), IRIS_LIGHT, 0.8, within=white
    )
    canvas.fill(canvas.oval(middle, 4.3, 4.3, blur=0.5), (16, 14, 16), within=white)
    lid_shadow = _around_eye(side, [(22, 222), (30, 214), (41, 210.6), (52, 213), (60, 220)])
    canvas.fill(canvas.stroke(lid_shadow, [4, 8, 8, 8, 4], blur=2), (92, 70, 70), 0.55, within=white)
    canvas.fill(
        canvas.oval((middle[0] - 3.2, middle[1] - 3.4), 2.5, 2.5, blur=0.3),
        (255, 255, 255),
        0.96,
        within=white,
    )
    canvas.fill(
        canvas.oval((middle[0] + 3.4, middle[1] + 3.6), 1.2, 1.2, blur=0.4),
        (255, 255, 255),
        0.6,
        within=white,
    )
    canvas.fill(
        canvas.oval(_around_eye(side, [(23.5, 224.2)])[0], 2.4, 1.6, blur=0.6),
        (226, 160, 148),
        0.9,
        within=white,
    )
    lid = _around_eye(
        side, [(20.5, 225.4), (27, 216.8), (35, 211.8), (44, 210.6), (53.5, 214.2), (60, 220), (64.5, 218)]
    )
    canvas.fill(canvas.stroke(lid, [1.2, 2.2, 3.0, 3.4, 3.4, 2.8, 0.4], blur=0.4), LASH)
    below = _around_eye(side, [(24, 226.6), (33, 229.4), (43, 229.8), (53, 227), (59, 222.6)])
    canvas.fill(canvas.stroke(below, [0.5, 1.2, 1.4, 1.4, 0.8], blur=0.7), SKIN_DEEP, 0.7)
    for x, y, dx, dy in ((49, 212, 3, -3), (54, 214.6, 4, -3), (58, 217.6, 4.4, -2.4)):
        lash = _around_eye(side, [(x, y), (x + dx * 0.4, y + dy * 0.7), (x + dx, y + dy)])
        canvas.fill(canvas.stroke(lash, [1.5, 0.9, 0.2], blur=0.45), LASH, 0.7)
    crease = _around_eye(side, [(24, 214), (33, 206.8), (44, 204.8), (54, 208), (61, 214)])
    canvas.fill(canvas.stroke(crease, [0.6, 1.8, 2.2, 1.8, 0.6], blur=0.9), SKIN_DEEP, 0.55)
    bag = _around_eye(side, [(26, 233), (40, 236.5), (54, 232)])
    canvas.fill(canvas.stroke(bag, [0.6, 2, 0.6], blur=1.6), SKIN_SHADE, 0.5)


def _brow(canvas: Canvas, side: int) -> None:
    spine = curve(_side(side, [(18, 195), (32, 189.4), (46, 187), (60, 190.6), (70, 197)]), closed=False)
    brow = canvas.stroke([(x, y) for x, y in spine], [5.5, 8, 7.4, 5.4, 1], blur=1.3)
    canvas.fill(brow, HAIR, 0.72)
    random = np.random.default_rng(7)
    for at in np.linspace(0.02, 0.93, 46):
        x, y = spine[int(at * (len(spine) - 1))]
        y += random.uniform(-1, 1) * 2.6 * (1 - at * 0.6) + 1.2
        length = random.uniform(5, 8) * (1 - at * 0.35)
        lean = 0.25 + 1.1 * at
        hair = [
            (x, y),
            (x + side * length * lean * 0.5, y - length * 0.36),
            (x + side * length * lean, y - length * 0.42),
        ]
        canvas.fill(canvas.stroke(hair, [0.9, 0.8, 0.2], blur=0.3), HAIR_DEEP, 0.5, within=brow)


def _hair(canvas: Canvas, face: Image.Image) -> None:
    locks = [(_INNER_LEFT, _OUTER_LEFT), (_INNER_RIGHT, _OUTER_RIGHT)]
    masks = [canvas.shape([*inner, *outer[::-1]], blur=0.4) for inner, outer in locks]
    hair = either(*masks)
    shadow = canvas.shape([(x + 3, y + 7) for x, y in (*_INNER_LEFT[::-1], *_INNER_RIGHT[1:])], blur=6)
    canvas.fill(both(outside(shadow), face), SKIN_DEEP, 0.5)
    canvas.fade(hair, HAIR, HAIR_DEEP, 90, 420)
    random = np.random.default_rng(3)
    for (inner, outer), mask in zip(locks, masks, strict=True):
        _strands(canvas, np.asarray(inner, float), np.asarray(outer, float), mask, random)
    canvas.fill(
        canvas.stroke([_HAIRLINE, (239, 92), _CROWN], [3.2, 2.2, 0.8], blur=1.2), HAIR_DEEP, 0.85, within=hair
    )


def _strands(
    canvas: Canvas, inner: np.ndarray, outer: np.ndarray, mask: Image.Image, random: np.random.Generator
) -> None:
    for _ in range(230):
        across = random.uniform(-0.02, 1.02)
        guide = inner + (outer - inner) * across + random.normal(0, 0.8, inner.shape)
        shine = float(np.exp(-(((across - 0.55) / 0.3) ** 2)))
        light = random.random() < 0.2 + 0.4 * shine
        width = random.uniform(0.5, 1.5)
        start, stop = (
            (0, len(guide))
            if random.random() < 0.6
            else sorted(random.choice(len(guide) + 1, 2, replace=False))
        )
        if stop - start < 3:
            continue
        points = [(float(x), float(y)) for x, y in guide[start:stop]]
        color = HAIR_LIGHT if light else HAIR_DEEP
        canvas.fill(
            canvas.stroke(points, [0.2, width, width, 0.2], blur=0.35),
            color,
            random.uniform(0.15, 0.42),
            within=mask,
        )
    band = [(float(x), float(y)) for x, y in (inner + (outer - inner) * 0.55)[1:5]]
    canvas.fill(canvas.stroke(band, [0, 16, 20, 0], blur=7), HAIR_LIGHT, 0.42, within=mask)


if __name__ == "__main__":
    save_bundle(draw(), Path(sys.argv[1]))
