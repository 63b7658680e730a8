"""Conversations as text: what was emitted, with ids by the order they appear in, for golden files."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

_ID = re.compile(r"\b(item|resp|conv|call|event)_[0-9a-f]{20}\b")


def transcript_of(events: list[dict[str, Any]]) -> list[str]:
    """Return one line of JSON for each event: everything but event ids, times and sound itself."""
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        kind = match[1]
        known = sum(value.startswith(kind) for value in names.values())
        return names.setdefault(match[0], f"{kind}_{known + 1}")

    return [_ID.sub(name, json.dumps(_short(event))) for event in events]


def _short(event: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in event.items() if key not in ("event_id", "response", "session")}
    if event["type"] in ("response.output_audio.delta", "response.audio.delta"):
        shown["delta"] = f"{len(base64.b64decode(event['delta']))} bytes"
    if "response" in event:
        kept = ("id", "status", "status_details", "conversation_id", "metadata", "output")
        shown["response"] = {key: event["response"][key] for key in kept}
        shown["response"]["output"] = [item["id"] for item in event["response"]["output"]]
    if "session" in event:
        shown["session"] = sorted(event["session"])
    return shown
