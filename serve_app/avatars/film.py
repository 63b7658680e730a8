"""A short video becomes an avatar: look for the face, follow it, close a loop, and take its best picture.

The crop stays where it is for the whole loop, so that what is behind the person stands still. The portrait,
which models that draw on stills use, is the loop's picture that is nearest to rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.avatars.background import Background
from serve_app.avatars.bundle import MAX_FOOTAGE_FPS, MAX_FOOTAGE_FRAMES, MIN_FOOTAGE_FPS, Footage
from serve_app.avatars.contours import SIZE, Landmarks
from serve_app.avatars.created import Created, Progress
from serve_app.avatars.face import landmarks_of, open_eyes, parted_lips, pose_of, the_face
from serve_app.avatars.footage import encode
from serve_app.avatars.landmarks import FaceFinder, Landmarker, Points
from serve_app.avatars.looping import Loop, close
from serve_app.avatars.matte import refine_matte
from serve_app.avatars.photo import PhotoRefused
from serve_app.avatars.prepare import Placement, finish, place_around
from serve_app.avatars.series import filled, longest_run, nearest, smoothed
from serve_app.avatars.store import Card
from serve_app.avatars.stretch import LOOK_FPS, Glance, Stretch, choose, glance
from serve_app.avatars.video import MAX_VIDEO_S, MIN_VIDEO_S, Picture, Video, too_short
from serve_app.errors import AvatarInvalid
from serve_app.nouns import UInt8

STEPS = ("reading the video", "looking for the face", "following the face", "closing the loop", "packing")

SMOOTH_S = 0.06
"""Standard deviation in time by which points are smoothed: they tremble by half a pixel."""

MAX_GAP_S = 0.15
"""Longest time for which a face may be lost; its points are interpolated."""

SMALL = 32
"""Width and height of the pictures that are compared."""

SPEAKING = 0.1
"""Gap between the lips over the mouth's width from which a note is given."""


def prepare_filmed(
    content: bytes,
    card: Card,
    *,
    tools: Path | None = None,
    progress: Progress = lambda number, text: None,
) -> Created:
    """Make an avatar of a video.

    Args:
        content: of the file.
        card: what it shall be called.
        tools: the environment that finds faces; None for the default one.
        progress: told of each step of STEPS, and how far it is.

    Raises:
        PhotoRefused: the video cannot become an avatar; the text says why.
        ToolsMissing: the tool environment is missing or does not work.
    """
    progress(0, STEPS[0])
    video = Video(content)
    with Landmarker(tools) as landmarker:
        return film(video, card, landmarker, progress)


def film(
    video: Video, card: Card, finder: FaceFinder, progress: Progress = lambda number, text: None
) -> Created:
    """Make an avatar of a video with what finds faces; see `prepare_filmed`."""
    stretch, placement = look(video, finder, progress)
    fps = footage_fps(video.fps)
    pictures, points = follow(video, stretch, placement, finder, progress=progress)
    progress(3, STEPS[3])
    faces = [landmarks_of(face) for face in smoothed(points, SMOOTH_S * fps)]
    loop = close(_places(faces), _small(pictures), fps, MAX_FOOTAGE_FRAMES)
    footage = _footage(pictures, faces, loop, fps)
    best = at_rest(points, loop)
    face, _ = the_face([points[best]], SIZE, SIZE)
    matte = refine_matte(pictures[best], finder.matte(pictures[best]))
    progress(4, STEPS[4])
    notes = [*stretch.notes, *_notes(points, loop)]
    return finish(card, pictures[best], face, matte, Background(), notes=notes, footage=footage)


def footage_fps(fps: float) -> int:
    """Return the rate of a loop: the video's own, or its half or third where that is faster than needed."""
    fold = 1
    while fps / fold > MAX_FOOTAGE_FPS + 0.5:
        fold += 1
    return min(MAX_FOOTAGE_FPS, max(MIN_FOOTAGE_FPS, round(fps / fold)))


def look(video: Video, finder: FaceFinder, progress: Progress) -> tuple[Stretch, Placement]:
    """Choose the stretch of a video that is used, and where the portrait lies in it.

    Raises:
        PhotoRefused: no stretch can be used.
    """
    whole_s = video.claimed_s or MAX_VIDEO_S
    sides: list[tuple[int, int]] = []
    times: list[float] = []

    def pictures() -> Iterator[UInt8]:
        for picture in video.sampled(LOOK_FPS):
            progress(1, f"{STEPS[1]} ({min(99, round(100 * picture.time_s / whole_s))} %)")
            sides.append((picture.rgb.shape[1], picture.rgb.shape[0]))
            times.append(picture.time_s)
            yield picture.rgb

    glances: list[Glance] = []
    for at, faces in enumerate(finder.faces_of(pictures())):
        glances.append(glance(times[at], faces, *sides[at]))
    if len(glances) < MIN_VIDEO_S * LOOK_FPS:
        raise too_short(len(glances) / LOOK_FPS)
    stretch = choose(glances)
    return stretch, place_around(stretch.face, *sides[0])


