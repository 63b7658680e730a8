"""Watches that secrets stay out of what people and log files see."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest


class NeverShown:
    """Secrets, and the texts in which they must not stand.

    Args:
        *secrets: what nobody may see.
    """

    def __init__(self, *secrets: str) -> None:
        assert all(len(secret) >= 6 for secret in secrets), "shorter ones are found anywhere by chance"
        self._secrets = secrets

    def check(self, *shown: object) -> None:
        """Fail when a secret stands in the text or representation of something, or of an error's causes."""
        for thing in shown:
            texts = [text for one in _with_causes(thing) for text in (str(one), repr(one))]
            found = [number for number, secret in enumerate(self._secrets) if any(secret in t for t in texts)]
            # Not the text itself: a failing test is shown as well.
            assert not found, f"secrets number {found} stand in a {type(thing).__name__}"

    @contextlib.contextmanager
    def in_logs(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """Fail when a secret reaches a log line of any level within the block, or an error that leaves it."""
        with caplog.at_level(logging.DEBUG):
            try:
                yield
            except Exception as error:
                self.check(error)
                raise
            finally:
                self.check(caplog.text)


def _with_causes(thing: object) -> Iterator[object]:
    yield thing
    while isinstance(thing, BaseException) and (before := thing.__cause__ or thing.__context__):
        yield before
        thing = before
