from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("livekit.rtc")

from livekit import rtc

from serve_app.errors import SpeechOverrun
from serve_app.rooms.livekit_worker import IDLE_S, MAX_ATTEMPTS, SUPERSEDED_S, AvatarWorker
from tests.unit.rooms.fakes import AGENT, FakeReader, FakeRoom, FakeSpeaker, livekit_sdk
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

HZ = 24_000
SDK: ModuleType = rtc


def pcm(seconds: float, hz: int = HZ, channels: int = 1) -> bytes:
    frames = (np.arange(round(seconds * hz)) % 1000).astype("<i2")
    return np.repeat(frames, channels).tobytes()


class Stage:
    """A worker in a room with an agent, and a speaker that plays in real time."""

    def __init__(self, clock: VirtualClock, agent: str | None = AGENT) -> None:
        self.clock = clock
        self.room = FakeRoom()
        self.speaker = FakeSpeaker(clock)
        self.audible = asyncio.Event()
        self.audible.set()
        self.worker = AvatarWorker(
            livekit_sdk(self.room),
            self.room,
            self.speaker,
            clock,
            agent=agent,
            audible=self._until_audible,
        )
        self.speaker.listener = self.worker
        self.room.enter(AGENT, "AGENT")
        self.worker.expect_streams()
        self.worker.expect_calls()
        self.running = asyncio.create_task(self.worker.run())

    async def _until_audible(self) -> None:
        await self.audible.wait()

    @property
    def finished(self) -> list[dict[str, Any]]:
        return [json.loads(p) for p in self.room.local_participant.called("lk.playback_finished")]

    def say(self, seconds: float, *, chunk: int = 15_000, **stream: Any) -> FakeReader:
        """Stream a segment at once, faster than real time, and end it."""
        reader = self.room.stream(**stream)
        data = pcm(seconds, stream.get("hz", HZ), stream.get("channels", 1))
        for at in range(0, len(data), chunk):
            reader.write(data[at : at + chunk])
        reader.write(None)
        return reader


def staged(scenario: Callable[[Stage], Awaitable[None]], agent: str | None = AGENT) -> None:
    async def run(clock: VirtualClock) -> None:
        stage = Stage(clock, agent)
        await scenario(stage)
        assert not stage.running.done()

    run_virtual(run)


def test_segment_is_spoken_and_reported_with_exactly_the_three_keys() -> None:
    async def scenario(stage: Stage) -> None:
        reader = stage.say(1.28)
        await asyncio.sleep(5.0)
        assert stage.speaker.calls[0] == ("begin", 0)
        assert stage.speaker.calls[-1] == ("end", 0)
        assert np.concatenate(stage.speaker.speech[0]).astype("<i2").tobytes() == pcm(1.28)
        assert stage.speaker.rates[0] == {HZ}
        assert stage.room.local_participant.calls == [
            (AGENT, "lk.playback_started", ""),
            (
                AGENT,
                "lk.playback_finished",
                '{"playback_position": 1.28, "interrupted": false, "synchronized_transcript": null}',
            ),
        ]
        assert reader.is_closed

    staged(scenario)


