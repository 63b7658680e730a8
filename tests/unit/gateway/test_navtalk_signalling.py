from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import IceFailed, InvalidDescription, InvalidMessage
from serve_app.gateway.navtalk.messages import Answer, Candidate, Offer
from serve_app.gateway.navtalk.signalling import GLARE_PATIENCE_S, MAX_REOFFERS, Signalling
from serve_app.session.events import PeerChanged
from tests.fakes import ANSWER, OFFER, Call, FakeSessionLink
from tests.virtual_time import VirtualClock, run_virtual

pytestmark = pytest.mark.unit

ANSWER_S = 15.0
FAILED = PeerChanged("failed", "no pair worked")
SERVER_OFFER = {"type": "webrtc.signaling.offer", "data": {"sdp": {"type": "offer", "sdp": OFFER}}}
SERVER_ANSWER = {"type": "webrtc.signaling.answer", "data": {"sdp": {"type": "answer", "sdp": ANSWER}}}


def description(fingerprint: str, ufrag: str) -> str:
    return f"v=0\r\na=fingerprint:sha-256 {fingerprint}\r\na=ice-ufrag:{ufrag}\r\n"


MINE = Answer(description("AA:BB", "u1"))
RENEGOTIATED = Offer(description("aa:bb", "u1"))
RESTARTED = Offer(description("AA:BB", "u2"))
STRANGER = Offer(description("CC:DD", "u3"))

Scenario = Callable[[Signalling, FakeSessionLink], Awaitable[None]]


def play(scenario: Scenario) -> FakeSessionLink:
    link = FakeSessionLink()

    async def run(clock: VirtualClock) -> None:
        signalling = Signalling(link, clock, 4, ANSWER_S)
        assert await signalling.offer() == SERVER_OFFER
        await scenario(signalling, link)

    run_virtual(run)
    return link


async def take(signalling: Signalling, *signals: Answer | Offer | Candidate) -> list[dict[str, Any]]:
    told = []
    for signal in signals:
        signalling.take(signal)
        told += await signalling.step()
    return told


def test_a_client_answers_and_trickles() -> None:
    init: dict[str, object] = {"candidate": "candidate:1", "sdpMid": "0"}

    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        assert await take(signalling, Candidate(init), MINE, Candidate(None)) == []

    assert play(scenario).calls == [
        Call("offer"),
        Call("add_candidate", (init,)),
        Call("accept", (MINE.sdp,)),
        Call("add_candidate", (None,)),
    ]


def test_an_answer_to_nothing_is_refused() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        await take(signalling, MINE)
        with pytest.raises(InvalidMessage, match="nothing is offered"):
            await take(signalling, MINE)

    play(scenario)


def test_an_answer_that_cannot_be_used_may_be_followed_by_a_better_one() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        link.fail["accept"] = InvalidDescription("not SDP")
        with pytest.raises(InvalidDescription):
            await take(signalling, Answer("nonsense"))
        assert await take(signalling, MINE) == []

    play(scenario)


@pytest.mark.parametrize("offer", [RENEGOTIATED, STRANGER, Offer("v=0\r\n")])
def test_a_clients_offer_is_answered_by_a_new_peer(offer: Offer) -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        assert await take(signalling, MINE, offer) == [SERVER_ANSWER]

    assert play(scenario).calls[-1] == Call("answer", (offer.sdp,))


def test_a_restart_of_ice_is_met_with_an_offer_of_a_new_peer() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        assert await take(signalling, MINE, RESTARTED) == [SERVER_OFFER]
        # The client's new connection answers it.
        assert await take(signalling, Answer(description("EE:FF", "u9"))) == []

    assert play(scenario).names() == ["offer", "accept", "offer", "accept"]


def test_in_glare_the_servers_offer_stands() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        assert await take(signalling, STRANGER, MINE) == []
        # The client's offer was dropped: another one now is one of its own.
        assert await take(signalling, RENEGOTIATED) == [SERVER_ANSWER]

    assert play(scenario).names() == ["offer", "accept", "answer"]


def test_an_offer_that_waited_in_glare_is_answered_when_ours_is_not() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        assert await take(signalling, RENEGOTIATED, STRANGER) == []
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        assert await signalling.step() == [SERVER_ANSWER]
        assert loop.time() - start_s == pytest.approx(GLARE_PATIENCE_S)
        with pytest.raises(InvalidMessage, match="nothing is offered"):
            await take(signalling, MINE)

    assert play(scenario).calls == [Call("offer"), Call("answer", (STRANGER.sdp,))]


def test_signals_are_taken_while_an_offer_waits() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        await take(signalling, STRANGER)
        step = asyncio.ensure_future(signalling.step())
        await asyncio.sleep(1.0)
        signalling.take(MINE)
        assert await step == []

    assert play(scenario).names() == ["offer", "accept"]


def test_a_failed_peer_is_followed_by_a_new_offer_a_few_times() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        for _ in range(MAX_REOFFERS):
            await take(signalling, MINE)
            signalling.peer_changed(FAILED)
            assert await signalling.step() == [SERVER_OFFER]
        await take(signalling, MINE)
        signalling.peer_changed(FAILED)
        with pytest.raises(IceFailed, match="no pair worked; given up after 3 offers more"):
            await signalling.step()

    play(scenario)


def test_a_connection_forgives_earlier_failures() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        for _ in range(MAX_REOFFERS + 2):
            await take(signalling, MINE)
            signalling.peer_changed(PeerChanged("connected"))
            signalling.peer_changed(FAILED)
            assert await signalling.step() == [SERVER_OFFER]

    play(scenario)


def test_one_failure_that_both_sides_see_makes_one_offer() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        await take(signalling, MINE)
        assert await take(signalling, RESTARTED) == [SERVER_OFFER]
        signalling.peer_changed(FAILED)
        assert await signalling.step() == []

    assert play(scenario).names() == ["offer", "accept", "offer"]


def test_an_offer_that_nobody_answers_is_made_again() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        await asyncio.sleep(ANSWER_S)
        signalling.peer_changed(FAILED)
        assert await signalling.step() == [SERVER_OFFER]

    assert play(scenario).names() == ["offer", "offer"]


def test_signals_that_wait_are_counted() -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        for _ in range(4):
            signalling.take(Candidate(None))
        with pytest.raises(InvalidMessage, match="at most 4 waiting signals"):
            signalling.take(Candidate(None))

    play(scenario)


SIGNALS = st.sampled_from([MINE, RENEGOTIATED, RESTARTED, STRANGER, Candidate(None), FAILED])


@given(st.lists(SIGNALS, max_size=12))
def test_whatever_order_signals_come_in_at_most_one_offer_is_open(
    signals: list[Answer | Offer | Candidate | PeerChanged],
) -> None:
    async def scenario(signalling: Signalling, link: FakeSessionLink) -> None:
        for signal in signals:
            if isinstance(signal, PeerChanged):
                signalling.peer_changed(signal)
            else:
                signalling.take(signal)
            with contextlib.suppress(InvalidMessage, IceFailed):
                await signalling.step()

    names = [name for name in play(scenario).names() if name != "add_candidate"]

    settled = {"accept", "answer"}
    assert all(before in settled for before, name in itertools.pairwise(names) if name == "offer")
