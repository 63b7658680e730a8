"""A face from picture to picture: which one it is, where it was lost, and without trembling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.avatars.contours import SIZE
from serve_app.avatars.landmarks import Points


def nearest(faces: list[Points]) -> Points | None:
    """Return the face that is nearest to the portrait's middle; None where there is none."""
    middle = np.array([SIZE / 2, SIZE / 2])
    return min(faces, key=lambda face: float(np.hypot(*(face[:468, :2].mean(0) - middle))), default=None)


def longest_run(found: list[Points | None], max_gap: int) -> tuple[int, int]:
    """Return the longest run of pictures, [begin, end), in which the face is never lost for long.

    Args:
        found: the face of each picture.
        max_gap: pictures in a row that may lack it; none does at the ends.
    """
    seen = [at for at, face in enumerate(found) if face is not None]
    best = begin = end = 0
    run = (0, 0)
    for at in seen:
        if at - end > max_gap or best == 0:
            begin = at
        end = at + 1
        if end - begin > best:
            best, run = end - begin, (begin, end)
    return run


def filled(found: list[Points | None]) -> npt.NDArray[np.float32]:
    """Return the points of every picture, [T, P, 3]; those that are missing lie between their neighbours."""
    at = [number for number, face in enumerate(found) if face is not None]
    known = np.stack([face for face in found if face is not None])
    flat = known.reshape(len(known), -1)
    times = np.arange(len(found))
    right = np.clip(np.searchsorted(at, times), 1, max(1, len(at) - 1))
    if len(at) == 1:
        return np.repeat(known, len(found), axis=0)
    before, after = np.take(at, right - 1), np.take(at, right)
    share = ((times - before) / (after - before))[:, None]
    return (
        (flat[right - 1] * (1 - share) + flat[right] * share).reshape(-1, *known.shape[1:]).astype(np.float32)
    )


def smoothed(points: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Return points smoothed in time by a Gaussian of `sigma` pictures, [T, P, 3]; the ends are mirrored."""
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    weights /= weights.sum()
    padded = np.pad(
        points.astype(np.float64), [(reach, reach), (0, 0), (0, 0)], mode="reflect", reflect_type="odd"
    )
    parts = (weight * padded[at : at + len(points)] for at, weight in enumerate(weights))
    return np.sum(list(parts), axis=0).astype(np.float32)
