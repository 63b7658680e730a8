"""How much of something may be sent: a rate, and a burst on top."""

from __future__ import annotations


class Budget:
    """A leaky bucket in any unit.

    Args:
        rate_per_s: what may be spent each second for good.
        burst: what may be spent at once.
        now_s: the present time.
    """

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left = burst
        self._seen_s = now_s

    def allows(self, amount: float, now_s: float) -> bool:
        """Return whether `amount` may be spent now; spends nothing."""
        self._earn(now_s)
        return amount <= self._left

    def wait_s(self, now_s: float) -> float:
        """Return how long it takes until all that was spent beyond the budget is earned back."""
        self._earn(now_s)
        return max(0.0, -self._left / self._rate_per_s)

    def change(self, rate_per_s: float, burst: float, now_s: float) -> None:
        """Go on at another rate; what is left stays, and so does what is owed."""
        self._earn(now_s)
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left = min(self._left, burst)

    def spend(self, amount: float) -> None:
        """Take `amount` out; what is spent beyond the budget has to be earned back."""
        self._left -= amount

    def _earn(self, now_s: float) -> None:
        self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._rate_per_s)
        self._seen_s = now_s
