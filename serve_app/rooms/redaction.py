"""Keeps tokens and addresses of rooms out of errors and logs: the SDKs put both into what they say."""

from __future__ import annotations

import logging
import re

from serve_app.rooms.base import RoomSpec

MAX_CHARS = 300

_ADDRESS = re.compile(r"\b(?:wss?|https?|turns?|stuns?):/{0,2}[^\s\"'<>()\[\]{}\\]+", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}")
_QUERY = re.compile(r"(access_token|token|t)=[^\s&\"']+", re.IGNORECASE)


def redact(text: str, spec: RoomSpec | None = None) -> str:
    """Return what an SDK said without addresses and tokens, at most MAX_CHARS long.

    Args:
        text: an SDK's message.
        spec: the room it is about; its token and address go wherever they stand.
    """
    if spec is not None:
        for secret, name in ((spec.token, "<token>"), (spec.url, "<address>")):
            if secret:
                text = text.replace(secret, name)
    text = _ADDRESS.sub("<address>", text)
    text = _JWT.sub("<token>", text)
    text = _QUERY.sub(r"\1=<token>", text)
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


class RedactingFilter(logging.Filter):
    """Redacts every line of a logger that it is added to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the line; none is dropped."""
        record.msg, record.args = redact(record.getMessage()), None
        return True
