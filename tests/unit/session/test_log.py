from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import EventsLost
from serve_app.session.events import PeerChanged, SessionEvent, UtteranceStarted
from serve_app.session.log import KEPT_EVENTS, EventLog

pytestmark = pytest.mark.unit


async def test_reader_gets_what_it_has_not_read() -> None:
    log = EventLog()
    events: list[SessionEvent] = [UtteranceStarted(number, number) for number in range(3)]
    for event in events:
        log.append(event)
    assert await log.read(1, 1.0) == (3, events[1:])


async def test_event_is_untold_until_a_reader_asks_for_the_one_after_it() -> None:
    log = EventLog()
    log.append(UtteranceStarted(0, 0))
    following, _ = await log.read(0, 1.0)
    assert log.next_untold == 0
    log.append(UtteranceStarted(1, 1))
    await log.read(following, 1.0)
    assert log.next_untold == 1


async def test_reader_waits_for_the_next_event() -> None:
    log = EventLog()
    reading = asyncio.create_task(log.read(0, 5.0))
    await asyncio.sleep(0)
    log.append(PeerChanged("connected"))
    assert await reading == (1, [PeerChanged("connected")])


async def test_reader_returns_empty_after_its_time_or_when_woken() -> None:
    log = EventLog()
    assert await log.read(0, 0.01) == (0, [])
    reading = asyncio.create_task(log.read(0, 60.0))
    await asyncio.sleep(0)
    log.wake()
    assert await reading == (0, [])


async def test_log_is_bounded_and_says_so_to_who_is_too_far_behind() -> None:
    log = EventLog()
    for number in range(KEPT_EVENTS + 10):
        log.append(UtteranceStarted(number, 0))
    following, events = await log.read(10, 1.0)
    assert (following, len(events)) == (KEPT_EVENTS + 10, KEPT_EVENTS)
    with pytest.raises(EventsLost, match="found one"):
        await log.read(9, 1.0)


async def test_reading_beside_the_owner_changes_nothing_for_a_takeover() -> None:
    log = EventLog()
    log.append(UtteranceStarted(0, 0))
    await log.read(1, 0.0, counts=False)
    assert (log.next_untold, log.next_number) == (0, 1)
