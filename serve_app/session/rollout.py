"""Which configuration counts while gateways of two run side by side, as they do in every redeploy."""

from __future__ import annotations

from serve_app.config import AppConfig


class Rollout:
    """Numbers the configurations that gateways bring; the newest counts, whoever speaks last.

    A gateway that starts brings no number and is given one; with it the gateway tells again and again what it
    was started with. So one that drains changes nothing any more, and a registry that restarts learns from
    those that run which configuration is the newest.

    Args:
        config: what counts until a gateway has told.
    """

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self._number = 0

    def take(self, config: AppConfig, number: int | None, now_ms: int) -> int:
        """Take what a gateway tells.

        Args:
            config: what it was started with.
            number: what this returned to it before; None from a gateway that starts.
            now_ms: POSIX time: later than all numbers that a registry before this one gave.

        Returns:
            The number of `config`.
        """
        if number is None:
            if self._number and config == self.config:
                return self._number
            number = max(self._number + 1, now_ms)
        if number > self._number:
            self._number, self.config = number, config
        return number
