"""The wire itself: what it does to packets, without a namespace."""

from __future__ import annotations

import pytest

from tests.network.wire import REORDER_S, Conditions, Direction

pytestmark = pytest.mark.network

SIZE = 1000


def arrivals(
    conditions: Conditions, *, seed: int = 1, count: int = 1000, gap_s: float = 0.01
) -> list[float | None]:
    """Return how long each of `count` packets takes, None for those that are lost."""
    direction = Direction(seed)
    direction.conditions = conditions
    took: list[float | None] = []
    for n in range(count):
        arrival_s = direction.arrival_s(SIZE, n * gap_s)
        took.append(None if arrival_s is None else arrival_s - n * gap_s)
    return took


def test_a_seed_decides_what_is_lost() -> None:
    conditions = Conditions(loss=0.1, jitter_s=0.05)
    assert arrivals(conditions, seed=3) == arrivals(conditions, seed=3)
    assert arrivals(conditions, seed=3) != arrivals(conditions, seed=4)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.1, 1.0])
def test_the_share_that_is_lost_is_the_one_asked_for(loss: float) -> None:
    lost = arrivals(Conditions(loss=loss), count=20_000).count(None)
    assert lost / 20_000 == pytest.approx(loss, abs=0.01)


def test_jitter_makes_packets_later_up_to_its_bound() -> None:
    took = [took_s for took_s in arrivals(Conditions(delay_s=0.01, jitter_s=0.1)) if took_s is not None]
    assert min(took) == pytest.approx(0.01, abs=0.005)
    assert max(took) == pytest.approx(0.11, abs=0.005)


def test_reordered_packets_come_after_their_followers() -> None:
    took = arrivals(Conditions(delay_s=0.0, reordered=0.2))
    late = [took_s for took_s in took if took_s]
    assert len(late) == pytest.approx(200, abs=40)
    assert all(took_s == pytest.approx(REORDER_S) for took_s in late)


def test_a_rate_lets_so_much_through_and_queues_no_longer_than_it_says() -> None:
    took = arrivals(Conditions(delay_s=0.0, rate_bps=400_000, queue_s=0.2))
    passed = [took_s for took_s in took if took_s is not None]
    assert len(passed) * SIZE * 8 / 10 == pytest.approx(400_000, rel=0.05)
    assert max(passed) == pytest.approx(0.22, abs=0.021)
