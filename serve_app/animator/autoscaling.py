"""How many Animator replicas the sessions need. Runs inside Serve's controller: pure and fast."""

from __future__ import annotations

import math
from typing import Any


def replicas_for(sessions: float, sessions_per_replica: int) -> int:
    """Return the replicas that carry `sessions` speaking sessions; at least 1."""
    return max(1, math.ceil(sessions / sessions_per_replica))


class SessionsPolicy:
    """Scales on the sessions each replica saw lately, not on sampled ongoing calls.

    A session's windows are spread over all replicas, so each replica sees nearly every session: the count
    to go by is the largest one, not the sum.

    Args:
        sessions_per_replica: speaking sessions one replica carries.
    """

    def __init__(self, sessions_per_replica: int) -> None:
        self._sessions_per_replica = sessions_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - Serve's AutoscalingContext
        """Return the wanted number of replicas; Serve applies its bounds and delays to it."""
        seen = (context.aggregated_metrics or {}).get("sessions") or {}
        return replicas_for(max(seen.values(), default=0.0), self._sessions_per_replica), {}
