import time

import av
import numpy as np
import pytest

from serve_app.config import EncoderConfig
from serve_app.nouns import PACKET_SAMPLES, SOUND_HZ, Patch
from serve_app.rtc.encoder import SILENCE, H264Encoder, I420Frame, OpusEncoder
from serve_app.rtc.sender import split_nals
from tests.unit.rtc.portrait import base_loop, compose, psnr, speaking

pytestmark = pytest.mark.unit

LOOP = base_loop(30, 256)


def nal_types(unit: bytes) -> list[int]:
    return [nal[0] & 0x1F for nal in split_nals(unit)]


def decode(units: list[bytes]) -> list[np.ndarray]:
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit))]
    return [frame.to_ndarray().reshape(-1) for frame in frames + decoder.decode(None)]


def encoder(config: EncoderConfig | None = None) -> H264Encoder:
    return H264Encoder(256, 256, 30, config or EncoderConfig())


def test_a_keyframe_is_an_idr_with_its_parameter_sets() -> None:
    h264 = encoder()
    units = [h264.encode(LOOP.frames[n], keyframe=n == 5) for n in range(8)]
    for n, unit in enumerate(units):
        kinds = nal_types(unit)
        if n in {0, 5}:
            assert kinds[:2] == [7, 8]
            assert kinds[-1] == 5
        else:
            assert kinds == [1]


def test_the_profile_is_baseline_level_3_1() -> None:
    sps = split_nals(encoder().encode(LOOP.frames[0], keyframe=True))[0]
    assert (sps[1], sps[3]) == (66, 31)


def test_pictures_survive_encoding() -> None:
    h264 = encoder()
    decoded = decode([h264.encode(frame, keyframe=False) for frame in LOOP.frames])
    assert len(decoded) == len(LOOP.frames)
    assert min(psnr(shown, frame) for shown, frame in zip(decoded, LOOP.frames, strict=True)) > 33


@pytest.mark.parametrize("bps", [200_000, 2_000_000])
def test_the_bitrate_follows_within_a_second_without_a_keyframe(bps: int) -> None:
    rng = np.random.default_rng(0)
    h264 = encoder(EncoderConfig(start_bitrate_bps=700_000))
    frames = [
        np.clip(LOOP.frames[n % 30] + rng.normal(0, 8, LOOP.frames[0].shape), 0, 255).astype(np.uint8)
        for n in range(30)
    ]
    sizes = []
    for n in range(120):
        if n == 30:
            h264.bitrate_bps = bps
        unit = h264.encode(frames[n % 30], keyframe=False)
        assert n == 0 or nal_types(unit) == [1]
        sizes.append(len(unit))
    assert sum(sizes[60:]) * 8 / 2 == pytest.approx(bps, rel=0.25)


def test_the_bitrate_is_kept_in_the_configured_range() -> None:
    h264 = encoder(EncoderConfig(min_bitrate_bps=150_000, max_bitrate_bps=2_500_000))
    h264.bitrate_bps = 1
    assert h264.bitrate_bps == 150_000
    h264.bitrate_bps = 10**9
    assert h264.bitrate_bps == 2_500_000


def test_a_keyframe_does_not_burst() -> None:
    h264 = encoder(EncoderConfig(start_bitrate_bps=500_000))
    units = [h264.encode(LOOP.frames[n % 30], keyframe=n == 60) for n in range(61)]
    assert len(units[60]) * 8 < 0.5 * 500_000


def test_a_keyframe_on_a_link_that_became_narrow_is_small() -> None:
    h264 = encoder(EncoderConfig(start_bitrate_bps=2_000_000, max_bitrate_bps=2_500_000))
    rng = np.random.default_rng(0)
    noisy = [
        np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8) for frame in LOOP.frames
    ]
    wide = h264.encode(noisy[0], keyframe=True)
    for n in range(1, 30):
        h264.encode(noisy[n], keyframe=False)
    h264.bitrate_bps = 200_000
    narrow = [h264.encode(noisy[n], keyframe=n == 0) for n in range(30)]
    assert nal_types(narrow[0])[:2] == [7, 8]
    assert len(narrow[0]) * 8 < 100_000 < len(wide) * 8
    assert sum(map(len, narrow)) * 8 < 300_000
    assert (
        min(psnr(shown, frame) for shown, frame in zip(decode([wide, *narrow])[1:], noisy, strict=True)) > 15
    )


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="98304"):
        encoder().encode(np.zeros(100, np.uint8), keyframe=False)


def test_a_patch_is_laid_over_the_picture() -> None:
    picture = speaking(LOOP, 7)
    frame = I420Frame(256, 256)
    frame.fill(LOOP.frames[7])
    assert picture.patch is not None
    frame.paste(picture.patch)
    assert np.array_equal(frame.frame.to_ndarray().reshape(-1), compose(LOOP, picture))


def test_rows_are_padded_where_the_width_is_not_aligned() -> None:
    frame = I420Frame(100, 60)
    picture = np.arange(100 * 60 * 3 // 2).astype(np.uint8)
    frame.fill(picture)
    frame.paste(Patch(10, 20, 4, 2, np.full(12, 255, np.uint8)))
    shown = frame.frame.to_ndarray().reshape(-1)
    changed = np.flatnonzero(shown != picture)
    assert set(shown[changed]) == {255}
    assert len(changed) >= 10


def opus_decode(packets: list[bytes]) -> np.ndarray:
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout, decoder.format = SOUND_HZ, "mono", "s16"
    return np.concatenate([f.to_ndarray().reshape(-1) for p in packets for f in decoder.decode(av.Packet(p))])


def test_silence_is_one_packet_of_20_ms_without_sound() -> None:
    decoded = opus_decode([SILENCE] * 5)
    assert len(decoded) == 5 * PACKET_SAMPLES
    assert not decoded.any()


def test_sound_survives_opus_between_silence() -> None:
    opus = OpusEncoder()
    time_s = np.arange(50 * PACKET_SAMPLES) / SOUND_HZ
    tone = (8000 * np.sin(2 * np.pi * 300 * time_s)).astype(np.int16)
    packets = [opus.encode(chunk) for chunk in tone.reshape(50, PACKET_SAMPLES)]
    assert max(len(packet) for packet in packets) < 300
    decoded = opus_decode([SILENCE] * 10 + packets + [SILENCE] * 10)
    heard = decoded[20 * PACKET_SAMPLES : 50 * PACKET_SAMPLES].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(spectrum) * SOUND_HZ / len(heard) == pytest.approx(300, abs=5)
    assert np.abs(decoded[-5 * PACKET_SAMPLES :]).max() < 10


def test_a_sound_packet_is_encoded_in_less_than_a_millisecond() -> None:
    opus = OpusEncoder()
    noise = np.random.default_rng(0).integers(-3000, 3000, PACKET_SAMPLES).astype(np.int16)
    opus.encode(noise)
    start_s = time.thread_time()
    for _ in range(50):
        opus.encode(noise)
    assert (time.thread_time() - start_s) / 50 < 1e-3
