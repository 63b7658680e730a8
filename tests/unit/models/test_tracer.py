"""What the tracer paints can be read back, also after H.264."""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction

import av
import numpy as np
import pytest

from serve_app.avatars.store import AvatarStore
from serve_app.errors import AvatarInvalid, ModelNotLoaded
from serve_app.models.tracer import GREY, SILENT, Tracer, TracerReading, brightness, read
from serve_app.nouns import Clip, ClipFailure, Int16, UInt8, speech_index
from tests.unit.models.speech import noise, silence, voiced, windows

pytestmark = pytest.mark.unit


@pytest.fixture
def tracer() -> Tracer:
    model = Tracer(fps=30, device="cpu")
    model.prepare(AvatarStore(None).load("default"))
    return model


def pictures(tracer: Tracer, speech: Int16, sizes: tuple[int, ...] = (12,)) -> list[UInt8]:
    """Return whole frames, [768, 512] I420."""
    base = tracer.base_loop("default").frames
    shown: list[UInt8] = []
    for clip in tracer.animate(list(windows(tracer.spec, speech, sizes))):
        assert isinstance(clip, Clip)
        for patch in clip.patches:
            frame = base[len(shown) % len(base)].reshape(768, 512).copy()
            frame[clip.y : clip.y + clip.h, clip.x : clip.x + clip.w] = patch[: clip.w * clip.h].reshape(
                clip.h, -1
            )
            shown.append(frame)
    return shown


def through_h264(frames: list[UInt8], bit_rate: int) -> list[UInt8]:
    """Return the luma planes after encoding and decoding."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 512, 512, "yuv420p", bit_rate
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def loudness(speech: Int16, frame: int) -> float:
    own = speech[speech_index(frame, 30) : speech_index(frame + 1, 30)] / 32_768.0
    return float(np.sqrt(np.mean(own**2)))


@pytest.mark.parametrize("sizes", [(12,), (1,), (3, 5)])
def test_each_frame_tells_its_index_and_its_own_loudness(tracer: Tracer, sizes: tuple[int, ...]) -> None:
    speech = np.concatenate([silence(0.2), noise(0.3, 0.05), silence(0.1), voiced("ah", 0.3, 0.2)])
    frames = pictures(tracer, speech, sizes)
    assert len(frames) == 27
    for number, frame in enumerate(frames):
        reading = read(frame[:512])
        assert reading is not None
        assert reading.frame_index == number
        assert reading.loudness == pytest.approx(loudness(speech, number), abs=0.01)


def test_reading_survives_h264_at_a_low_rate(tracer: Tracer) -> None:
    speech = np.concatenate([silence(0.2), noise(0.4, 0.05), silence(0.2), voiced("ah", 0.4, 0.2)])
    idle = [frame.reshape(768, 512) for frame in tracer.base_loop("default").frames[:10]]
    spoken = pictures(tracer, speech)
    decoded = through_h264([*idle, *spoken, *idle], bit_rate=150_000)
    readings = [read(frame) for frame in decoded]
    assert readings[:10] == [None] * 10
    assert readings[-10:] == [None] * 10
    for number, reading in enumerate(readings[10:-10]):
        assert reading is not None
        assert reading.frame_index == number
        assert reading.loudness == pytest.approx(loudness(speech, number), abs=0.05)


def test_large_indices_are_told_apart(tracer: Tracer) -> None:
    first, second = pictures(tracer, silence(0.06), (2,))
    assert (read(first[:512]), read(second[:512])) == (TracerReading(0, 0.0), TracerReading(1, 0.0))
    window = next(windows(tracer.spec, silence(0.1), (1,)))
    for index in (255, 256, 65_535):
        clip = tracer.animate([dataclasses.replace(window, first_frame=index)])[0]
        assert isinstance(clip, Clip)
        frame = tracer.base_loop("default").frames[0][: 512 * 512].reshape(512, 512).copy()
        frame[clip.y : clip.y + clip.h, clip.x : clip.x + clip.w] = clip.patches[
            0, : clip.w * clip.h
        ].reshape(clip.h, -1)
        assert read(frame) == TracerReading(index, 0.0)


def test_smaller_pictures_can_be_read(tracer: Tracer) -> None:
    frame = pictures(tracer, noise(0.2, 0.1))[4][:512]
    small = frame.reshape(256, 2, 256, 2).mean(axis=(1, 3)).astype(np.uint8)
    assert read(small) == read(frame)


def test_silence_is_dark_and_differs_from_idle() -> None:
    assert brightness(silence(0.03)) == SILENT
    assert abs(SILENT - GREY) > 60
    assert brightness(noise(0.03, 0.01)) > SILENT + 20


def test_idle_and_foreign_frames_are_not_read(tracer: Tracer) -> None:
    assert read(tracer.base_loop("default").frames[3][: 512 * 512].reshape(512, 512)) is None
    assert read(np.full((512, 512), 255, np.uint8)) is None
    assert read(np.zeros((512, 512), np.uint8)) is None
    damaged = pictures(tracer, silence(0.1))[1][:512]
    damaged[128:160, 128:160] = 228
    assert read(damaged) is None


def test_only_prepared_avatars_are_animated(tracer: Tracer) -> None:
    result = tracer.animate(list(windows(tracer.spec, silence(0.1), (3,), avatar_id="nobody")))[0]
    assert isinstance(result, ClipFailure)
    assert result.code == "avatar_invalid"
    with pytest.raises(AvatarInvalid):
        tracer.base_loop("nobody")


def test_weights_are_refused() -> None:
    with pytest.raises(ModelNotLoaded):
        Tracer(fps=30, weights="file")
