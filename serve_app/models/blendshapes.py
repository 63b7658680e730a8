"""What moves in a face, by the names of ARKit's blendshapes, so that any renderer can be driven.

Coefficients are 0 at rest and 1 at the shape's full extent (Apple, "ARFaceAnchor.BlendShapeLocation"). The
two sides of a face move alike here, so one name stands for ARKit's Left and Right. `headNod` is no
blendshape: 1 bows the head forward, -1 raises it.
"""

from __future__ import annotations

from torch import Tensor

NAMES = (
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthStretch",
    "mouthSmile",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthPress",
    "mouthUpperUp",
    "mouthLowerDown",
    "tongueOut",
    "browInnerUp",
    "headNod",
)
"""The coefficients of one frame, in this order.

jawOpen: the jaw drops; 1 is a wide "aa". mouthClose: the lips meet although the jaw is open, as in ARKit: at
the value of jawOpen they are shut. mouthFunnel: rounded and open ("oh", "sh"); mouthPucker: rounded and
small ("oo", "w"). mouthStretch: corners apart ("ee", "s"). mouthSmile: corners up. mouthRollLower,
mouthRollUpper: a lip rolls in, the lower one under the upper teeth in "f" and "v". mouthPress: lips pressed
("m", "b", "p"). mouthUpperUp, mouthLowerDown: a lip bares its teeth. tongueOut: the tongue's tip comes up to
the teeth ("th", "l"). browInnerUp and headNod follow the prosody.
"""

INDEX = {name: number for number, name in enumerate(NAMES)}


def opening(coefficients: Tensor) -> Tensor:
    """Return how far the lips are apart, 0 (shut) to about 1.

    Args:
        coefficients: [..., len(NAMES)].

    Returns:
        [...]: jawOpen less mouthClose, and a little for each lip that is drawn back.
    """
    jaw, close = coefficients[..., INDEX["jawOpen"]], coefficients[..., INDEX["mouthClose"]]
    bared = coefficients[..., INDEX["mouthUpperUp"]] + coefficients[..., INDEX["mouthLowerDown"]]
    return (jaw - close + 0.15 * bared).clamp(min=0.0)
