import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import av
import numpy as np
import pytest

from serve_app.config import EncoderConfig
from serve_app.media.idle import EncodedLoop
from serve_app.nouns import Picture
from serve_app.rtc.encoder import H264Encoder
from serve_app.rtc.picture import RELEASE_AFTER_S, PictureStream
from serve_app.rtc.sender import split_nals
from tests.unit.rtc.portrait import base_loop, compose, psnr, speaking

pytestmark = pytest.mark.unit

CONFIG = EncoderConfig(start_bitrate_bps=600_000)
LOOP = base_loop(45, 256)
ENCODED = EncodedLoop(LOOP, H264Encoder(256, 256, 30, CONFIG).encode, 0.5)


class CountingExecutor(Executor):
    """Runs jobs at once and counts them."""

    def __init__(self) -> None:
        self.jobs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def executor() -> CountingExecutor:
    return CountingExecutor()


@pytest.fixture
def stream(executor: CountingExecutor) -> PictureStream:
    return PictureStream(LOOP, ENCODED, CONFIG, executor)


def is_idr(unit: bytes) -> bool:
    return any(nal[0] & 0x1F == 5 for nal in split_nals(unit))


def idle(frame: int) -> Picture:
    return Picture(frame, None)


def check_decoded(units: list[bytes], pictures: list[Picture]) -> None:
    """Decode the units one by one and hold every picture against what should be seen."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}
    frames = [frame for unit in units for frame in decoder.decode(av.Packet(unit))] + decoder.decode(None)
    assert len(frames) == len(pictures)
    worst = min(
        psnr(frame.to_ndarray().reshape(-1), compose(LOOP, picture))
        for frame, picture in zip(frames, pictures, strict=True)
    )
    assert worst > 30, f"{worst:.1f} dB"


async def test_no_switch_between_idle_and_speaking_leaves_a_trace(stream: PictureStream) -> None:
    """Idle, speaking, idle, PLI while riding, speaking in mid-loop, a skipped frame, low and high REMB."""
    pictures: list[Picture] = []
    units: list[bytes] = []
    frame = 7
    script: list[tuple[str, int]] = [
        ("idle", 30), ("speak", 20), ("idle", 40), ("pli", 1), ("idle", 3), ("pli", 1), ("speak", 5),
        ("pli", 1), ("speak", 5), ("idle", 60), ("skip", 2), ("idle", 30), ("low", 0), ("idle", 30),
        ("speak", 10), ("high", 0), ("idle", 60),
    ]  # fmt: skip
    for action, count in script:
        if action == "pli":
            stream.request_keyframe()
        elif action in {"low", "high"}:
            stream.target_bitrate_bps = 250_000 if action == "low" else 2_000_000
        for _ in range(count):
            frame += 1
            if action == "skip":
                continue
            pictures.append(speaking(LOOP, frame) if action == "speak" else idle(frame))
            units.append(await stream.encode(pictures[-1]))
            assert action != "pli" or is_idr(units[-1])
    assert stream.is_riding
    check_decoded(units, pictures)


async def test_the_first_unit_is_an_idr_wherever_the_session_starts(executor: CountingExecutor) -> None:
    for frame in range(0, 45, 4):
        for picture in (idle(frame), speaking(LOOP, frame)):
            assert is_idr(await PictureStream(LOOP, ENCODED, CONFIG, executor).encode(picture))


async def test_an_idle_session_enters_the_shared_loop_at_its_next_keyframe(
    stream: PictureStream, executor: CountingExecutor
) -> None:
    units = [await stream.encode(idle(frame)) for frame in range(1, 40)]
    assert executor.jobs == 14
    is_shared = [unit is ENCODED.packet(frame) for frame, unit in enumerate(units, 1)]
    assert is_shared == [False] * 14 + [True] * 25


async def test_speaking_starts_with_an_idr_only_once(stream: PictureStream) -> None:
    for frame in range(10):
        await stream.encode(idle(frame))
    units = [await stream.encode(speaking(LOOP, frame)) for frame in range(10, 20)]
    assert [is_idr(unit) for unit in units] == [True] + [False] * 9


async def test_a_keyframe_request_while_riding_is_answered_at_once(stream: PictureStream) -> None:
    for frame in range(4):
        await stream.encode(idle(frame))
    stream.request_keyframe()
    assert is_idr(await stream.encode(idle(4)))
    assert not stream.is_riding
    assert not is_idr(await stream.encode(idle(5)))


async def test_a_keyframe_of_the_loop_satisfies_a_request(
    stream: PictureStream, executor: CountingExecutor
) -> None:
    for frame in range(15):
        await stream.encode(idle(frame))
    stream.request_keyframe()
    assert is_idr(await stream.encode(idle(15)))
    assert executor.jobs == 0


async def test_a_small_estimate_keeps_the_session_off_the_shared_loop(stream: PictureStream) -> None:
    stream.target_bitrate_bps = int(ENCODED.bitrate_bps / 2)
    sizes = [len(await stream.encode(idle(frame))) for frame in range(90)]
    assert not stream.is_riding
    assert sum(sizes[45:]) * 8 / 1.5 < 0.75 * ENCODED.bitrate_bps


async def test_the_own_encoder_is_given_back_after_some_riding(
    stream: PictureStream,
) -> None:
    await stream.encode(speaking(LOOP, 44))
    had_encoder = stream.has_encoder
    for frame in range(45, 45 + int(RELEASE_AFTER_S * 30)):
        await stream.encode(idle(frame))
    assert (had_encoder, stream.has_encoder) == (True, False)
    assert is_idr(await stream.encode(speaking(LOOP, 200)))


async def test_a_picture_that_was_cancelled_is_followed_by_an_idr() -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = PictureStream(LOOP, ENCODED, CONFIG, pool)
        first = await stream.encode(speaking(LOOP, 1))
        job = asyncio.ensure_future(stream.encode(speaking(LOOP, 2)))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        second = await stream.encode(speaking(LOOP, 3))
    check_decoded([first, second], [speaking(LOOP, 1), speaking(LOOP, 3)])


async def test_the_unencoded_frame_is_the_composed_picture(stream: PictureStream) -> None:
    picture = speaking(LOOP, 100)
    assert np.array_equal(stream.frame(picture).to_ndarray().reshape(-1), compose(LOOP, picture))


async def test_a_closed_stream_keeps_no_encoder(stream: PictureStream) -> None:
    await stream.encode(speaking(LOOP, 1))
    stream.close()
    assert not stream.has_encoder


async def test_sessions_can_be_encoded_side_by_side() -> None:
    with ThreadPoolExecutor(2) as pool:
        streams = [PictureStream(LOOP, ENCODED, CONFIG, pool) for _ in range(3)]
        pictures = [speaking(LOOP, frame) for frame in range(6)]
        units: list[list[bytes]] = [[], [], []]
        for picture in pictures:
            made = await asyncio.gather(*(stream.encode(picture) for stream in streams))
            for own, unit in zip(units, made, strict=True):
                own.append(unit)
    for own in units:
        check_decoded(own, pictures)
