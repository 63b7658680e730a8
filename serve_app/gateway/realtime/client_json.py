"""JSON from Realtime clients: objects only, and none that takes the event loop for long.

An append of 15 MiB of sound (20 MiB of base64) takes 18 ms to parse and 24 ms to count on one slow core, both
without releasing the interpreter, so that a thread would not help. 15 MiB of `[],` would take 2.4 s, which
is why brackets and commas are counted first.
"""

from __future__ import annotations

import json
from typing import Any

from serve_app.conversation.faults import kind_of
from serve_app.gateway.realtime.errors import refused

MAX_BRACKETS = 100_000
"""Brackets, braces and commas of one text; base64, which fills big events, has none."""

SMALL_CHARS = 16_384


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        RealtimeRefused: status 400: it is not JSON (RFC 8259), no object, or too intricate.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise refused(
                400, f"expected UTF-8, found byte {error.start} outside it", "invalid_json"
            ) from None
    if len(text) > SMALL_CHARS and _brackets(text) > MAX_BRACKETS:
        message = f"expected at most {MAX_BRACKETS} brackets, braces and commas in one text, found more"
        raise refused(400, message, "invalid_json")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # A JSONDecodeError's text tells where, never what.
        where = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
        raise refused(400, f"expected JSON, found something else{where}", "invalid_json") from None
    if not isinstance(value, dict):
        raise refused(400, f"expected a JSON object, found {kind_of(value)}", "invalid_json")
    if ("\\ud" in text or "\\uD" in text) and not _is_unicode(value):
        raise refused(400, "expected Unicode, found half of a surrogate pair", "invalid_json")
    return value


def _brackets(text: str) -> int:
    return text.count("[") + text.count("{") + text.count(",")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_unicode(value: dict[str, Any]) -> bool:
    """Return whether the value can be told on: JSON's escapes can name what UTF-8 cannot hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
