"""Time that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class Now:
    """POSIX time that stands still until a test moves it."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at
