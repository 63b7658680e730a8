"""Reads an untrusted JSON object field by field, and names the path of whatever is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from serve_app.conversation import faults

Default = TypeVar("Default")

MAX_SMALL_CHARS = 1_024
MAX_JSON_CHARS = 65_536


class Fields:
    """One JSON object of a client.

    A field that is absent or null reads as its default.

    Args:
        value: what the client sent in its place.
        path: where it stands, such as "session.audio"; "" for a whole event.
        is_strict: whether `close` refuses fields that nobody asked for.

    Raises:
        RealtimeFault: it is not an object; every method that reads raises it for a field that is not as
            expected.
    """

    def __init__(self, value: object, path: str, *, is_strict: bool) -> None:
        if not isinstance(value, dict):
            raise faults.wrong_type(path, "an object", value)
        self._value: dict[str, Any] = value
        self._path = path
        self._read: set[str] = set()
        self.is_strict = is_strict

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        self._read.add(name)
        return self._value.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Return whether a field is there and null."""
        self._read.add(name)
        return name in self._value and self._value[name] is None

    def raw(self, name: str) -> object:
        """Return a field's value as it is; None when absent."""
        self._read.add(name)
        return self._value.get(name)

    def text(self, name: str, default: Default, *, most: int = MAX_SMALL_CHARS) -> str | Default:
        """Return a string of at most `most` characters."""
        if not self.has(name):
            return default
        value = self._value[name]
        if not isinstance(value, str):
            raise faults.wrong_type(self.at(name), "a string", value)
        if len(value) > most:
            raise faults.too_long(self.at(name), "string", most, len(value))
        return value

    def optional(self, name: str, *, most: int = MAX_SMALL_CHARS) -> str | None:
        """Return a string of at most `most` characters, None when it is absent or null."""
        return self.text(name, "", most=most) if self.has(name) else None

    def required(self, name: str, *, most: int = MAX_SMALL_CHARS) -> str:
        """Return a string that has to be there."""
        value = self.optional(name, most=most)
        if value is None:
            raise faults.missing(self.at(name))
        return value

    def choice(self, name: str, default: Default, supported: Sequence[str]) -> str | Default:
        """Return one of the `supported` strings."""
        if not self.has(name):
            return default
        value = self._value[name]
        if not isinstance(value, str):
            raise faults.wrong_type(self.at(name), "a string", value)
        if value not in supported:
            raise faults.wrong_value(self.at(name), value, supported)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        if not self.has(name):
            return default
        value = self._value[name]
        if not isinstance(value, bool):
            raise faults.wrong_type(self.at(name), "a boolean", value)
        return value

    def integer(self, name: str, default: Default, *, low: int, high: int) -> int | Default:
        """Return a whole number from `low` to `high`; 5.0 counts as whole, as in JSON Schema."""
        if not self.has(name):
            return default
        value = self._value[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise faults.wrong_type(self.at(name), "an integer", value)
        if not low <= value <= high:
            raise faults.out_of_range(self.at(name), "integer", low, high, _bounded(value))
        return value

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """Return a finite number from `low` to `high`."""
        if not self.has(name):
            return default
        value = self._value[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise faults.wrong_type(self.at(name), "a number", value)
        if not low <= value <= high:
            raise faults.out_of_range(self.at(name), "decimal", low, high, _bounded(value))
        return float(value)

    def object(self, name: str) -> Fields | None:
        """Return an object's fields, None when it is absent or null."""
        if not self.has(name):
            return None
        return Fields(self._value[name], self.at(name), is_strict=self.is_strict)

    def objects(self, name: str, *, most: int) -> list[Fields] | None:
        """Return the fields of each object in an array, None when it is absent or null."""
        values = self.array(name, most=most)
        if values is None:
            return None
        path = self.at(name)
        return [Fields(value, f"{path}[{i}]", is_strict=self.is_strict) for i, value in enumerate(values)]

    def array(self, name: str, *, most: int) -> list[Any] | None:
        """Return an array of at most `most` elements, None when it is absent or null."""
        if not self.has(name):
            return None
        values = self._value[name]
        if not isinstance(values, list):
            raise faults.wrong_type(self.at(name), "an array", values)
        if len(values) > most:
            raise faults.too_long(self.at(name), "array", most, len(values))
        return values

    def json(self, name: str, *, most: int = MAX_JSON_CHARS) -> dict[str, Any] | None:
        """Return an object whose fields are nobody's business here, of at most `most` characters of JSON."""
        if not self.has(name):
            return None
        value = self._value[name]
        if not isinstance(value, dict):
            raise faults.wrong_type(self.at(name), "an object", value)
        try:
            text = json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            message = (
                f"Invalid '{self.at(name)}': expected JSON, but got a number that is none, or endless depth."
            )
            raise faults.invalid("invalid_value", message, self.at(name)) from None
        if len(text) > most:
            raise faults.too_long(self.at(name), "string", most, len(text))
        copy: dict[str, Any] = json.loads(text)
        return copy

    def close(self) -> None:
        """Refuse what was not read, where strictness asks for that.

        Raises:
            RealtimeFault: a field does not exist.
        """
        if not self.is_strict:
            return
        for name in self._value:
            if name not in self._read:
                raise faults.unknown(self.at(str(name)[:MAX_SMALL_CHARS]))


def _bounded(value: float) -> float:
    """Return a number that can be printed: JSON's integers have no end, and NaN is below everything."""
    try:
        number = float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)
    return -math.inf if math.isnan(number) else number
