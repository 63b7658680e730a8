"""How many session hosts there should be. Pure: the registry starts them and lets them go."""

from __future__ import annotations

import math

from serve_app.clock import Clock
from serve_app.config import SessionConfig


def hosts_for(sessions: int, limits: SessionConfig) -> int:
    """Return how many hosts hold `sessions` and keep the spare places free, within the configured bounds."""
    spare = limits.spare_places if limits.is_elastic else 0
    wanted = math.ceil((sessions + spare) / limits.max_sessions_per_host)
    return min(max(wanted, limits.hosts), limits.most_hosts)


class PoolSize:
    """Follows the sessions: up at once, down when fewer hosts would have done for a while.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._size = 0
        self._enough_since_s: float | None = None
        self._highest = 0

    def wanted(self, sessions: int, limits: SessionConfig, *, is_short: bool = False) -> int:
        """Return how many hosts there should be now.

        Args:
            sessions: that run or are about to begin.
            limits: the bounds, and for how long fewer must do.
            is_short: whether a session found no room though places are free: its hosts' encoders are busy.
        """
        now_s = self._clock.now_s()
        need = hosts_for(sessions, limits)
        if is_short and limits.is_elastic:
            need = min(max(need, self._size + 1), limits.most_hosts)
        if need >= self._size:
            self._size, self._enough_since_s = need, None
        elif self._enough_since_s is None:
            self._enough_since_s, self._highest = now_s, need
        else:
            self._highest = max(self._highest, need)
            if now_s - self._enough_since_s >= limits.shrink_after_s:
                self._size, self._enough_since_s = self._highest, None
        return min(max(self._size, limits.hosts), limits.most_hosts)
