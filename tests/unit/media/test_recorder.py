import errno
import json
import logging
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.config import RecordingConfig
from serve_app.media.recorder import MAX_QUEUED, PARTIAL_SUFFIX, Recorder, RecordingFolder
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ

pytestmark = pytest.mark.unit

SIZE = 128
FPS = 30
CLICK_S = 1.0


def picture_units(first: int, last: int, keyframes: tuple[int, ...]) -> dict[int, bytes]:
    """Access units of frames `first` to `last`: dark, bright from CLICK_S after `first` on."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width = codec.height = SIZE
    codec.pix_fmt = "yuv420p"
    codec.framerate, codec.time_base = Fraction(FPS), Fraction(1, FPS)
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
    codec.profile = "Baseline"
    units = {}
    for frame in range(first, last):
        level = 230 if frame >= first + CLICK_S * FPS else 20
        picture = av.VideoFrame.from_ndarray(
            np.full((SIZE * 3 // 2, SIZE), level, np.uint8), format="yuv420p"
        )
        picture.pts = frame - first
        picture.pict_type = 1 if frame in keyframes else 0
        units[frame] = b"".join(bytes(packet) for packet in codec.encode(picture))
    return units


def sound_packets(first: int, last: int) -> dict[int, bytes]:
    """Opus packets `first` to `last`: silence, a tone from CLICK_S after `first` on."""
    codec = av.CodecContext.create("libopus", "w")
    codec.sample_rate, codec.layout, codec.format = SOUND_HZ, "mono", "s16"
    time_s = np.arange((last - first) * PACKET_SAMPLES) / SOUND_HZ
    tone = np.where(time_s >= CLICK_S, 8000 * np.sin(2 * np.pi * 440 * time_s), 0).astype(np.int16)
    packets = {}
    for index in range(first, last):
        part = tone[(index - first) * PACKET_SAMPLES :][:PACKET_SAMPLES]
        frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, (index - first) * PACKET_SAMPLES
        packets[index] = b"".join(bytes(packet) for packet in codec.encode(frame))
    return packets


def feed(recorder: Recorder, video: dict[int, bytes], sound: dict[int, bytes]) -> None:
    """Give both in the order of their times, as tracks do."""
    items = [(n / FPS, "video", n) for n in video] + [(n / 50, "sound", n) for n in sound]
    for _, kind, n in sorted(items):
        if kind == "video":
            recorder.video(video[n], n)
        else:
            recorder.sound(sound[n], n)


def probe(path: Path) -> dict[str, dict[str, object]]:
    """Return ffprobe's view of each stream, by kind."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    streams = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"]
    return {stream["codec_type"]: stream for stream in streams}


