"""What the benchmarks compute from received media."""

from __future__ import annotations

import pytest

from serve_app.nouns import SOUND_HZ
from tests.benchmarks.bench_latency import (
    FPS,
    Packet,
    Picture,
    Reading,
    drift,
    onsets_of_picture,
    onsets_of_sound,
    pair,
    pattern,
    repeats_and_skips,
)
from tests.benchmarks.bench_sessions import Measured, best, bytes_per_session
from tests.benchmarks.load import Count
from tests.benchmarks.report import Row, table

pytestmark = pytest.mark.unit


def packet(number: int, *, onset: int = -1, offset: int = -1) -> Packet:
    return Packet(number * 960, number * 0.02, onset, offset)


def picture(number: int, reading: Reading | None) -> Picture:
    return Picture(number * 3000, number / FPS, number / FPS, reading)


def test_onsets_of_sound_are_found_to_the_sample_after_real_silence_only() -> None:
    voiced = {3: (480, 959), 4: (0, 959), 7: (0, 959), 30: (96, 959)}
    packets = [
        packet(n, onset=voiced.get(n, (-1, -1))[0], offset=voiced.get(n, (-1, -1))[1]) for n in range(40)
    ]
    found = onsets_of_sound(packets, lambda p: p.timestamp / SOUND_HZ)
    assert found == pytest.approx([0.07, 0.602])


def test_onsets_of_picture_are_the_first_loud_frames() -> None:
    loud, soft = Reading(0, is_loud=True), Reading(0, is_loud=False)
    readings = [None, soft, loud, loud, soft, loud, None, loud]
    pictures = [picture(n, reading) for n, reading in enumerate(readings)]
    assert onsets_of_picture(pictures, lambda p: float(p.timestamp)) == [6000.0, 15000.0, 21000.0]


def test_each_onset_of_sound_is_paired_with_the_nearest_picture() -> None:
    pairs = pair([1.0, 2.0, 9.0], [0.99, 2.01, 5.0])
    assert [at for at, _ in pairs] == [1.0, 2.0]
    assert [offset for _, offset in pairs] == pytest.approx([-0.01, 0.01])


def test_a_steady_slope_is_found_as_drift_over_the_run() -> None:
    drift_s, error_s = drift([(float(at), 0.001 * at + 0.005) for at in range(11)])
    assert drift_s == pytest.approx(0.01)
    assert error_s == pytest.approx(0.0, abs=1e-9)


def test_repeated_and_skipped_frames_are_counted_within_utterances() -> None:
    indices = [0, 1, 1, 2, 5, 0, 1]
    pictures = [picture(n, Reading(index, is_loud=True)) for n, index in enumerate(indices)]
    assert repeats_and_skips(pictures) == (1, 2)


def test_the_pattern_changes_on_frame_boundaries() -> None:
    speech = pattern(1.4)
    assert len(speech) == 2 * 21 * 16_000 // FPS
    assert not speech[4800:11_200].any()
    assert speech[11_200:11_300].any()


def test_gaps_between_frames_are_counted() -> None:
    count = Count()
    for now_s in (1.0, 1.03, 1.1, 1.13):
        count.add(now_s)
    assert (count.frames, count.late_gaps) == (4, 1)
    assert count.worst_gap_s == pytest.approx(0.07)


def measured(sessions: int, share: float) -> Measured:
    counts = {"frames_share": share, "packets_share": 1.0}
    return Measured(sessions, {"SessionHost": 0.1 * sessions}, 10_000 + 500 * sessions, counts)


def test_the_largest_served_load_counts_and_memory_is_its_slope() -> None:
    series = [measured(1, 1.0), measured(2, 1.0), measured(4, 0.99), measured(8, 0.9)]
    top = best(series)
    assert top is not None
    assert top.sessions == 4
    assert top.per_core == pytest.approx(10.0)
    assert bytes_per_session(series) == pytest.approx(500)


def test_the_table_shows_target_ratio_and_whether_it_is_met() -> None:
    lines = table(
        [Row("sessions", 9.0, "", 8.0, at_least=True, baseline=3.0), Row("latency", 90.0, "ms", 80.0)]
    )
    assert "| sessions | ≥ 8.00 | **9.00** | ✓ | 3.00 (3.0×) |" in lines
    assert "| latency | ≤ 80.0 ms | **90.0 ms** | ✗ |" in lines
