"""On which nodes session hosts run."""

from __future__ import annotations

from typing import Any

from serve_app.config import SessionConfig


def scheduling_of(session: SessionConfig) -> dict[str, Any]:
    """Return the Ray actor options by which hosts prefer the nodes with the configured labels.

    Where none of those has room a host starts elsewhere: a session with a longer way is better than none.
    What hosts must have, a node with open UDP ports say, is a custom resource (`host_resources`).
    """
    if not session.host_labels:
        return {}
    return {"label_selector": session.host_labels, "fallback_strategy": [{"label_selector": {}}]}