def test_a_recording_plays_with_both_streams_in_step(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    feed(recorder, picture_units(300, 390, (300, 345)), sound_packets(500, 650))
    recorder.close()
    assert recorder.join(10)
    streams = probe(tmp_path / "a.mp4")
    assert (streams["video"]["codec_name"], streams["audio"]["codec_name"]) == ("h264", "opus")
    assert float(str(streams["video"]["duration"])) == pytest.approx(3.0, abs=0.04)
    assert float(str(streams["audio"]["duration"])) == pytest.approx(3.0, abs=0.04)
    assert streams["video"]["nb_read_frames"] == "90"
    with av.open(str(tmp_path / "a.mp4")) as played:
        bright_s = next(f.time for f in played.decode(video=0) if f.to_ndarray()[:SIZE].mean() > 125)
    with av.open(str(tmp_path / "a.mp4")) as played:
        heard_s = next(f.time for f in played.decode(audio=0) if np.abs(f.to_ndarray()).max() > 0.05)
    assert bright_s == pytest.approx(CLICK_S, abs=0.02)
    assert heard_s == pytest.approx(CLICK_S, abs=0.025)


def test_nothing_but_the_finished_file_is_left(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "new" / "a.mp4", SIZE, SIZE, FPS)
    feed(recorder, picture_units(0, 10, (0,)), sound_packets(0, 10))
    assert not (tmp_path / "new" / "a.mp4").exists()
    recorder.close()
    recorder.close()
    assert recorder.join(10)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_it_starts_with_the_first_idr_and_keeps_the_sound_before_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    units = picture_units(0, 60, (0, 30))
    feed(recorder, {n: unit for n, unit in units.items() if n >= 3}, sound_packets(0, 100))
    recorder.close()
    assert recorder.join(10)
    with av.open(str(tmp_path / "a.mp4")) as played:
        frames = list(played.decode(video=0))
    assert len(frames) == 30
    assert (frames[0].time, frames[1].time) == pytest.approx((0.0, 31 / 30), abs=0.001)
    assert float(str(probe(tmp_path / "a.mp4")["audio"]["duration"])) == pytest.approx(2.0, abs=0.02)


def test_skipped_frames_leave_the_others_in_place(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    units = picture_units(0, 60, (0, 40))
    feed(recorder, {n: unit for n, unit in units.items() if not 20 <= n < 40}, sound_packets(0, 100))
    recorder.close()
    assert recorder.join(10)
    with av.open(str(tmp_path / "a.mp4")) as played:
        times = [frame.time for frame in played.decode(video=0)]
    assert times[19:21] == pytest.approx([19 / 30, 40 / 30], abs=0.001)


def test_without_a_picture_the_sound_is_kept(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    feed(recorder, {}, sound_packets(20, 70))
    recorder.close()
    assert recorder.join(10)
    assert list(probe(tmp_path / "a.mp4")) == ["audio"]


def test_nothing_recorded_makes_no_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    recorder.close()
    assert recorder.join(10)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        recorder = Recorder(tmp_path / "file" / "a.mp4", SIZE, SIZE, FPS)
        units = picture_units(0, 5, (0,))
        feed(recorder, units, sound_packets(0, 5))
        assert not recorder.join(10)
        recorder.video(units[0], 10)
        recorder.close()
    assert recorder.failed
    assert len(caplog.records) == 1


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / f"a.mp4{PARTIAL_SUFFIX}").symlink_to("/dev/full")
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    feed(recorder, picture_units(0, 5, (0,)), sound_packets(0, 5))
    recorder.close()
    assert not recorder.join(10)
    assert recorder.fault == os.strerror(errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_slow_never_holds_the_caller(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a.mp4{PARTIAL_SUFFIX}")  # opening it blocks until somebody reads
    recorder = Recorder(tmp_path / "a.mp4", SIZE, SIZE, FPS)
    recorder.video(picture_units(0, 1, (0,))[0], 0)
    for n in range(MAX_QUEUED + 10):
        recorder.sound(b"\xf8\xff\xfe", n)
    assert recorder.failed
    recorder.close()
    reader = os.open(tmp_path / f"a.mp4{PARTIAL_SUFFIX}", os.O_RDONLY | os.O_NONBLOCK)
    recorder.join(5)
    os.close(reader)
    assert not (tmp_path / "a.mp4").exists()


@pytest.fixture
def folder(tmp_path: Path) -> RecordingFolder:
    return RecordingFolder(RecordingConfig(enabled=True, directory=tmp_path, max_age_s=100))


def test_names_cannot_be_guessed_and_lead_to_their_file(folder: RecordingFolder, tmp_path: Path) -> None:
    names = {folder.new_file()[0] for _ in range(100)}
    assert len(names) == 100
    name, path = folder.new_file()
    assert path.parent == tmp_path
    assert folder.path_of(name) is None
    path.write_bytes(b"mp4")
    assert folder.path_of(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../secret.mp4",
        "a.mp4",
        "/etc/passwd",
        "x" * 22 + ".mp4\n",
        "x" * 22 + ".mp4.part",
        "%2e%2e",
    ],
)
def test_other_names_lead_nowhere(folder: RecordingFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"mp4")
    assert folder.path_of(name) is None


def test_a_link_out_of_the_folder_leads_nowhere(folder: RecordingFolder, tmp_path: Path) -> None:
    name, path = folder.new_file()
    path.symlink_to("/etc/passwd")
    assert folder.path_of(name) is None


def test_expired_recordings_go_and_others_stay(folder: RecordingFolder, tmp_path: Path) -> None:
    ages_s = {"old.mp4": 150, "new.mp4": 50, f"broken.mp4{PARTIAL_SUFFIX}": 150, "notes.txt": 150}
    for name, age_s in ages_s.items():
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (10_000 - age_s, 10_000 - age_s))
    assert folder.delete_expired(10_000) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.mp4", "notes.txt"]
