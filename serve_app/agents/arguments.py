"""Arguments for a function, made from its JSON schema alone: what a caller without a language model sends.

Schemas come from clients and are often malformed (`"properties": []`, no parameters at all); whatever
stands there, the result is a JSON object. Regular expressions of schemas (`pattern`) are not looked at:
running a stranger's expression could hold up the process.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_VALUES = 200
"""Schemas that are looked at for one call's arguments; what they ask for beyond that becomes null."""

MAX_DEPTH = 8
MAX_GIVEN_CHARS = 10_000
"""Longest `default`, `const`, `enum` or `examples` value, as JSON, that is taken over."""

MAX_TEXT_CHARS = 1_000
MAX_ELEMENTS = 16
_MAX_NUMBER = 1e15
"""Limits beyond this are not kept: floats are no longer exact there."""

_FORMATS = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "email": "user@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org/",
    "uri-reference": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def arguments_for(parameters: object, text: str = "", given: dict[str, Any] | None = None) -> str:
    """Return arguments that satisfy a function's schema, as a JSON object in text.

    Every required property gets its `const`, `default`, first `enum` or first `examples` value, or else a
    value of its type within its limits.

    Args:
        parameters: the function's JSON schema (draft 2020-12), or whatever a client sent in its place.
        text: taken for strings where it fits their limits.
        given: values that are already known; they replace those that would be made.
    """
    builder = _Builder(parameters if isinstance(parameters, dict) else {}, text)
    return json.dumps(builder.arguments() | (given or {}), ensure_ascii=False)


class _Builder:
    def __init__(self, root: dict[str, Any], text: str) -> None:
        self._root = root
        self._text = text
        self._left = MAX_VALUES

    def arguments(self) -> dict[str, Any]:
        return self._object(self._resolve(self._root, 0), 0)

    def _value(self, schema: object, depth: int) -> object:
        if self._left <= 0 or depth > MAX_DEPTH:
            return None
        resolved = self._resolve(schema, depth)
        for known in _given(resolved):
            return known
        kind = _type_of(resolved)
        if kind == "object":
            return self._object(resolved, depth)
        if kind == "array":
            return self._array(resolved, depth)
        if kind in ("integer", "number"):
            return _number(resolved, whole=kind == "integer")
        return {"boolean": True, "null": None}.get(kind, self._string(resolved))

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        others = schema.get("additionalProperties")
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        return {name: self._value(known.get(name, others), depth + 1) for name in names[:MAX_VALUES]}

    def _array(self, schema: dict[str, Any], depth: int) -> list[object]:
        least = _limit(schema, "minItems") or 0
        return [self._value(schema.get("items"), depth + 1) for _ in range(min(int(least), MAX_ELEMENTS))]

    def _string(self, schema: dict[str, Any]) -> str:
        least = min(int(_limit(schema, "minLength") or 0), MAX_TEXT_CHARS)
        most = min(int(_limit(schema, "maxLength") or MAX_TEXT_CHARS), MAX_TEXT_CHARS)
        kind = schema.get("format")
        if isinstance(kind, str) and kind in _FORMATS:
            return _FORMATS[kind]
        if self._text and least <= len(self._text) <= most:
            return self._text
        return "text".ljust(least, ".")[:most]

    def _resolve(self, schema: object, depth: int) -> dict[str, Any]:
        """Return the schema itself in place of references and alternatives to it."""
        self._left -= 1
        found = schema if isinstance(schema, dict) else {}
        for _ in range(MAX_DEPTH):
            if isinstance(found.get("$ref"), str):
                found = self._referred(found["$ref"])
            elif alternatives := _dicts(found.get("anyOf")) or _dicts(found.get("oneOf")):
                concrete = [one for one in alternatives if one.get("type") != "null"]
                found = _merged([_without(found, "anyOf", "oneOf"), (concrete or alternatives)[0]])
            elif (parts := _dicts(found.get("allOf"))) and depth <= MAX_DEPTH and self._left > 0:
                resolved = (self._resolve(part, depth + 1) for part in parts[:MAX_ELEMENTS])
                found = _merged([_without(found, "allOf"), *resolved])
            else:
                break
        return found

    def _referred(self, reference: str) -> dict[str, Any]:
        """Return what a local JSON pointer (RFC 6901) such as "#/$defs/place" stands for."""
        found: object = self._root
        for name in reference.removeprefix("#").split("/")[1:]:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found if isinstance(found, dict) and found is not self._root else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}


def _merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        for key, value in schema.items():
            before = merged.get(key)
            if isinstance(before, dict) and isinstance(value, dict):
                merged[key] = before | value
            elif isinstance(before, list) and isinstance(value, list):
                merged[key] = (before + value)[:MAX_VALUES]
            else:
                merged[key] = value
    return merged


def _given(schema: dict[str, Any]) -> list[object]:
    """Return the value that the schema itself names, if it names one: a list of none or one."""
    named = [schema[key] for key in ("const", "default") if key in schema]
    for key in ("enum", "examples"):
        values = schema.get(key)
        named += values[:1] if isinstance(values, list) else []
    return [value for value in named if _is_json(value)][:1]


def _is_json(value: object) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= MAX_GIVEN_CHARS
    except (ValueError, TypeError, RecursionError):
        return False


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    kinds = [one for one in kind if isinstance(one, str)] if isinstance(kind, list) else [kind]
    named = next((one for one in kinds if isinstance(one, str) and one != "null"), None)
    if named is not None:
        return named
    if kinds == ["null"]:
        return "null"
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _limit(schema: dict[str, Any], key: str) -> float | None:
    """Return a numeric keyword's value; None when it is not there or cannot be kept."""
    value = schema.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
        return None
    return value


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    step = _limit(schema, "multipleOf") or 0
    low, high = _limit(schema, "minimum"), _limit(schema, "maximum")
    above, below = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
    grain: float = step if step > 0 else 1 if whole else 0
    value: float = 1
    if high is not None:
        value = min(value, high)
    if below is not None and value >= below:
        value = below - (grain or 1)
    if low is not None:
        value = max(value, low)
    if above is not None and value <= above:
        value = above + (grain or 1)
        if not grain and below is not None and value >= below:
            value = (above + below) / 2
    if grain:
        value = math.ceil(value / grain) * grain
        bound = min((limit for limit in (high, below) if limit is not None), default=math.inf)
        if value > bound or value == below:
            value -= grain
    return int(value) if float(value).is_integer() else value
