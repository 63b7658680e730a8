"""Which seconds of a video become a base loop: those in which one face stays where it is and looks ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.avatars.face import a_face, parted_lips, width_of
from serve_app.avatars.landmarks import Points
from serve_app.avatars.photo import PhotoRefused
from serve_app.avatars.video import MIN_VIDEO_S

LOOK_FPS = 5.0
"""Pictures per second that are looked at for a choice."""

MAX_STRETCH_S = 10.0
"""Longest stretch that is followed picture by picture; the loop is cut from it."""

MAX_TRAVEL = 0.4
"""How far a face may get from where it was at first, over its width; further is a walk, no idling."""

MAX_GROWTH = 1.25
"""How much larger or smaller a face may become."""

RESTLESS_S = 12.0
"""Seconds of length that a mouth opened as wide as it is across would have to make up for."""


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """What one picture of a video shows.

    Attributes:
        time_s: since the video's first picture.
        face: the points of the only face, in the video's pixels; None if there is none that can be used.
        refusal: why there is none.
    """

    time_s: float
    face: Points | None
    refusal: PhotoRefused | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Some seconds of a video.

    Attributes:
        begin_s: since the video's first picture.
        end_s: the same, exclusive.
        face: the median of the face's points, in the video's pixels.
        notes: what was left out, for people.
    """

    begin_s: float
    end_s: float
    face: Points
    notes: tuple[str, ...]


def glance(time_s: float, faces: Sequence[Points], width: int, height: int) -> Glance:
    """Return what a picture shows, by the faces that were found in it."""
    try:
        return Glance(time_s, a_face(faces, width, height))
    except PhotoRefused as refusal:
        return Glance(time_s, None, refusal)


def choose(glances: Sequence[Glance]) -> Stretch:
    """Return the stretch that is best to idle in: long, up to a limit, with a quiet mouth.

    Args:
        glances: of a whole video, LOOK_FPS a second.

    Raises:
        PhotoRefused: no stretch is long enough; the reason is the one that most pictures give.
    """
    length = int(MIN_VIDEO_S * LOOK_FPS)
    best: tuple[float, int, int] | None = None
    longest = 0
    for first in range(len(glances)):
        last = _reach(glances, first)
        longest = max(longest, last - first)
        if last - first < length:
            continue
        score = _score(glances[first:last])
        if best is None or score > best[0]:
            best = score, first, last
    if best is None:
        raise _refusal(glances, longest)
    _, first, last = best
    mine = glances[first:last]
    face = np.median([one.face for one in mine], axis=0).astype(np.float32)
    unusable = sum(one.face is None for one in glances)
    notes = (f"left out: {unusable / LOOK_FPS:.1f} s of the video ({_most(glances)[1]})",) if unusable else ()
    return Stretch(mine[0].time_s, mine[-1].time_s + 1.0 / LOOK_FPS, face, notes)


def _reach(glances: Sequence[Glance], first: int) -> int:
    """Return how far a stretch from `first` on goes, exclusive."""
    start = glances[first].face
    if start is None:
        return first
    width, middle = width_of(start), start[:468, :2].mean(0)
    most = first + int(MAX_STRETCH_S * LOOK_FPS)
    for at in range(first, min(most, len(glances))):
        face = glances[at].face
        if face is None:
            return at
        travelled = float(np.hypot(*(face[:468, :2].mean(0) - middle)))
        grown = width_of(face) / width
        if travelled > MAX_TRAVEL * width or not 1 / MAX_GROWTH < grown < MAX_GROWTH:
            return at
    return min(most, len(glances))


def _score(glances: Sequence[Glance]) -> float:
    """Return the seconds of a stretch, less what its mouth's motion costs."""
    open_by = [parted_lips(one.face) for one in glances if one.face is not None]
    return len(glances) / LOOK_FPS - RESTLESS_S * float(np.mean(open_by))


def _most(glances: Sequence[Glance]) -> tuple[PhotoRefused | None, str]:
    """Return a refusal of the commonest reason, and all reasons in words."""
    refusals = [one.refusal for one in glances if one.refusal is not None]
    counted = Counter(refusal.reason for refusal in refusals).most_common()
    text = ", ".join(f"{reason} in {number} of {len(glances)} looks" for reason, number in counted)
    common = next((one for one in refusals if one.reason == counted[0][0]), None) if counted else None
    return common, text


def _refusal(glances: Sequence[Glance], longest: int) -> PhotoRefused:
    common, text = _most(glances)
    expected = f"expected {MIN_VIDEO_S:.0f} s or more of one face that looks ahead"
    found = f"found {longest / LOOK_FPS:.1f} s at a stretch"
    if common is None:
        return PhotoRefused(
            "restless",
            f"{expected} and stays where it is, {found}",
            "Film from a tripod, and let the person sit still.",
        )
    return PhotoRefused(common.reason, f"{expected}, {found} ({text}): {common.detail}", common.suggestion)