@pytest.mark.parametrize("chunk", [1, 3, 1_001, 15_000, 10_000_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_cut_anywhere_arrives_whole(chunk: int, channels: int) -> None:
    async def scenario(stage: Stage) -> None:
        seconds = 0.05 if chunk < 100 else 3.0
        stage.say(seconds, chunk=chunk, hz=16_000, channels=channels)
        await asyncio.sleep(10.0)
        assert np.concatenate(stage.speaker.speech[0]).astype("<i2").tobytes() == pcm(seconds, 16_000)
        assert stage.speaker.rates[0] == {16_000}
        assert len(stage.finished) == 1

    staged(scenario)


def test_segments_queue_in_order() -> None:
    async def scenario(stage: Stage) -> None:
        for seconds in (0.3, 0.2, 0.1):
            stage.say(seconds)
        await asyncio.sleep(5.0)
        assert [round(f["playback_position"], 3) for f in stage.finished] == [0.3, 0.2, 0.1]
        assert [c for c in stage.speaker.calls if c[0] != "feed"] == [
            (name, tag) for tag in range(3) for name in ("begin", "end")
        ]

    staged(scenario)


def test_empty_segment_gets_its_one_report() -> None:
    async def scenario(stage: Stage) -> None:
        stage.say(0.3)
        stage.say(0.0)
        stage.say(0.2)
        await asyncio.sleep(5.0)
        assert [f["playback_position"] for f in stage.finished] == [0.3, 0.0, 0.2]
        assert not any(f["interrupted"] for f in stage.finished)

    staged(scenario)


def test_agent_interrupts_and_is_told_what_was_heard_of_every_segment_once() -> None:
    async def scenario(stage: Stage) -> None:
        stage.say(10.0)
        stage.say(5.0)
        arriving = stage.room.stream()
        arriving.write(pcm(0.5))
        await asyncio.sleep(2.0)
        asked_s = stage.clock.now_s()
        assert stage.room.clear() == "ok"
        await asyncio.sleep(0.01)
        assert stage.clock.now_s() - asked_s < 0.1
        positions = [(round(f["playback_position"], 1), f["interrupted"]) for f in stage.finished]
        assert positions == [(2.0, True), (0.0, True), (0.0, True)]
        arriving.write(pcm(0.5))
        arriving.write(None)
        await asyncio.sleep(5.0)
        assert arriving.is_closed
        assert len(stage.finished) == 3
        assert stage.speaker.calls[-1] == ("interrupt",)

    staged(scenario)


def test_what_comes_after_an_interruption_is_spoken() -> None:
    async def scenario(stage: Stage) -> None:
        stage.say(10.0)
        await asyncio.sleep(1.0)
        stage.room.clear()
        stage.say(0.4)
        await asyncio.sleep(5.0)
        assert [(round(f["playback_position"], 1), f["interrupted"]) for f in stage.finished] == [
            (1.0, True),
            (0.4, False),
        ]

    staged(scenario)


def test_interruption_without_speech_is_confirmed_and_reports_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        assert stage.room.clear() == "ok"
        await asyncio.sleep(1.0)
        assert stage.finished == []

    staged(scenario)


def test_only_the_agent_may_clear_or_speak() -> None:
    async def scenario(stage: Stage) -> None:
        stage.room.enter("user-1")
        stage.say(2.0)
        await asyncio.sleep(0.5)
        assert stage.room.clear("user-1") == "reject"
        intruder = stage.room.stream(sender="user-1")
        assert intruder.is_closed
        await asyncio.sleep(5.0)
        assert stage.finished == [
            {"playback_position": 2.0, "interrupted": False, "synchronized_transcript": None}
        ]

    staged(scenario)


def test_without_a_named_agent_the_first_of_agent_kind_is_heard() -> None:
    async def scenario(stage: Stage) -> None:
        stage.room.exit(AGENT)
        heard = [stage.worker.agent]
        stage.room.enter("user-1")
        stage.room.enter("avatar-2", "AGENT", {"lk.publish_on_behalf": "somebody"})
        heard.append(stage.worker.agent)
        stage.room.enter("agent-7", "AGENT")
        stage.room.enter("agent-8", "AGENT")
        heard.append(stage.worker.agent)
        stage.say(0.2, sender="agent-7")
        await asyncio.sleep(1.0)
        assert {who for who, _, _ in stage.room.local_participant.calls} == {"agent-7"}
        stage.room.exit("agent-7")
        heard.append(stage.worker.agent)
        assert heard == [None, None, "agent-7", "agent-8"]

    staged(scenario, agent=None)


def test_stream_that_lost_its_end_is_ended_by_the_next_one() -> None:
    async def scenario(stage: Stage) -> None:
        lost = stage.room.stream()
        lost.write(pcm(0.3))
        await asyncio.sleep(1.0)
        next_one = stage.room.stream()
        lost.write(pcm(0.2))
        next_one.write(pcm(0.4))
        next_one.write(None)
        await asyncio.sleep(SUPERSEDED_S + 3.0)
        assert [f["playback_position"] for f in stage.finished] == [0.5, 0.4]
        assert lost.is_closed

    staged(scenario)


def test_last_stream_that_lost_its_end_is_ended_when_it_goes_quiet() -> None:
    async def scenario(stage: Stage) -> None:
        lost = stage.room.stream()
        lost.write(pcm(0.3))
        await asyncio.sleep(IDLE_S - 1.0)
        assert stage.finished == []
        await asyncio.sleep(2.0)
        assert [f["playback_position"] for f in stage.finished] == [0.3]

    staged(scenario)


def test_stream_that_breaks_off_ends_its_segment() -> None:
    async def scenario(stage: Stage) -> None:
        broken = stage.room.stream()
        broken.write(pcm(0.3))
        broken.write(SDK.StreamError("Disconnected while receiving"))
        await asyncio.sleep(2.0)
        assert [f["playback_position"] for f in stage.finished] == [0.3]

    staged(scenario)


@pytest.mark.parametrize(
    "attributes",
    [
        None,
        {},
        {"sample_rate": "24000"},
        {"num_channels": "1"},
        {"sample_rate": "fast", "num_channels": "1"},
        {"sample_rate": "1", "num_channels": "1"},
        {"sample_rate": "24000", "num_channels": "0"},
        {"sample_rate": "24000", "num_channels": "64"},
        {"sample_rate": "٢٤٠٠٠", "num_channels": "1"},
    ],
)
def test_stream_that_cannot_be_used_is_reported_as_not_heard(attributes: dict[str, str] | None) -> None:
    async def scenario(stage: Stage) -> None:
        reader = stage.room.stream_with(attributes)
        stage.say(0.2)
        await asyncio.sleep(2.0)
        assert reader.is_closed
        assert [(f["playback_position"], f["interrupted"]) for f in stage.finished] == [
            (0.0, True),
            (0.2, False),
        ]

    staged(scenario)


def test_first_words_wait_until_somebody_can_hear_them() -> None:
    async def scenario(stage: Stage) -> None:
        stage.audible.clear()
        stage.running.cancel()
        stage.running = asyncio.create_task(stage.worker.run())
        stage.say(0.2)
        await asyncio.sleep(1.0)
        assert stage.speaker.calls == []
        stage.audible.set()
        await asyncio.sleep(1.0)
        assert len(stage.finished) == 1

    staged(scenario)


def test_speech_waits_for_a_session_that_is_full() -> None:
    async def scenario(stage: Stage) -> None:
        stage.speaker = FakeSpeaker(stage.clock, max_buffered_s=2.0)
        stage.speaker.listener = stage.worker
        stage.worker._speaker = stage.speaker
        stage.speaker.overruns = [SpeechOverrun("full", 1.0)]
        stage.say(6.0)
        await asyncio.sleep(1.5)
        assert stage.speaker.seconds(0) < 4.0
        await asyncio.sleep(10.0)
        assert [f["playback_position"] for f in stage.finished] == [6.0]

    staged(scenario)


def test_agent_that_takes_no_playback_started_is_called_once_for_it() -> None:
    async def scenario(stage: Stage) -> None:
        stage.room.local_participant.errors = [rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD]
        stage.say(0.2)
        await asyncio.sleep(1.0)
        stage.say(0.2)
        await asyncio.sleep(1.0)
        assert [method for _, method, _ in stage.room.local_participant.calls] == [
            "lk.playback_started",
            "lk.playback_finished",
            "lk.playback_finished",
        ]

    staged(scenario)


@pytest.mark.parametrize(
    ("code", "attempts"),
    [("CONNECTION_TIMEOUT", MAX_ATTEMPTS), ("SEND_FAILED", MAX_ATTEMPTS), ("RESPONSE_TIMEOUT", 1)],
)
def test_report_is_repeated_only_while_it_cannot_have_arrived(code: str, attempts: int) -> None:
    async def scenario(stage: Stage) -> None:
        failure = getattr(rtc.RpcError.ErrorCode, code)
        stage.room.local_participant.errors = [None, failure, failure, failure]
        stage.say(0.2)
        await asyncio.sleep(2.0)
        assert len(stage.finished) == attempts
        stage.room.local_participant.errors = []
        stage.say(0.4)
        await asyncio.sleep(2.0)
        assert stage.finished[-1]["playback_position"] == 0.4

    staged(scenario)


def test_agent_that_never_answers_a_start_is_still_told_the_end_at_once() -> None:
    async def scenario(stage: Stage) -> None:
        stage.room.local_participant.answer = lambda: asyncio.sleep(15.0)
        stage.say(5.0)
        await asyncio.sleep(1.0)
        stage.room.clear()
        await asyncio.sleep(0.01)
        assert [(round(f["playback_position"], 1), f["interrupted"]) for f in stage.finished] == [(1.0, True)]

    staged(scenario)


def test_speech_cut_by_the_session_is_reported_and_the_rest_of_its_stream_dropped() -> None:
    async def scenario(stage: Stage) -> None:
        reader = stage.room.stream()
        reader.write(pcm(1.0))
        await asyncio.sleep(0.5)
        stage.speaker.interrupt()
        reader.write(pcm(1.0))
        await asyncio.sleep(1.0)
        assert [(round(f["playback_position"], 1), f["interrupted"]) for f in stage.finished] == [(0.5, True)]
        assert reader.is_closed

    staged(scenario)


def test_closed_worker_reads_no_stream() -> None:
    async def scenario(stage: Stage) -> None:
        reader = stage.room.stream()
        await asyncio.sleep(0.1)
        stage.worker.close()
        await asyncio.sleep(0.1)
        assert reader.is_closed
        assert stage.room.byte_handlers == {}

    staged(scenario)
