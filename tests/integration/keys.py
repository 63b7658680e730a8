"""API keys of the server that the doors are tested on."""

from __future__ import annotations

import hashlib
from typing import Any

ADA = "key-of-ada-0123456789"
"""May do everything."""

BOB = "key-of-bob-0123456789"
"""May do everything as well, with sessions of its own."""

ONE = "key-of-one-0123456789"
"""May have one session at a time."""

BRIEF, BRIEF_S = "key-of-brief-0123456789", 4.0
"""Has sessions of BRIEF_S seconds."""

SPENT, SPENT_S = "key-of-spent-0123456789", 1.2
"""Has a few seconds of sessions in a month."""


SECRETS = {
    "AVATAR_SESSION_SECRET": "a secret of a server that lives as long as its tests",
    "LIVEKIT_URL": "ws://127.0.0.1:9",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "a secret of a LiveKit server that is not there",
}
"""The server's own, which come in its environment: Serve writes the arguments of a file into its log."""


def auth() -> dict[str, Any]:
    """Return the configuration that knows these keys."""
    return {
        "keys": [
            _key("ada", ADA),
            _key("bob", BOB),
            _key("one", ONE, max_concurrent=1),
            _key("brief", BRIEF, max_duration_s=BRIEF_S),
            _key("spent", SPENT, minutes=SPENT_S / 60),
        ],
    }


def _key(name: str, key: str, **limits: float) -> dict[str, Any]:
    return {"id": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **limits}
