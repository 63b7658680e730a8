"""A rendered file holds the whole speech, in step with the picture."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.client.render import PAUSE_S, render_file
from serve_app.client.speech_file import wav_header
from serve_app.errors import AvatarInvalid, InvalidAudio, ModelNotLoaded
from serve_app.models.tracer import read

pytestmark = pytest.mark.unit

HZ = 22_050
FPS = 30


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Return 0.5 s of silence, then 0.5 s of a loud tone."""
    t = np.arange(HZ // 2) / HZ
    samples = np.concatenate([np.zeros(HZ // 2), 8_000 * np.sin(2 * np.pi * 440 * t)]).astype("<i2")
    path = tmp_path / "speech.wav"
    path.write_bytes(wav_header(HZ, samples.nbytes) + samples.tobytes())
    return path


def render(wav: Path, out: Path, **changes: str) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    options = {"model": "tracer", "avatar_id": "default", **changes}
    render_file(
        wav,
        out,
        model=options["model"],
        avatar_id=options["avatar_id"],
        fps=FPS,
        progress=lambda done, total: told.append((done, total)),
    )
    return told


def test_speech_follows_a_pause_and_the_tone_is_seen_when_it_is_heard(wav: Path, tmp_path: Path) -> None:
    told = render(wav, tmp_path / "out.mp4")
    pause = round(PAUSE_S * FPS)
    total = 2 * pause + FPS
    assert told == [(number + 1, total) for number in range(total)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        readings = [read(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
        container.seek(0)
        frames = list(container.decode(audio=0))
    assert len(readings) == total
    assert readings[:pause] == readings[-pause:] == [None] * pause
    spoken = [reading for reading in readings if reading is not None]
    assert [reading.frame_index for reading in spoken] == list(range(FPS))
    seen_s = PAUSE_S + next(n for n, reading in enumerate(spoken) if reading.loudness > 0.08) / FPS
    sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    heard_s = float(frames[0].time or 0.0) + float((np.abs(sound) > 0.1).argmax()) / frames[0].sample_rate
    assert seen_s == pytest.approx(PAUSE_S + 0.5, abs=1.5 / FPS)
    assert heard_s == pytest.approx(PAUSE_S + 0.5, abs=0.03)


def test_unknown_names_and_files_without_speech_are_refused(wav: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded):
        render(wav, tmp_path / "out.mp4", model="nothing")
    with pytest.raises(AvatarInvalid):
        render(wav, tmp_path / "out.mp4", avatar_id="nobody")
    with pytest.raises(InvalidAudio, match=r"missing\.wav"):
        render(tmp_path / "missing.wav", tmp_path / "out.mp4")
    (tmp_path / "empty.wav").write_bytes(wav_header(HZ, 0))
    with pytest.raises(InvalidAudio):
        render(tmp_path / "empty.wav", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