def follow(
    video: Video, stretch: Stretch, placement: Placement, finder: FaceFinder, *, progress: Progress
) -> tuple[list[UInt8], npt.NDArray[np.float32]]:
    """Cut a stretch out of a video, and find the face in each picture.

    Returns:
        T portraits [SIZE, SIZE, 3], and the face's points in each, [T, FACE_POINTS, 3].

    Raises:
        PhotoRefused: the face is lost for longer than MAX_GAP_S before MIN_VIDEO_S are found.
    """
    fps = footage_fps(video.fps)
    total = round((stretch.end_s - stretch.begin_s) * fps)
    cut: list[UInt8] = []

    def portraits() -> Iterator[UInt8]:
        picture: Picture
        for picture in video.sampled(fps, stretch.begin_s, stretch.end_s):
            progress(2, f"{STEPS[2]} ({len(cut) + 1} of {total})")
            cut.append(placement.cut(picture.rgb))
            yield cut[-1]

    found: list[Points | None] = [nearest(faces) for faces in finder.faces_of(portraits())]
    begin, end = longest_run(found, max_gap=round(MAX_GAP_S * fps))
    # Looks are so far apart that a stretch may be shorter by one of them.
    if end - begin < (MIN_VIDEO_S - 1.0 / LOOK_FPS) * fps:
        raise PhotoRefused(
            "no_face",
            f"expected {MIN_VIDEO_S:.0f} s or more in which the face is seen, "
            f"found {(end - begin) / fps:.1f} s at a stretch",
            "Film a person who keeps looking at the camera.",
        )
    return cut[begin:end], filled(found[begin:end])


def at_rest(points: npt.NDArray[np.float32], loop: Loop) -> int:
    """Return the picture whose face is nearest to rest: lips closed, eyes open, ahead, not moving."""
    speed = np.abs(np.gradient(points[..., :2], axis=0)).mean((1, 2))
    pure = sorted({int(at) for at, share in zip(loop.first, loop.share, strict=True) if share == 0})
    return min(pure, key=lambda at: unrest(points[at]) + 0.1 * float(speed[at]))


def unrest(face: Points) -> float:
    """Return how far a face is from rest; 0 is a face like a good photo's."""
    pose = pose_of(face)
    return (
        4.0 * parted_lips(face)
        + 5.0 * max(0.0, 0.28 - open_eyes(face))
        + (abs(pose.yaw) + abs(pose.pitch) + abs(pose.roll)) / 30.0
    )


def _footage(pictures: list[UInt8], faces: list[Landmarks], loop: Loop, fps: int) -> Footage:
    mixed = {
        name: loop.mixed(np.stack([face.contours()[name] for face in faces])) for name in faces[0].contours()
    }
    looped = tuple(
        Landmarks(**{name: points[at] for name, points in mixed.items()}) for at in range(len(loop.first))
    )
    try:
        return Footage(encode(_looped(pictures, loop), fps), fps, looped)
    except AvatarInvalid as error:
        raise PhotoRefused(
            "restless",
            f"expected a person who sits still, found pictures that move all over ({error})",
            "Film from a tripod, before a wall.",
        ) from error


def _looped(pictures: list[UInt8], loop: Loop) -> Iterator[UInt8]:
    for first, second, share in zip(loop.first, loop.second, loop.share, strict=True):
        if share == 0:
            yield pictures[first]
        else:
            mixed = pictures[first] * np.float32(1 - share) + pictures[second] * np.float32(share)
            yield np.round(mixed).astype(np.uint8)


def _places(faces: list[Landmarks]) -> npt.NDArray[np.float32]:
    """Return [T, P, 2] points of all contours: most of them are the lips' and the eyes'."""
    return np.stack([np.concatenate(list(face.contours().values())) for face in faces])


def _small(pictures: list[UInt8]) -> npt.NDArray[np.float32]:
    """Return [T, SMALL, SMALL] small grey pictures."""
    block = SIZE // SMALL
    grey = (picture.mean(axis=2, dtype=np.float32) for picture in pictures)
    return np.stack([one.reshape(SMALL, block, SMALL, block).mean((1, 3)) for one in grey])


def _notes(points: npt.NDArray[np.float32], loop: Loop) -> list[str]:
    notes = []
    if max(parted_lips(points[at]) for at in loop.first) > SPEAKING:
        notes.append("the mouth moves; a video of somebody who is silent idles better")
    if not loop.fades:
        notes.append("no two moments are alike, so the loop runs forth and back")
    return notes
