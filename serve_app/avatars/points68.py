"""The 68 points of a face in the order of iBUG 300-W, as dlib numbers them, from a bundle's contours.

Models of the field were taught with these points (Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV
workshops 2013, figure 1). "Left" is the viewer's: 0-16 jaw from the left ear around the chin, 17-21 left brow
and 22-26 right brow rightwards, 27-30 bridge of the nose downwards, 31-35 its lower edge rightwards, 36-41
left eye and 42-47 right eye clockwise from the left corner, 48-59 outer and 60-67 inner edge of the lips,
clockwise from the left corner.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.avatars.contours import Contour, Landmarks

JAW = slice(0, 17)
LEFT_BROW, RIGHT_BROW = slice(17, 22), slice(22, 27)
BRIDGE, NOSE = slice(27, 31), slice(31, 36)
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
OUTER_LIPS, INNER_LIPS = slice(48, 60), slice(60, 68)

_BRIDGE_AT = np.linspace(-0.06, 0.76, 4)
"""Places of the bridge's points between the middle of the eyes (0) and the nose's lower edge (1).

Of the canonical face mesh: 168 between the brows is at -0.06 and the nose's tip, 4, at 0.76.
"""

_NOSE_AT = np.linspace(0.15, 0.85, 5)
"""Of the nose's lower edge, wing to wing: the outer points are the nostrils', not the wings'."""

_UPPER_LIP_AT = np.array([0.0, 0.22, 0.4, 0.5, 0.6, 0.78, 1.0])
"""Of the upper lip, corner to corner: the third and the fifth point are the peaks of Cupid's bow."""

_EYE_AT = np.array([0.0, 0.33, 0.67, 1.0])


def points68(landmarks: Landmarks) -> npt.NDArray[np.float32]:
    """Return the 68 points of a face.

    The contours have all of them but the nose's bridge, which lies between the eyes and the nose's edge.

    Args:
        landmarks: of an upright face, in pixels.

    Returns:
        [68, 2] float32, (x, y) in the same pixels.
    """
    face = landmarks
    points = np.empty((68, 2), np.float32)
    points[JAW] = along(_from_the_eyes(face), np.linspace(0.0, 1.0, 17))
    for brow, contour in ((LEFT_BROW, face.left_brow), (RIGHT_BROW, face.right_brow)):
        points[brow] = along(contour, np.linspace(0.0, 1.0, 5))
    points[NOSE] = along(face.nose, _NOSE_AT)
    eyes = np.mean([(upper[0] + upper[-1]) / 2 for upper in (face.left_eye_upper, face.right_eye_upper)], 0)
    points[BRIDGE] = eyes + _BRIDGE_AT[:, None] * (points[NOSE][2] - eyes)
    for eye, upper, lower in (
        (LEFT_EYE, face.left_eye_upper, face.left_eye_lower),
        (RIGHT_EYE, face.right_eye_upper, face.right_eye_lower),
    ):
        points[eye] = _round(along(upper, _EYE_AT), along(lower, _EYE_AT))
    points[OUTER_LIPS] = _round(
        along(face.upper_lip_outer, _UPPER_LIP_AT), along(face.lower_lip_outer, np.linspace(0.0, 1.0, 7))
    )
    quarters = np.linspace(0.0, 1.0, 5)
    points[INNER_LIPS] = _round(along(face.upper_lip_inner, quarters), along(face.lower_lip_inner, quarters))
    return points


def along(contour: Contour, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return [N, 2] points of a contour at N shares of its length, from 0 its first to 1 its last point."""
    steps = np.hypot(*np.diff(contour.astype(np.float64), axis=0).T)
    walked = np.concatenate([[0.0], np.cumsum(steps)])
    at = shares * walked[-1]
    return np.stack([np.interp(at, walked, contour[:, axis]) for axis in (0, 1)], axis=1)


def _from_the_eyes(face: Landmarks) -> Contour:
    """Return the face's edge from the height of one eye to that of the other; a jaw may begin at the ears.

    Beside the eyes a face's edge is all but upright.
    """
    first, last = face.jaw[0].copy(), face.jaw[-1].copy()
    first[1] = min(first[1], face.left_eye_upper[0, 1])
    last[1] = min(last[1], face.right_eye_upper[-1, 1])
    return np.concatenate([first[None], face.jaw, last[None]])


def _round(upper: npt.NDArray[np.float64], lower: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Join two edges clockwise: the upper one rightwards, the lower one back without the corners."""
    return np.concatenate([upper, lower[-2:0:-1]])
