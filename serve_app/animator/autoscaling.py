"""How many Animator replicas the sessions need. Runs inside Serve's controller: pure and fast."""

from __future__ import annotations

import math
from typing import Any


def replicas_for(sessions: float, sessions_per_replica: float) -> int:
    """Return the replicas that carry `sessions` speaking sessions; at least 1."""
    return max(1, math.ceil(sessions / max(1.0, sessions_per_replica)))


class SessionsPolicy:
    """Scales on the sessions each replica saw lately, not on sampled ongoing calls.

    A session's windows are spread over all replicas, so each replica sees nearly every session: the count
    to go by is the largest one, not the sum.

    Args:
        sessions_per_replica: speaking sessions one replica carries; None: what the replicas measured at
            their start, the least of them where their devices differ.
    """

    def __init__(self, sessions_per_replica: int | None) -> None:
        self._sessions_per_replica = sessions_per_replica

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - Serve's AutoscalingContext
        """Return the wanted number of replicas; Serve applies its bounds and delays to it."""
        metrics = context.aggregated_metrics or {}
        seen = max((metrics.get("sessions") or {}).values(), default=0.0)
        per_replica: float | None = self._sessions_per_replica
        if per_replica is None:
            measured = [value for value in (metrics.get("capacity") or {}).values() if value > 0]
            if not measured:
                # No replica has told yet: keep what there is.
                return max(1, int(context.target_num_replicas)), {}
            per_replica = min(measured)
        return replicas_for(seen, per_replica), {}
