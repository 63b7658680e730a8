from __future__ import annotations

import io
import itertools
import struct
import wave

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import InvalidAudio
from serve_app.media.pcm import Resampler, WavStream, container_of, decode_pcm16, decode_wav
from serve_app.nouns import Int16

pytestmark = pytest.mark.unit

GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def fmt(bits: int = 16, channels: int = 1, hz: int = 16_000, tag: int = 1, extensible: bool = False) -> bytes:
    align = channels * ((bits + 7) // 8)
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, hz, hz * align, align, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 0, tag) + GUID_TAIL
    return chunk(b"fmt ", head)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def sine(hz: int, seconds: float, pitch_hz: float = 440.0) -> npt.NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(hz * seconds)) / hz)


def sweep(hz: int, seconds: float, top_hz: float) -> npt.NDArray[np.float64]:
    t = np.arange(round(hz * seconds)) / hz
    return 0.5 * np.sin(2 * np.pi * (50 * t + (top_hz - 50) * t * t / (2 * seconds)))


def snr_db(got: npt.NDArray[np.float64], want: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10((want**2).mean() / ((got - want) ** 2).mean()))


def as_int16(wanted: npt.NDArray[np.float64]) -> Int16:
    return np.rint(wanted * 32_768).astype(np.int16)


def test_what_the_wave_module_writes_is_read_unchanged() -> None:
    samples = as_int16(sine(16_000, 0.1))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.tobytes())
    got, hz = decode_wav(file.getvalue())
    assert hz == 16_000
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, samples)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("tag", "bits", "tolerance"), [(1, 8, 129), (1, 16, 1), (1, 24, 1), (1, 32, 1), (3, 32, 1), (3, 64, 1)]
)
def test_every_sample_format_gives_the_same_sound(
    tag: int, bits: int, tolerance: int, extensible: bool
) -> None:
    wanted = sine(48_000, 0.05)
    if tag == 3:
        body = wanted.astype("<f4" if bits == 32 else "<f8").tobytes()
    elif bits == 8:
        body = (np.rint(wanted * 128) + 128).astype(np.uint8).tobytes()
    else:
        wide = np.rint(wanted * 2.0 ** (bits - 1)).astype("<i4")
        body = wide.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    got, hz = decode_wav(riff(fmt(bits, 1, 48_000, tag, extensible), chunk(b"data", body)))
    assert hz == 48_000
    assert np.abs(got.astype(int) - as_int16(wanted).astype(int)).max() <= tolerance


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_several_channels_become_their_mean(channels: int) -> None:
    frames = np.arange(channels * 50, dtype=np.int16).reshape(-1, channels) * 100
    got, _ = decode_wav(riff(fmt(16, channels), chunk(b"data", frames.astype("<i2").tobytes())))
    np.testing.assert_array_equal(got, np.rint(frames.mean(axis=1)).astype(np.int16))


def test_floats_beyond_full_scale_are_clipped() -> None:
    body = np.array([2.0, -2.0, 1.0, 3e38], "<f4").tobytes()
    got, _ = decode_wav(riff(fmt(32, tag=3), chunk(b"data", body)))
    assert got.tolist() == [32_767, -32_768, 32_767, 32_767]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InvalidAudio, match="finite"):
        decode_wav(riff(fmt(32, tag=3), chunk(b"data", np.array([0, bad], "<f4").tobytes())))


def test_other_chunks_and_odd_padding_are_skipped() -> None:
    body = np.arange(9, dtype=np.uint8).tobytes()
    got, _ = decode_wav(
        riff(
            chunk(b"JUNK", b"abc"),
            fmt(8),
            chunk(b"LIST", b"INFO!"),
            chunk(b"data", body),
            chunk(b"id3 ", b"x" * 7),
        )
    )
    np.testing.assert_array_equal(got, (np.arange(9) - 128) * 256)


def test_a_missing_pad_byte_at_the_end_of_the_file_is_forgiven() -> None:
    got, _ = decode_wav(riff(fmt(8), chunk(b"data", b"\x80\x90\xa0"))[:-1])
    assert len(got) == 3


