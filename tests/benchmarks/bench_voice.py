"""The voice loop as a caller sees it, through the agent `echo`; minting and answering.

The server's default model must be `tracer`, whose pictures tell a speaking face from an idle one.

    python -m tests.benchmarks.bench_voice --url http://127.0.0.1:8765
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

import httpx

from serve_app.client.received import Receiver
from serve_app.heap import freeze_heap
from serve_app.nouns import Int16
from tests.benchmarks.bench_latency import Log, read_tracer
from tests.benchmarks.report import Row, latency_rows, publish
from tests.realtime_call import RealtimeCall, calling, spoken

SENTENCES = (
    ("en", "Good morning, can you hear me?"),
    ("en-us+f3", "What is the weather like in Rome today?"),
    ("en-gb", "Tell me a little story about the sea."),
    ("en+m4", "Nobody knows how long this will take."),
)
INTERRUPTIONS = ("Wait a moment.", "No, stop it.", "Hello, excuse me.", "Actually, never mind.")


async def loops(call: RealtimeCall, log: Log, number: int) -> tuple[list[float], list[float]]:
    """Measure spoken turns.

    Returns:
        From the event that the user's speech ended to the first speaking picture; and from the user's last
        voiced sample to it.
    """
    sentences = [spoken(text, voice) for voice, text in SENTENCES]
    assert call.microphone is not None
    from_vad_s, from_voice_s = [], []
    for turn in range(number):
        await asyncio.sleep(0.3 + 0.2 * random.random())
        sentence = sentences[turn % len(sentences)]
        log.clear()
        seen = len(call.events)
        left_s = await call.microphone.say(sentence)
        stopped = await call.until("input_audio_buffer.speech_stopped", seen)
        await call.until("output_audio_buffer.stopped", seen)
        first_s = log.first_speaking_s(stopped.at_s - 0.2)
        if first_s is None:
            raise RuntimeError("a turn was answered, but no speaking picture came")
        from_vad_s.append(first_s - stopped.at_s)
        from_voice_s.append(first_s - left_s - len(sentence) / 48_000)
    return from_vad_s, from_voice_s


async def barge_ins(call: RealtimeCall, log: Log, number: int) -> tuple[list[float], list[float]]:
    """Measure from the onset of the user's speech to the last voiced sound and the last speaking picture."""
    sentences: list[Int16] = [spoken(text) for text in INTERRUPTIONS]
    assert call.microphone is not None
    sound_s, picture_s = [], []
    story = "This is a long answer, which goes on and on, so that somebody may break into it. " * 4
    for turn in range(number):
        seen = len(call.events)
        call.type_text(story)
        await call.until("output_audio_buffer.started", seen)
        await asyncio.sleep(0.6 + 0.3 * random.random())
        log.clear()
        onset_s = await call.microphone.say(sentences[turn % len(sentences)])
        await call.until("output_audio_buffer.cleared", seen)
        await asyncio.sleep(0.3)
        sound_s.append(log.last_voiced_s(onset_s) - onset_s)
        picture_s.append(log.last_speaking_s(onset_s) - onset_s)
        # The interruption is a turn of its own; its echo is waited out.
        seen = len(call.events)
        await call.until("output_audio_buffer.stopped", seen)
    return sound_s, picture_s


async def mints(url: str, number: int) -> list[float]:
    """Measure minting an ephemeral key over a warm connection."""
    values_s = []
    async with httpx.AsyncClient(base_url=url) as http:
        for turn in range(number + 3):
            asked_s = time.monotonic()
            answer = await http.post("/v1/realtime/client_secrets", json={"session": {"type": "realtime"}})
            answer.raise_for_status()
            if turn >= 3:
                values_s.append(time.monotonic() - asked_s)
    return values_s


async def answers(url: str, number: int) -> list[float]:
    """Measure the SDP answers of calls with microphone, picture and data channel."""
    values_s = []
    for turn in range(number + 3):
        async with calling(url) as call:
            if turn >= 3:
                values_s.append(call.answer_s)
    return values_s


async def bench(url: str, number: int) -> list[Row]:
    """Make all measurements."""
    rows = latency_rows("minting an ephemeral key", await mints(url, 2 * number), 50)
    rows += latency_rows("SDP answer of a call", await answers(url, number), 50)
    log = Log(read_tracer)
    receiver = Receiver(on_video=log.video, on_sound=log.sound)
    async with calling(url, receiver=receiver) as call:
        from_vad_s, from_voice_s = await loops(call, log, number)
        rows += latency_rows("voice loop: end of speech heard → first speaking frame", from_vad_s, 350)
        rows += latency_rows("voice loop: last voiced sample sent → first speaking frame", from_voice_s, None)
        sound_s, picture_s = await barge_ins(call, log, number)
        rows += latency_rows("barge-in: speech onset sent → last voiced sound", sound_s, 150)
        rows += latency_rows("barge-in: speech onset sent → last speaking frame", picture_s, None)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    parser.add_argument("--number", type=int, default=20, help="turns, interruptions and calls")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    freeze_heap()
    publish(asyncio.run(bench(options.url, options.number)), options.json)


if __name__ == "__main__":
    main()
