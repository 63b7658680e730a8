"""What a client is told when its event cannot be used: the `error` object of OpenAI Realtime.

Codes and sentences are OpenAI's where clients match on them (protocols 4.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.errors import ClientError

_SHOWN_CHARS = 64


class RealtimeFault(ClientError):
    """A client event, or session settings, that cannot be used; nothing of it was done.

    Args:
        type: class of the error, mostly "invalid_request_error".
        code: stable name.
        message: what was expected and what was found.
        param: path of the field at fault, such as "session.audio.input.format".

    Attributes:
        type: as given.
        code: as given.
        message: as given.
        param: as given.
    """

    def __init__(self, type: str, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.code = code
        self.message = message
        self.param = param

    def error(self, event_id: str | None = None) -> dict[str, Any]:
        """Return the `error` object of an `error` event; `event_id` is that of the client's event."""
        return {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id,
        }


def invalid(code: str, message: str, param: str | None = None) -> RealtimeFault:
    """Return the fault of a request that cannot be used."""
    return RealtimeFault("invalid_request_error", code, message, param)


def missing(param: str) -> RealtimeFault:
    """Return the fault of a required field that is not there."""
    return invalid("missing_required_parameter", f"Missing required parameter: '{param}'.", param)


def unknown(param: str) -> RealtimeFault:
    """Return the fault of a field that does not exist."""
    return invalid("unknown_parameter", f"Unknown parameter: '{param}'.", param)


def wrong_type(param: str, expected: str, found: object) -> RealtimeFault:
    """Return the fault of a value that is of another JSON type than `expected` ("a string")."""
    return invalid(
        "invalid_type",
        f"Invalid type for '{param}': expected {expected}, but got {kind_of(found)} instead.",
        param,
    )


def wrong_value(param: str, found: object, supported: Sequence[str]) -> RealtimeFault:
    """Return the fault of a value that is none of those supported."""
    names = ", ".join(f"'{name}'" for name in supported)
    return invalid(
        "invalid_value", f"Invalid value: '{_shown(found)}'. Supported values are: {names}.", param
    )


def too_long(param: str, kind: str, most: int, found: int) -> RealtimeFault:
    """Return the fault of a string or array with more than `most` characters or elements."""
    return invalid(
        f"{kind}_above_max_length",
        f"Invalid '{param}': {kind} too long. Expected at most {most}, but got {found} instead.",
        param,
    )


def out_of_range(param: str, kind: str, low: float, high: float, found: float) -> RealtimeFault:
    """Return the fault of a number outside `low` to `high`; `kind` is "integer" or "decimal"."""
    below = found < low
    return invalid(
        f"{kind}_{'below_min' if below else 'above_max'}_value",
        f"Invalid '{param}': {kind} {'below minimum' if below else 'above maximum'} value. "
        f"Expected a value {f'>= {low:g}' if below else f'<= {high:g}'}, but got {found:g} instead.",
        param,
    )


def kind_of(value: object) -> str:
    """Return the name of a JSON value's type with its article."""
    if value is None:
        return "null"
    for type_, name in _KINDS:
        if isinstance(value, type_):
            return name
    return f"a {type(value).__name__}"


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a decimal"),
    (list, "an array"),
    (dict, "an object"),
)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