@pytest.mark.parametrize("data_size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("riff_size", [0, 36, 0x7FFFF024, 0xFFFFFFFF])
def test_open_sizes_of_streaming_writers_reach_to_the_end(data_size: int, riff_size: int) -> None:
    body = as_int16(sine(16_000, 0.05)).tobytes()
    got, _ = decode_wav(riff(fmt(), chunk(b"data", body, data_size), size=riff_size))
    assert got.tobytes() == body


def test_an_honest_empty_data_chunk_has_no_sound() -> None:
    got, _ = decode_wav(riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFOabcd")))
    assert len(got) == 0


def test_a_cut_file_is_refused_with_both_byte_counts() -> None:
    whole = riff(fmt(), chunk(b"data", bytes(1000)))
    with pytest.raises(InvalidAudio, match="cut: expected 1000 bytes of sound, got 600"):
        decode_wav(whole[:-400])


@pytest.mark.parametrize("length", [0, 1, 4, 11, 12, 20, 36, 43])
def test_a_cut_header_is_refused(length: int) -> None:
    with pytest.raises(InvalidAudio, match="expected a header"):
        decode_wav(riff(fmt(), chunk(b"data", bytes(100)))[:length])


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (riff(fmt(8, tag=7), chunk(b"data", b"12")), r"mu-law \(0x0007\)"),
        (riff(fmt(8, tag=6, extensible=True), chunk(b"data", b"12")), r"A-law \(0x0006\)"),
        (riff(fmt(16, tag=0x1234), chunk(b"data", b"12")), r"an unknown format \(0x1234\)"),
        (riff(fmt(16, hz=4_000), chunk(b"data", b"12")), "8000 to 192000 Hz, got 4000 Hz"),
        (riff(fmt(16, hz=384_000), chunk(b"data", b"12")), "got 384000 Hz"),
        (riff(fmt(16, channels=0), chunk(b"data", b"12")), "1 to 32 channels, got 0"),
        (riff(fmt(16, channels=33), chunk(b"data", bytes(66))), "1 to 32 channels, got 33"),
        (riff(fmt(64), chunk(b"data", bytes(8))), "PCM of 8, 16, 24 or 32 bits, got 64 bits"),
        (riff(fmt(16, tag=3), chunk(b"data", bytes(8))), "float of 32 or 64 bits, got 16 bits"),
        (riff(chunk(b"fmt ", bytes(8)), chunk(b"data", b"12")), "at least 16 bytes, got 8"),
        (riff(chunk(b"fmt ", bytes(5000))), "at most 4096 bytes, got 5000"),
        (riff(chunk(b"fmt ", b"\xfe\xff" + bytes(16))), "40 bytes, got 18"),
        (riff(chunk(b"fmt ", b"\xfe\xff" + bytes(38))), "subformat"),
        (riff(chunk(b"data", b"12"), fmt()), "fmt chunk before the data chunk"),
        (riff(fmt(), chunk(b"data", b"123")), "whole frames of 2 bytes, got 3 bytes"),
        (riff(fmt()).replace(b"WAVE", b"AVI "), "type WAVE"),
        (b"OggS" + bytes(40), "got Ogg"),
        (b"hello there", "begins with RIFF"),
    ],
)
def test_what_cannot_be_decoded_is_named(file: bytes, found: str) -> None:
    with pytest.raises(InvalidAudio, match=found):
        decode_wav(file)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for candidate in (data, b"RIFF\0\0\0\0WAVE" + data, riff(fmt(), data)):
        try:
            samples, _ = decode_wav(candidate)
        except InvalidAudio:
            continue
        assert samples.dtype == np.int16


@given(st.lists(st.integers(0, 120), max_size=6), st.sampled_from([1, 2]), st.sampled_from([8, 16, 24]))
def test_a_stream_cut_anywhere_gives_the_whole_files_sound(cuts: list[int], channels: int, bits: int) -> None:
    body = np.random.default_rng(1).integers(0, 256, 12 * channels * bits // 8, np.uint8).tobytes()
    file = riff(fmt(bits, channels), chunk(b"LIST", b"abc"), chunk(b"data", body), chunk(b"id3 ", b"tail"))
    whole, hz = decode_wav(file)
    stream = WavStream()
    edges = [0, *sorted(cuts), len(file)]
    got = [stream.push(file[a:b]) for a, b in itertools.pairwise(edges)]
    stream.finish()
    assert stream.hz == hz
    np.testing.assert_array_equal(np.concatenate(got), whole)


def test_a_stream_of_whole_files_is_one_sound() -> None:
    stream = WavStream()
    parts = [np.full(10, i, np.int16) for i in range(3)]
    got = [stream.push(riff(fmt(), chunk(b"data", part.tobytes()))) for part in parts]
    stream.finish()
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(parts))


