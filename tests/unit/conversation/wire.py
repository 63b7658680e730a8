"""Checks server events against the types of the official `openai` package."""

from __future__ import annotations

import typing
from functools import cache
from typing import Any

import pydantic
from openai.types import beta, realtime
from openai.types.beta.realtime import RealtimeServerEvent as BetaEvent
from openai.types.realtime import RealtimeServerEvent as GaEvent

from serve_app.conversation.spec import Dialect

assert beta
assert realtime

EXTRAS = {
    "ga": {"session.id", "session.object", "session.expires_at", "response.status_details.error.message"},
    "beta": {
        "session.object",
        "session.expires_at",
        "response.status_details.error.message",
        "name",  # of function_call_arguments.done: AG2 needs it
    },
}
"""Fields that the real server sends too, but that the package's types do not have."""


@cache
def _types(dialect: Dialect) -> dict[str, type[pydantic.BaseModel]]:
    union = typing.get_args(GaEvent if dialect == "ga" else BetaEvent)[0]
    types = {}
    for model in typing.get_args(union):
        (name,) = typing.get_args(model.model_fields["type"].annotation)
        types[name] = model
    return types


def check_event(dialect: Dialect, event: dict[str, Any]) -> None:
    """Raise unless `event` is one of the dialect's, with all required fields and no foreign ones."""
    types = _types(dialect)
    assert event["type"] in types, f"{dialect} has no {event['type']}"
    model = types[event["type"]].model_validate(event)
    foreign = set(_foreign(model, ""))
    assert foreign <= EXTRAS[dialect], f"{event['type']}: {foreign - EXTRAS[dialect]} are not in the type"
    assert model.event_id.startswith("event_")  # type: ignore[attr-defined]


def _foreign(value: object, path: str) -> typing.Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}{name}"
        for name in type(value).model_fields:
            yield from _foreign(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, list):
        for element in value:
            yield from _foreign(element, path)
