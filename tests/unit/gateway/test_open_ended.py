"""Speech without an end marker becomes utterances."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.gateway.open_ended import PAUSE_S, TAIL_S, OpenEndedSpeech
from tests.fakes import FakeSessionLink
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

HZ = 16_000


def sound(seconds: float) -> np.ndarray:
    return np.ones(int(seconds * HZ), np.int16)


def test_live_chunks_are_one_utterance_until_the_client_pauses() -> None:
    async def scenario(clock: VirtualClock) -> None:
        link = FakeSessionLink()
        speech = OpenEndedSpeech(link, clock)
        running = asyncio.ensure_future(speech.run())
        for _ in range(50):
            speech.feed(sound(0.04), HZ)
            await asyncio.sleep(0.04)
        assert [utterance.ended for utterance in link.utterances] == [False]
        await asyncio.sleep(PAUSE_S)
        assert [utterance.ended for utterance in link.utterances] == [True]
        assert link.utterances[0].num_samples == 2 * HZ
        running.cancel()

    run_virtual(scenario)


def test_what_came_at_once_ends_just_before_it_has_been_played() -> None:
    async def scenario(clock: VirtualClock) -> None:
        link = FakeSessionLink()
        speech = OpenEndedSpeech(link, clock)
        running = asyncio.ensure_future(speech.run())
        speech.feed(sound(2.0), HZ)
        await asyncio.sleep(0.5)
        speech.feed(sound(1.0), HZ)
        await asyncio.sleep(2.5 - TAIL_S - 0.01)
        before = link.utterances[0].ended
        await asyncio.sleep(0.02)
        assert (before, link.utterances[0].ended) == (False, True)
        speech.feed(sound(1.0), HZ)
        assert [utterance.client_index for utterance in link.utterances] == [0, 1]
        running.cancel()

    run_virtual(scenario)


def test_another_rate_begins_another_utterance() -> None:
    async def scenario(clock: VirtualClock) -> None:
        link = FakeSessionLink()
        speech = OpenEndedSpeech(link, clock)
        speech.feed(sound(0.1), HZ)
        speech.feed(sound(0.1), 48_000)
        assert [(utterance.hz, utterance.ended) for utterance in link.utterances] == [
            (HZ, True),
            (48_000, False),
        ]

    run_virtual(scenario)


def test_an_interrupt_forgets_what_was_to_be_played() -> None:
    async def scenario(clock: VirtualClock) -> None:
        link = FakeSessionLink()
        speech = OpenEndedSpeech(link, clock)
        running = asyncio.ensure_future(speech.run())
        speech.feed(sound(60.0), HZ)
        speech.interrupted()
        await link.interrupt()
        speech.feed(sound(0.1), HZ)
        await asyncio.sleep(PAUSE_S + 0.01)
        assert link.utterances[1].ended
        running.cancel()

    run_virtual(scenario)


def test_an_end_is_taken_at_once_and_again_means_nothing() -> None:
    async def scenario(clock: VirtualClock) -> None:
        link = FakeSessionLink()
        speech = OpenEndedSpeech(link, clock)
        speech.feed(sound(0.1), HZ)
        speech.end()
        speech.end()
        assert [utterance.ended for utterance in link.utterances] == [True]

    run_virtual(scenario)