def test_a_stream_of_open_files_is_one_sound() -> None:
    stream = WavStream()
    file = riff(fmt(), chunk(b"data", bytes(20), 0xFFFFFFFF), size=0xFFFFFFFF)
    assert [len(stream.push(part)) for part in (file, bytes(6), file)] == [10, 3, 10]


def test_a_stream_keeps_its_rate() -> None:
    stream = WavStream()
    stream.push(riff(fmt(), chunk(b"data", bytes(20))))
    with pytest.raises(InvalidAudio, match="expected 16000 Hz as before, got 24000 Hz"):
        stream.push(riff(fmt(hz=24_000), chunk(b"data", bytes(20))))


def test_pcm16_is_little_endian() -> None:
    assert decode_pcm16(b"\x01\x00\x00\x80\xff\x7f").tolist() == [1, -32_768, 32_767]


def test_half_a_pcm_sample_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="got 3 bytes"):
        decode_pcm16(b"abc")


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\x1aE\xdf\xa3....", "WebM or Matroska"), (b"\0\0\0\x18ftypmp42", "MP4"), (b"\0\0\1\0\2\0", None)],
)
def test_containers_are_recognised(data: bytes, name: str | None) -> None:
    assert container_of(data) == name


RATES = [
    (16_000, 48_000),
    (24_000, 48_000),
    (24_000, 16_000),
    (48_000, 16_000),
    (44_100, 16_000),
    (44_100, 48_000),
    (8_000, 16_000),
    (192_000, 48_000),
    (11_025, 48_000),
]


def resampled(samples: Int16, from_hz: int, to_hz: int, piece: int) -> Int16:
    resampler = Resampler(from_hz, to_hz)
    out = [resampler.push(samples[i : i + piece]) for i in range(0, len(samples), piece)]
    return np.concatenate([*out, resampler.flush()])


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_sweep_survives_resampling(from_hz: int, to_hz: int) -> None:
    top_hz = 0.35 * min(from_hz, to_hz)
    got = resampled(as_int16(sweep(from_hz, 1.0, top_hz)), from_hz, to_hz, from_hz // 50)
    wanted = sweep(to_hz, 1.0, top_hz)
    inner = slice(200, min(len(got), len(wanted)) - 200)
    assert snr_db(got[inner] / 32_768, wanted[inner]) > 60


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("piece", [1, 7, 160, 333])
def test_pieces_leave_no_seam(from_hz: int, to_hz: int, piece: int) -> None:
    samples = np.random.default_rng(2).integers(-9_000, 9_000, 2_400).astype(np.int16)
    whole = resampled(samples, from_hz, to_hz, len(samples))
    np.testing.assert_array_equal(resampled(samples, from_hz, to_hz, piece), whole)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3_000), st.sampled_from(RATES))
def test_the_count_follows_the_rates(count: int, rates: tuple[int, int]) -> None:
    from_hz, to_hz = rates
    got = resampled(np.ones(count, np.int16), from_hz, to_hz, 500)
    assert len(got) == round(count * to_hz / from_hz)


def test_equal_rates_pass_unchanged() -> None:
    samples = np.arange(100, dtype=np.int16)
    resampler = Resampler(16_000, 16_000)
    np.testing.assert_array_equal(resampler.push(samples), samples)
    assert len(resampler.flush()) == 0


def test_a_flushed_resampler_begins_anew() -> None:
    samples = as_int16(sine(16_000, 0.1))
    resampler = Resampler(16_000, 48_000)
    first = np.concatenate([resampler.push(samples), resampler.flush()])
    second = np.concatenate([resampler.push(samples), resampler.flush()])
    np.testing.assert_array_equal(first, second)


def test_flushing_what_was_never_fed_gives_nothing() -> None:
    assert len(Resampler(16_000, 48_000).flush()) == 0
