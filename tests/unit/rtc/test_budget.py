import pytest

from serve_app.rtc.budget import Budget

pytestmark = pytest.mark.unit


def test_a_burst_is_earned_back_at_the_rate() -> None:
    budget = Budget(10, 30, now_s=5.0)
    assert budget.allows(30, 5.0)
    budget.spend(30)
    assert not budget.allows(1, 5.0)
    assert budget.allows(10, 6.0)
    assert not budget.allows(11, 6.0)


def test_more_than_the_burst_is_never_saved_up() -> None:
    budget = Budget(10, 30, now_s=0.0)
    assert budget.allows(30, 1000.0)
    assert not budget.allows(31, 2000.0)


def test_a_debt_has_to_be_paid() -> None:
    budget = Budget(10, 30, now_s=0.0)
    budget.spend(50)
    assert not budget.allows(1, 2.0)
    assert budget.allows(1, 2.1)


def test_a_debt_says_how_long_it_takes_to_pay() -> None:
    budget = Budget(10, 30, now_s=0.0)
    assert budget.wait_s(0.0) == 0.0
    budget.spend(50)
    assert budget.wait_s(0.5) == pytest.approx(1.5)
    assert budget.wait_s(3.0) == 0.0


def test_another_rate_keeps_what_is_owed() -> None:
    budget = Budget(10, 30, now_s=0.0)
    budget.spend(50)
    budget.change(5, 15, now_s=1.0)
    assert budget.wait_s(1.0) == pytest.approx(2.0)
    assert not budget.allows(16, 1000.0)
