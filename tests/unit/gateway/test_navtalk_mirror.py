from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidAudio, InvalidMessage, SpeechOverrun
from serve_app.gateway.navtalk.messages import CallOutput, ClientEvent, Say, Settings
from serve_app.gateway.navtalk.mirror import Mirror
from serve_app.session.events import PeerChanged, UtteranceCompleted
from tests.fakes import FakeSessionLink
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

SILENCE_S = 0.5


def event(kind: str, **fields: object) -> ClientEvent:
    return ClientEvent({"type": kind, **fields})


def append(sound: bytes) -> ClientEvent:
    return event("input_audio_buffer.append", audio=base64.b64encode(sound).decode())


Scenario = Callable[[Mirror, FakeSessionLink, VirtualClock], Awaitable[None]]


def play(scenario: Scenario) -> FakeSessionLink:
    """Run a scenario in virtual time, with the lane that ends utterances beside it."""
    link = FakeSessionLink()

    async def run(clock: VirtualClock) -> None:
        mirror = Mirror(link, clock, SILENCE_S)
        lane = asyncio.ensure_future(mirror.end_by_silence())
        await scenario(mirror, link, clock)
        lane.cancel()

    run_virtual(run)
    return link


def test_exactly_the_sound_that_came_is_spoken() -> None:
    samples = np.arange(-1_536, 1_536, dtype="<i2")
    sound = samples.tobytes()

    async def scenario(mirror: Mirror, link: FakeSessionLink, clock: VirtualClock) -> None:
        for start in range(0, len(sound), 1_023):
            await mirror.receive(append(sound[start : start + 1_023]))

    [utterance] = play(scenario).utterances

    assert utterance.hz == 24_000
    assert np.array_equal(np.concatenate(utterance.pieces), samples)
    assert not utterance.ended


def test_an_utterance_ends_when_no_sound_comes() -> None:
    async def scenario(mirror: Mirror, link: FakeSessionLink, clock: VirtualClock) -> None:
        await mirror.receive(append(bytes(480)))
        await clock.sleep_until(0.4)
        await mirror.receive(append(bytes(480)))
        for when_s in (0.89, 0.91):
            await clock.sleep_until(when_s)
            ended.append(link.utterances[0].ended)
        await mirror.receive(append(bytes(480)))

    ended: list[bool] = []
    link = play(scenario)

    assert ended == [False, True]
    assert [utterance.client_index for utterance in link.utterances] == [0, 1]


@pytest.mark.parametrize("kind", ["input_audio_buffer.commit", "response.create"])
def test_a_client_ends_an_utterance(kind: str) -> None:
    async def scenario(mirror: Mirror, link: FakeSessionLink, clock: VirtualClock) -> None:
        await mirror.receive(event(kind))
        await mirror.receive(append(bytes(480)))
        await mirror.receive(event(kind))

    [utterance] = play(scenario).utterances

    assert utterance.ended


@pytest.mark.parametrize("kind", ["input_audio_buffer.clear", "output_audio_buffer.clear", "response.cancel"])
def test_a_client_interrupts(kind: str) -> None:
    async def scenario(mirror: Mirror, link: FakeSessionLink, clock: VirtualClock) -> None:
        await mirror.receive(append(bytes(480)))
        await mirror.receive(event(kind))
        await mirror.receive(append(bytes(480)))

    link = play(scenario)

    assert link.names() == ["interrupt"]
    assert len(link.utterances) == 2


async def test_what_sdks_send_whatever_the_model_is_taken_in_silence() -> None:
    link = FakeSessionLink()
    mirror = Mirror(link, VirtualClock(), SILENCE_S)

    for message in (
        Settings({"voice": "cedar"}),
        event("session.update", session={}),
        event("conversation.item.create", item={}),
        CallOutput("c", "42"),
        Say({"type": "message"}, reply=False),
    ):
        assert await mirror.receive(message) == []
    assert link.utterances == []


async def test_a_question_has_nobody_to_answer_it() -> None:
    with pytest.raises(InvalidMessage, match="nobody answers"):
        await Mirror(FakeSessionLink(), VirtualClock(), SILENCE_S).receive(Say({}, reply=True))


async def test_sound_that_is_not_base64_is_refused() -> None:
    mirror = Mirror(FakeSessionLink(), VirtualClock(), SILENCE_S)

    with pytest.raises(InvalidAudio, match="expected base64"):
        await mirror.receive(event("input_audio_buffer.append", audio="???"))


async def test_sound_that_finds_no_room_is_told_and_the_utterance_goes_on() -> None:
    link = FakeSessionLink()
    mirror = Mirror(link, VirtualClock(), SILENCE_S)
    link.fail["feed"] = SpeechOverrun("too much", 1.0)

    with pytest.raises(SpeechOverrun):
        await mirror.receive(append(bytes(480)))
    await mirror.receive(append(bytes(480)))

    assert len(link.utterances) == 1
    assert link.utterances[0].num_samples == 240


def test_the_opening_opens_a_clients_microphone() -> None:
    assert [told["type"] for told in Mirror(FakeSessionLink(), VirtualClock(), SILENCE_S).opening()] == [
        "realtime.session.created",
        "realtime.session.updated",
    ]


def test_the_end_of_an_utterance_is_told() -> None:
    mirror = Mirror(FakeSessionLink(), VirtualClock(), SILENCE_S)

    told = mirror.tell(UtteranceCompleted(0, 1, 2.0, interrupted=False, recording=None))

    assert told == [{"type": "realtime.response.audio.done", "data": {"id": "1"}}]
    assert mirror.tell(PeerChanged("connected")) == []


@given(st.lists(st.text() | st.binary(max_size=64).map(lambda sound: base64.b64encode(sound).decode())))
def test_whatever_sound_arrives_is_spoken_or_refused(pieces: list[str]) -> None:
    async def scenario(mirror: Mirror, link: FakeSessionLink, clock: VirtualClock) -> None:
        for piece in pieces:
            with contextlib.suppress(InvalidAudio):
                await mirror.receive(event("input_audio_buffer.append", audio=piece))

    play(scenario)
